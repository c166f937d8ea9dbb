"""What goes wrong on request: cut connections, error statuses, a full disk."""

import re
import threading
from dataclasses import dataclass

from .messages import HubError, Request
from .storage import BlobStore


@dataclass
class _Cut:
    after_bytes: int
    times: int


@dataclass
class _Failure:
    path_pattern: str
    error: HubError
    times: int


class Faults:
    """The faults that a hub has still to show; each is used up after the number of times it was asked for."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._lock = threading.Lock()
        self._failures: list[_Failure] = []
        self._upload_cuts: list[_Cut] = []
        self._download_cuts: list[_Cut] = []

    def cut_upload_after(self, n_bytes: int, times: int = 1) -> None:
        """Closes the connection of an LFS upload once so many of its bytes have come."""
        self._upload_cuts.append(_Cut(n_bytes, times))

    def cut_download_after(self, n_bytes: int, times: int = 1) -> None:
        """Closes the connection of a download once so many of its bytes have gone; a shorter one is left alone."""
        self._download_cuts.append(_Cut(n_bytes, times))

    def fail(self, path_pattern: str, status: int, times: int = 1, *, message: str = "Asked to fail.") -> None:
        """Answers with an error where the regular expression is found in "METHOD /path?query".

        The client itself repeats what failed with 408, 429 or a status from 500 to 504 (not 501), after waiting.
        """
        self._failures.append(_Failure(path_pattern, HubError(status, message), times))

    def full_disk(self, capacity_bytes: int | None) -> None:
        """Refuses with 507 what would make all contents together larger; None makes room again.

        The real Hub's own limit is a quota, of which it says 403 when the upload is announced: that is
        `fail("/info/lfs/objects/batch", 403, message="Private repository storage limit reached, ...")`.
        """
        self._blobs.capacity_bytes = capacity_bytes

    def raise_failure(self, request: Request) -> None:
        """Raises the error that this request is to meet, if any."""
        line = f"{request.method} {request.url}"
        with self._lock:
            for failure in self._failures:
                if failure.times and re.search(failure.path_pattern, line):
                    failure.times -= 1
                    raise failure.error

    def upload_cut(self, size: int) -> int | None:
        """Returns after how many bytes an upload of so many is to be cut, if it is; uses the fault up."""
        return self._take(self._upload_cuts, size)

    def download_cut(self, size: int) -> int | None:
        """Returns after how many bytes a download of so many is to be cut, if it is; uses the fault up."""
        return self._take(self._download_cuts, size)

    def _take(self, cuts: list[_Cut], size: int) -> int | None:
        with self._lock:
            for cut in cuts:
                if cut.times and cut.after_bytes < size:
                    cut.times -= 1
                    return cut.after_bytes
        return None
