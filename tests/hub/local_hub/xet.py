"""Contents that come and go by Xet: the real hf-xet, which keeps them in a folder when the address is `local://`.

Neither the address nor the layout of the folder is documented: both are as seen in hf-xet 1.8. Only one process at a
time can have a folder open, so each upload and each download of a client gets one of its own.
"""

import os
import shutil
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import mkdtemp
from unittest.mock import patch

from .messages import CHUNK_BYTES


RECORD_BYTES = 48
HASH_BYTES = 32
END_OF_FILES = b"\xff" * HASH_BYTES
HAS_VERIFICATION = 1 << 31
HAS_METADATA = 1 << 30


class XetFolders:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        # imported only for those who use it, and with a place for the log that it begins at once
        with patch.dict(os.environ, HF_HOME=str(folder)):
            import hf_xet
        self._library = hf_xet

    def for_upload(self) -> str:
        """Returns the address of a new folder for the uploads of a client."""
        return _address(self._new("upload"))

    def for_download(self, contents: Iterable[Path]) -> str:
        """Returns the address of a new folder that holds some contents."""
        folder = self._new("download")
        with self._library.XetSession().new_upload_commit(endpoint=_address(folder)) as commit:
            for content in contents:
                commit.start_upload_file(str(content), sha256=self._library.COMPUTE_SHA256)
        return _address(folder)

    def hash_of(self, content: Path) -> str:
        """Returns the name that Xet has for a content."""
        (known,) = self._library.hash_files([str(content)])
        return known.hash

    def uploaded(self, sha256: str, size: int) -> Iterator[bytes] | None:
        """Returns a content that a client uploaded, piece by piece, or None if none did."""
        for shard in self._folder.glob("upload-*/xet/xorbs/shards/*.mdb"):
            for xet_hash, content_sha256 in files_of_shard(shard.read_bytes()):
                if content_sha256 == sha256:
                    return self._pieces(shard.parents[3], xet_hash, size)
        return None

    def _pieces(self, folder: Path, xet_hash: str, size: int) -> Iterator[bytes]:
        copy = self._new("copy")
        target = copy / "content"
        # of two who upload the same content at once, the other may have the folder open
        shutil.copytree(folder / "xet/xorbs", copy / "xet/xorbs")
        with self._library.XetSession().new_file_download_group(endpoint=_address(copy)) as group:
            group.start_download_file(self._library.XetFileInfo(xet_hash, size), str(target))
        with target.open("rb") as file:
            yield from iter(lambda: file.read(CHUNK_BYTES), b"")
        shutil.rmtree(copy)

    def _new(self, purpose: str) -> Path:
        return Path(mkdtemp(prefix=f"{purpose}-", dir=self._folder))


def _address(folder: Path) -> str:
    return f"local://{folder}"


def files_of_shard(data: bytes) -> Iterator[tuple[str, str]]:
    """Yields (name that Xet has for it, SHA-256) of every content that a shard tells of: records behind a header."""
    position = RECORD_BYTES
    while data[position : position + HASH_BYTES] not in (END_OF_FILES, b""):
        xet_hash = _hex(data[position : position + HASH_BYTES])
        flags, segments = struct.unpack_from("<II", data, position + HASH_BYTES)
        # the record itself, one for each segment, and as many to verify them by
        position += RECORD_BYTES * (1 + segments * (2 if flags & HAS_VERIFICATION else 1))
        if flags & HAS_METADATA:
            yield xet_hash, _hex(data[position : position + HASH_BYTES])
            position += RECORD_BYTES


def _hex(hash_bytes: bytes) -> str:
    """Returns a hash as Xet writes it: four numbers of 64 bits, each with its highest digit first."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", hash_bytes))
