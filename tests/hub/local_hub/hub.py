"""The Hub that tests start: what they put in, read out, and break."""

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from huggingface_hub import close_session, constants, hf_api

from .faults import Faults
from .server import HubServer
from .state import HubState
from .storage import BlobStore, Commit, Entry, Repository, small_entry
from .writing import is_large
from .xet import XetFolders


class LocalHub:
    """A Hub with one user and their token; it answers within its `with` block.

    Large files go by Git LFS, or, with `use_xet`, by Xet as the client does on the real Hub. Cuts and `full_disk`
    meet what passes through the server: with Xet the client itself writes large files to a folder, and hears of a
    full disk only at the commit.

    Attributes:
        url: The endpoint, without a slash at its end.
        requests: (method, path with query) of each request, in the order in which they came.
        ranges: (path with query, value of its Range header) of the requests for a part of a file.
        unhandled: (method, path with query) of requests that the hub does not know, or could not answer.
        faults: What is to go wrong, see there.
    """

    def __init__(
        self,
        *,
        token: str = "hf_local",
        user: str = "tester",
        organizations: Sequence[str] = ("acme",),
        use_xet: bool = False,
    ) -> None:
        self._folder = TemporaryDirectory(prefix="local-hub-")
        folder = Path(self._folder.name)
        blobs = BlobStore(folder / "blobs")
        self.faults = Faults(blobs)
        xet = XetFolders(folder / "xet") if use_xet else None
        self._state = HubState(token, user, tuple(organizations), blobs, self.faults, xet)
        self._server = HubServer(self._state)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.token, self.user, self.url = token, user, self._state.url
        self.requests, self.ranges, self.unhandled = self._state.requests, self._state.ranges, self._state.unhandled

    def __enter__(self) -> "LocalHub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._folder.cleanup()

    def environment(self, home: PathLike[str] | str) -> dict[str, str]:
        """Returns the variables with which a process talks to this hub and keeps what it loads under `home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token,
            "HF_HOME": str(home),
            # set elsewhere they would outdo HF_HOME
            "HF_HUB_CACHE": str(Path(home, "hub")),
            "HF_XET_CACHE": str(Path(home, "xet")),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            # of the `hf` command, which would ask a package index
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_XET": "0" if self._state.xet else "1",
            # both are read, and the small one counts
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    @contextmanager
    def connected(self, home: PathLike[str] | str) -> Iterator[None]:
        """Lets the huggingface_hub of this process talk to this hub, which read its environment long ago."""
        with ExitStack() as stack:
            stack.enter_context(patch.dict(os.environ, self.environment(home)))
            stack.enter_context(patch.multiple(constants, **self._constants(home)))
            # the functions of the library, such as `create_repo`, are methods of this one
            stack.enter_context(patch.object(hf_api.api, "endpoint", self.url))
            # newer releases of Transformers keep one of their own, with the endpoint at its first use
            stack.enter_context(patch("transformers.utils.hub._hf_api", None, create=True))
            # a session keeps to the proxies that there were when it began
            stack.callback(close_session)
            close_session()
            yield

    def add_repository(
        self, repo_id: str, files: Mapping[str, bytes], *, private: bool = False, repo_type: str = "model"
    ) -> None:
        """Adds a repository with these files and no other, as if it had been uploaded before."""
        entries = {path: self._stored(path, content) for path, content in files.items()}
        if not self._state.add(Repository(repo_type, repo_id, private=private, files=entries)):
            raise ValueError(f"there is a {repo_type} {repo_id} already: give the new one another name")

    def files(self, repo_id: str, revision: str = "main", *, repo_type: str = "model") -> dict[str, bytes]:
        """Returns the contents of all files by their paths."""
        entries = self._state.repositories[repo_type, repo_id].at(revision).files
        return {path: self._state.read(entry) for path, entry in entries.items()}

    def commits(self, repo_id: str, revision: str = "main", *, repo_type: str = "model") -> list[Commit]:
        """Returns the commits that led to a revision, the latest first."""
        return self._state.repositories[repo_type, repo_id].history(revision)

    def _constants(self, home: PathLike[str] | str) -> dict[str, str | bool]:
        """Returns what the library would have read from the environment, and every path below its home."""
        before = constants.HF_HOME
        texts = {name: value for name, value in vars(constants).items() if isinstance(value, str)}
        moved = {name: str(home) + text[len(before) :] for name, text in texts.items() if text.startswith(before)}
        return moved | {
            "ENDPOINT": self.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": f"{self.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
            "HF_HUB_CACHE": str(Path(home, "hub")),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": self._state.xet is None,
        }

    def _stored(self, path: str, content: bytes) -> Entry:
        entry = small_entry(content)
        self._state.blobs.write([content], sha256=entry.sha256)
        return self._state.large_entry(entry.sha256) if is_large(path, len(content)) else entry
