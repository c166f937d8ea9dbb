"""A checkpoint of the Hub or of this disk, fetched as one commit and checked. Nothing of it is run."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub import get_cached_repo_tree, is_offline_mode, resolve_revision, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    DryRunError,
    LocalEntryNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.utils.tqdm import tqdm

from encdec_slm.hub.checkpoint_files import (
    ADAPTER_WEIGHTS,
    MAX_FILE_BYTES,
    SMALL_FILES,
    WEIGHTS,
    Shapes,
    check_files,
    check_folder,
    file_sizes,
    first_weight_file,
    read_json_object,
    tensor_shapes,
    weight_files,
)
from encdec_slm.hub.code_files import CodeFile, CodeReference, code_files, code_references, code_table
from encdec_slm.hub.config_checks import check_adapter, check_numbers


CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
# what other tools keep below the top: exports, states of a training
NEVER_READ = ("*/*.json", "*/*.model", "*/*.safetensors")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Files that were fetched and checked.

    Attributes:
        name: Folder or Hub id.
        folder: Where the files lie.
        revision: The commit that all of them are of; `None` for a folder.
        code_revision: The commit that the code is of, if it was chosen apart.
        config: What `config.json` holds, or of an adapter `adapter_config.json`.
        shapes: Of the tensors of the weights.
        code_references: Every class that its configuration names.
        code_files: What would run for those who trust its code.
        base: Of an adapter, the model that it is for.
    """

    name: str
    folder: Path
    revision: str | None
    code_revision: str | None
    config: dict[str, Any] = field(repr=False)
    shapes: Shapes = field(repr=False)
    code_references: tuple[CodeReference, ...]
    code_files: tuple[CodeFile, ...]
    base: "Checkpoint | None" = None

    @property
    def with_base(self) -> "tuple[Checkpoint, ...]":
        """This checkpoint, and the base of an adapter."""
        return (self,) if self.base is None else (self, self.base)


@dataclass(frozen=True, kw_only=True)
class _Access:
    """How a repository is reached, and what is taken from it."""

    token: str | bool | None = field(repr=False)
    local_files_only: bool
    max_file_bytes: int


def fetch_checkpoint(
    name: str | PathLike[str],
    *,
    revision: str | None = None,
    code_revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> Checkpoint:
    """Fetches a checkpoint, with its base if it is an adapter, and checks all that can be known without running it.

    A branch is resolved once, and every file is of that commit. What the cache holds is not asked for again; without
    a connection the cache is used.

    Args:
        name: Folder or Hub id of a model, or of a LoRA adapter.
        revision: Branch, tag or commit of the repository, by default its main branch.
        code_revision: Branch, tag or commit from which the code files are read, of the repository that holds them.
        token: Of the Hub; by default the one that is logged in.
        local_files_only: Whether to look into the cache only.
        max_file_bytes: Largest size of a file that is no weights.

    Raises:
        OSError: If the repository cannot be reached, and the cache does not hold it.
        ValueError: If a file is refused.
    """
    access = _Access(token=token, local_files_only=local_files_only, max_file_bytes=max_file_bytes)
    checkpoint = _fetch(str(name), revision, code_revision, access)
    if not _is_adapter(checkpoint):
        return checkpoint
    base_name = checkpoint.config.get("base_model_name_or_path")
    if not isinstance(base_name, str) or not base_name:
        raise ValueError(f"the adapter {name} does not name its base: load the base, and the adapter onto it by PEFT")
    base_revision = checkpoint.config.get("revision")
    # the cache is a file system, in which a branch is a path
    if base_revision is not None and (not isinstance(base_revision, str) or ".." in base_revision):
        raise ValueError(
            f"the adapter {name} asks for its base at revision={base_revision!r}, which is no branch or tag"
        )
    base = _fetch(base_name, base_revision, code_revision, access)
    if _is_adapter(base):
        raise ValueError(f"the base of the adapter {name}, {base_name}, is an adapter itself: name its model there")
    return replace(checkpoint, base=base)


def checkpoint_report(checkpoint: Checkpoint) -> str:
    """Returns what was fetched, as lines for a reader: commit, folder, files, and the code with its SHA-256."""
    place = "" if checkpoint.revision is None else f" at commit {checkpoint.revision}"
    lines = [f"{checkpoint.name}{place}", f"folder: {checkpoint.folder}"]
    sizes = file_sizes(checkpoint.folder)
    width = max(map(len, sizes))
    lines += [f"{name:<{width}}  {size:>15,} bytes" for name, size in sizes.items()]
    if checkpoint.code_revision is not None:
        lines.append(f"code at {checkpoint.code_revision}")
    return "\n".join([*lines, code_table(checkpoint.code_files) if checkpoint.code_files else "no code"])


def _fetch(name: str, revision: str | None, code_revision: str | None, access: _Access) -> Checkpoint:
    folder, commit = Path(name), None
    if not folder.is_dir():
        folder, commit = _download(name, revision, (WEIGHTS, *SMALL_FILES), access)
    elif revision is not None:
        raise ValueError(f"revision={revision!r} was given, but {name} is a folder here, which has no revisions")
    check_folder(folder, max_file_bytes=access.max_file_bytes)
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    config = read_json_object(folder / (ADAPTER_CONFIG if is_adapter else CONFIG))
    first = ADAPTER_WEIGHTS if is_adapter else first_weight_file(folder, config)
    shapes = tensor_shapes(weight_files(folder, first, _listed(name, folder, commit)))
    (check_adapter if is_adapter else check_numbers)(config, shapes)
    # older releases of the library named their own repository too
    references = tuple(
        replace(reference, repository=None) if reference.repository == name else reference
        for reference in code_references(folder)
    )
    # an adapter is for a model, whose code may have a revision
    code_revision = None if is_adapter else code_revision
    code_folders = {} if code_revision is None else _code_folders(name, references, code_revision, access)
    return Checkpoint(
        name=name,
        folder=folder,
        revision=commit,
        code_revision=code_revision,
        config=config,
        shapes=shapes,
        code_references=references,
        code_files=code_files(references, folder, code_folders=code_folders),
    )


def _is_adapter(checkpoint: Checkpoint) -> bool:
    return (checkpoint.folder / ADAPTER_CONFIG).is_file()


def _code_folders(
    name: str, references: tuple[CodeReference, ...], code_revision: str, access: _Access
) -> dict[str | None, Path]:
    repositories = {reference.repository for reference in references}
    if not repositories:
        raise ValueError(f"code_revision={code_revision!r} was given, but {name} names no code")
    if None in repositories and Path(name).is_dir():
        raise ValueError(f"code_revision={code_revision!r} was given, but the code of {name} lies in that folder")
    return {
        repository: _download(repository or name, code_revision, ("*.py",), access)[0] for repository in repositories
    }


def _download(repo_id: str, revision: str | None, patterns: tuple[str, ...], access: _Access) -> tuple[Path, str]:
    """Returns the folder of a commit in the cache, and the commit."""
    try:
        commit = resolve_revision(
            repo_id, revision=revision, token=access.token, local_files_only=access.local_files_only
        ).resolved
    except RevisionResolutionError as error:
        # other failures of the Hub are of this kind
        raise OSError(str(error)) from error
    options: dict[str, Any] = {
        "repo_id": repo_id,
        "revision": commit,
        "token": access.token,
        "allow_patterns": list(patterns),
        "ignore_patterns": list(NEVER_READ),
    }
    try:
        # with the list of its files at hand the library knows whether the cache has all of them
        get_cached_repo_tree(repo_id, revision=commit)
        folder = snapshot_download(**options, local_files_only=True)
    except (CachedRepoTreeNotFoundError, LocalEntryNotFoundError):
        local_files_only = access.local_files_only or is_offline_mode()
        if not local_files_only:
            _check_before_download(options, access.max_file_bytes)
        folder = snapshot_download(**options, local_files_only=local_files_only)
    return Path(folder), commit


class _NoProgress(tqdm):
    """A bar that is not shown."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


def _check_before_download(options: dict[str, Any], max_file_bytes: int) -> None:
    try:
        planned = snapshot_download(**options, dry_run=True, tqdm_class=_NoProgress)
    except DryRunError:
        # no connection: the cache may do
        return
    check_files({file.filename: file.file_size for file in planned}, max_file_bytes=max_file_bytes)


def _listed(name: str, folder: Path, commit: str | None) -> Iterator[str]:
    """Yields all files of a checkpoint; nothing is read before the first is asked for, which a refusal does."""
    if commit is not None:
        try:
            yield from [file.path for file in get_cached_repo_tree(name, revision=commit)]
            return
        except CachedRepoTreeNotFoundError:
            # another program filled the cache
            pass
    yield from (path.name for path in folder.iterdir())
