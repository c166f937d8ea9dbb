"""Repositories with their commits in memory, and the contents of files on disk under their SHA-256."""

import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from .messages import HubError


@dataclass(frozen=True)
class Entry:
    """One file of a commit. `oid` is that of git: for a large file that of the pointer which git holds for it."""

    size: int
    oid: str
    sha256: str
    is_large: bool = False
    xet_hash: str | None = None


@dataclass(frozen=True)
class Commit:
    sha: str
    message: str
    parent: str | None
    date: str
    files: Mapping[str, Entry] = field(repr=False)


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def small_entry(content: bytes) -> Entry:
    return Entry(len(content), git_oid(content), hashlib.sha256(content).hexdigest())


def large_entry(sha256: str, size: int, *, xet_hash: str | None = None) -> Entry:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return Entry(size, git_oid(pointer.encode()), sha256, is_large=True, xet_hash=xet_hash)


class BlobStore:
    """Contents under their SHA-256: there whole or not at all, and never more bytes than the capacity, if any."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.capacity_bytes: int | None = None
        self.used_bytes = 0
        self._lock = threading.Lock()
        folder.mkdir(parents=True)

    def path(self, sha256: str) -> Path:
        return self.folder / sha256

    def has(self, sha256: str) -> bool:
        return self.path(sha256).is_file()

    def read(self, sha256: str) -> bytes:
        return self.path(sha256).read_bytes()

    def write(self, chunks: Iterable[bytes], *, sha256: str) -> None:
        """Stores a content as it comes; raises HubError if it is another one than announced or the disk is full."""
        digest, written = hashlib.sha256(), 0
        handle, name = tempfile.mkstemp(dir=self.folder, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                for chunk in chunks:
                    self._reserve(len(chunk))
                    written += len(chunk)
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != sha256:
                raise HubError(400, f"The content has the SHA-256 {digest.hexdigest()}, announced was {sha256}.")
            with self._lock:
                if self.has(sha256):
                    return
                Path(name).replace(self.path(sha256))
                written = 0
        finally:
            Path(name).unlink(missing_ok=True)
            self._reserve(-written)

    def _reserve(self, number_of_bytes: int) -> None:
        with self._lock:
            is_beyond = self.capacity_bytes is not None and self.used_bytes + number_of_bytes > self.capacity_bytes
            if number_of_bytes > 0 and is_beyond:
                raise HubError(507, f"No space left: the storage holds {self.capacity_bytes} bytes.")
            self.used_bytes += number_of_bytes


class Repository:
    """The commits of one repository, its branches and its tags; commits on a branch follow one another."""

    def __init__(self, kind: str, repo_id: str, *, private: bool, files: Mapping[str, Entry] | None = None) -> None:
        self.kind = kind
        self.id = repo_id
        self.private = private
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self._commits: dict[str, Commit] = {}
        self._numbers = count()
        self._lock = threading.Lock()
        self.branches["main"] = self._add("initial commit", None, dict(files or {})).sha

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    def at(self, revision: str) -> Commit:
        """Returns the commit that a branch, a tag or a SHA names."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self._commits:
            raise HubError(404, f"Invalid rev id: {revision}", code="RevisionNotFound")
        return self._commits[sha]

    def history(self, revision: str) -> list[Commit]:
        """Returns the commits that led to a revision, the latest first."""
        commits = [self.at(revision)]
        while (parent := commits[-1].parent) is not None:
            commits.append(self._commits[parent])
        return commits

    def add_branch(self, name: str, revision: str) -> None:
        self._add_name(self.branches, name, revision)

    def add_tag(self, name: str, revision: str) -> None:
        self._add_name(self.tags, name, revision)

    def _add_name(self, names: dict[str, str], name: str, revision: str) -> None:
        sha = self.at(revision).sha
        with self._lock:
            if name in names:
                raise HubError(409, f"Reference already exists: {name}")
            names[name] = sha

    def commit(
        self, branch: str, change: Callable[[dict[str, Entry]], None], *, message: str, parent: str | None = None
    ) -> Commit:
        """Puts a commit on a branch: `change` edits a copy of its files; `parent` is the head that is expected."""
        with self._lock:
            if branch not in self.branches:
                raise HubError(404, f"Invalid rev id: {branch}", code="RevisionNotFound")
            head = self._commits[self.branches[branch]]
            if parent not in (None, head.sha):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            files = dict(head.files)
            change(files)
            commit = self._add(message, head.sha, files)
            self.branches[branch] = commit.sha
            return commit

    def _add(self, message: str, parent: str | None, files: Mapping[str, Entry]) -> Commit:
        content = (self.kind, self.id, next(self._numbers), message, parent, sorted(files.items()))
        sha = hashlib.sha1(repr(content).encode()).hexdigest()
        date = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._commits[sha] = Commit(sha, message, parent, date, files)
        return self._commits[sha]
