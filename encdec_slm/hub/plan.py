"""What a push would change on the Hub, known before anything is sent."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from encdec_slm.hub.checkpoint import ADAPTER_CONFIG, CONFIG
from encdec_slm.hub.contents import Contents


MAIN = "main"
CARD = "README.md"
Status = Literal["new", "changed", "unchanged", "deleted"]
# of a model; `from_pretrained` would read them before, or for, those that are pushed
_WEIGHTS = re.compile(
    r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|shard-[^/]*-model-[^/]*\.safetensors"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubState:
    """What is on the Hub where something is to be pushed.

    Attributes:
        head: The commit to push onto; None if there is no such repository, or none that the token may see.
        private: Whether the repository is private; None if there is none.
        has_branch: Whether the branch is there. A new one starts at `head`.
        files: The files of `head` by their paths.
    """

    head: str | None
    private: bool | None
    has_branch: bool
    files: Mapping[str, RepoFile]


@dataclass(frozen=True)
class PlannedFile:
    """What becomes of a file on the Hub.

    Attributes:
        path: Its path in the repository.
        size: Its size in bytes.
        status: What the push does to it.
        operation: The operation that does it. It remembers the hash of a large file, which takes its time.
    """

    path: str
    size: int
    status: Status
    operation: CommitOperationAdd | CommitOperationDelete = field(repr=False)


@dataclass(frozen=True)
class PushPlan:
    """What a push does; as a string, for people.

    Attributes:
        repo_id: The repository, with its namespace.
        revision: The branch.
        state: What is there now.
        files: The files that are pushed, and the weights of an older push that would be read in their place.
        written: Those of them that are not as in the model folder: code of this package, and what names it.
        left_out: What stays behind of the model folder.
        base_model: The repository of the base model, if an adapter is pushed.
    """

    repo_id: str
    revision: str
    state: HubState
    files: tuple[PlannedFile, ...]
    written: tuple[str, ...]
    left_out: tuple[str, ...]
    base_model: str | None

    @property
    def changes(self) -> tuple[PlannedFile, ...]:
        """The files that are not yet on the Hub as they should be."""
        return tuple(file for file in self.files if file.status != "unchanged")

    @property
    def is_done(self) -> bool:
        """Whether the Hub holds all of it already."""
        return not self.changes and self.state.has_branch

    def __str__(self) -> str:
        kind = f"adapter of {self.base_model}" if self.base_model else "model"
        place = "a new repository" if self.state.head is None else f"commit {self.state.head[:12]}"
        branch = self.revision if self.state.has_branch else f"{self.revision}, new"
        sent = sum(file.size for file in self.changes if file.status != "deleted")
        lines = [f"{kind} to {self.repo_id} (branch {branch}; onto {place})"]
        lines += [f"  {file.status:<9} {readable_size(file.size):>9}  {file.path}" for file in self.files]
        lines.append(
            f"  {len(self.changes)} of {len(self.files)} files to change, {readable_size(sent)} at most to send"
        )
        kept = sorted(self.state.files.keys() - {file.path for file in self.files} - {".gitattributes"})
        for title, names in (
            ("written for the push", self.written),
            ("left out of the folder", self.left_out),
            ("left alone on the Hub", kept),
        ):
            if names:
                lines.append(f"  {title}: {', '.join(names)}")
        return "\n".join(lines)


def readable_size(size: int) -> str:
    """Returns a number of bytes as a text, such as "664.1 MB".

    >>> readable_size(999), readable_size(664_084_480)
    ('999 B', '664.1 MB')
    """
    if size < 1000:
        return f"{size} B"
    number = float(size)
    for unit in ("kB", "MB", "GB", "TB"):
        number /= 1000
        if number < 999.95 or unit == "TB":
            break
    return f"{number:.1f} {unit}"


def hub_state(api: HfApi, repo_id: str, revision: str) -> HubState:
    """Returns what is on the Hub now. Nothing is changed there; a public or absent repository needs no token.

    Args:
        api: The client.
        repo_id: The repository, with its namespace.
        revision: The branch.

    Raises:
        ValueError: If the revision is a tag or a commit.
    """
    if _COMMIT.fullmatch(revision):
        raise ValueError(f"{revision} is a commit, which never changes: name a branch")
    try:
        info = api.repo_info(repo_id)
    except RepositoryNotFoundError:
        return HubState(head=None, private=None, has_branch=revision == MAIN, files={})
    head, has_branch = info.sha, True
    if revision != MAIN:
        refs = api.list_repo_refs(repo_id)
        if revision in {tag.name for tag in refs.tags}:
            raise ValueError(f"{revision} is a tag of {repo_id}: name a branch")
        branches = {branch.name: branch.target_commit for branch in refs.branches}
        head, has_branch = branches.get(revision, head), revision in branches
    return HubState(head=head, private=info.private, has_branch=has_branch, files=files_at(api, repo_id, head))


def files_at(api: HfApi, repo_id: str, commit: str | None) -> dict[str, RepoFile]:
    """Returns the files of a commit by their paths."""
    tree = api.list_repo_tree(repo_id, recursive=True, revision=commit)
    return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}


def plan_push(contents: Contents, repo_id: str, *, revision: str, state: HubState) -> PushPlan:
    """Returns what the push of these contents changes.

    Only a large file that is on the Hub with the same size is hashed for it. Files on the Hub that are none of ours
    are left alone; weights that `from_pretrained` would read in place of the new ones are deleted.

    Args:
        contents: What is pushed.
        repo_id: The repository, with its namespace.
        revision: The branch.
        state: What is there, from `hub_state`.

    Raises:
        ValueError: If an adapter would lie beside a model, or a model beside an adapter.
    """
    _refuse_mixture(contents, repo_id, state)
    additions = [CommitOperationAdd(path, contents.folder / path) for path in contents.files()]
    files = [
        PlannedFile(
            addition.path_in_repo, addition.upload_info.size, _status(addition, state.files), operation=addition
        )
        for addition in additions
    ]
    if contents.base_model is None:
        paths = {file.path for file in files}
        stale = [file for path, file in state.files.items() if _WEIGHTS.fullmatch(path) and path not in paths]
        files += [
            PlannedFile(file.path, file.size, "deleted", operation=CommitOperationDelete(file.path)) for file in stale
        ]
    return PushPlan(
        repo_id=repo_id,
        revision=revision,
        state=state,
        files=tuple(sorted(files, key=lambda file: file.path)),
        written=tuple(contents.written()),
        left_out=contents.left_out,
        base_model=contents.base_model,
    )


def _refuse_mixture(contents: Contents, repo_id: str, state: HubState) -> None:
    """Where both are, `from_pretrained` reads the adapter and the base that it names, whatever model is there."""
    pushed, other = ("model", ADAPTER_CONFIG) if contents.base_model is None else ("adapter", CONFIG)
    if other in state.files:
        there = "an adapter" if other == ADAPTER_CONFIG else "a model"
        raise ValueError(
            f"{repo_id} holds {there} ({other}), and who loads it would not get this {pushed} alone: push it to a "
            "repository of its own"
        )


def _status(addition: CommitOperationAdd, files: Mapping[str, RepoFile]) -> Status:
    there = files.get(addition.path_in_repo)
    if there is None:
        return "new"
    return "unchanged" if is_same(addition, there) else "changed"


def is_same(addition: CommitOperationAdd, there: RepoFile) -> bool:
    """Whether a file on the Hub has the content that is to be added."""
    if there.size != addition.upload_info.size:
        return False
    if there.lfs is not None:
        return addition.upload_info.sha256.hex() == there.lfs.sha256
    return git_hash(Path(str(addition.path_or_fileobj)).read_bytes()) == there.blob_id
