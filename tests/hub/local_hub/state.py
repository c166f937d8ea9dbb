"""What all requests share: who may do what, the repositories, the contents, and a record of what was asked."""

import threading
from dataclasses import dataclass, field

from .faults import Faults
from .messages import HubError, Request
from .storage import BlobStore, Entry, Repository, large_entry
from .xet import XetFolders


@dataclass
class HubState:
    token: str
    user: str
    organizations: tuple[str, ...]
    blobs: BlobStore
    faults: Faults
    xet: XetFolders | None
    url: str = ""
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    ranges: list[tuple[str, str]] = field(default_factory=list)
    unhandled: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def contents_url(self) -> str:
        """The address of large files: another host, as on the real Hub.

        The client follows a redirect to the same host, and would then miss what the redirect itself says of the file.
        """
        return self.url.replace("127.0.0.1", "localhost")

    def is_signed_in(self, request: Request) -> bool:
        return request.headers.get("Authorization") == f"Bearer {self.token}"

    def is_member(self, owner: str) -> bool:
        return owner in (self.user, *self.organizations)

    def require_user(self, request: Request, *, owner: str) -> None:
        """Raises the error for those who may not write under the name of an owner."""
        if not self.is_signed_in(request):
            raise HubError(401, "Invalid username or password.")
        if not self.is_member(owner):
            raise HubError(403, f"You don't have the rights to write under the namespace {owner!r}.")

    def readable(self, request: Request, kind: str, repo_id: str) -> Repository:
        """Returns a repository that this request may see; that there is a private one is not told to others."""
        repository = self.repositories.get((kind, repo_id))
        is_signed_in = self.is_signed_in(request)
        if repository is None or (repository.private and not (is_signed_in and self.is_member(repository.owner))):
            raise HubError(404 if is_signed_in else 401, "Repository not found", code="RepoNotFound")
        return repository

    def writable(self, request: Request, kind: str, repo_id: str) -> Repository:
        repository = self.readable(request, kind, repo_id)
        self.require_user(request, owner=repository.owner)
        return repository

    def add(self, repository: Repository) -> bool:
        """Adds a repository unless there is one of its name; returns whether it did."""
        with self.lock:
            return self.repositories.setdefault((repository.kind, repository.id), repository) is repository

    def large_entry(self, sha256: str) -> Entry:
        """Returns the entry of a content that is in the store, with the name that Xet has for it."""
        path = self.blobs.path(sha256)
        return large_entry(sha256, path.stat().st_size, xet_hash=self.xet.hash_of(path) if self.xet else None)

    def read(self, entry: Entry) -> bytes:
        return self.blobs.read(entry.sha256)
