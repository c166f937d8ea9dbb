"""What a teacher says about the targets of a dataset, read from disk: training then needs no teacher in memory.

For each target token there are the k most likely tokens, their log-probabilities in float16, and the log-probability
of all others together: 4 k + 4 bytes (260 for k = 64) in a vocabulary of up to 65536, 6 k + 4 in a larger one.

What is lost. A divergence never grows by what is not told apart. The forward KL lacks just P(tail) times the KL inside
the tail; a JSD(beta) lacks at most log 2 times the tail's share of the mixture. float16 rounds a log-probability by at
most 1/2048 of it, an eighth of what bfloat16 does, and the loss normalises again.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from hashlib import sha256
from itertools import accumulate
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from encdec_slm.distillation.cache_index import CacheIndex, Provenance, Shard, sha256_of_file, tokenizer_hash
from encdec_slm.distillation.divergences import TopK


# of a row's key, a SHA-256
KEY_BYTES = 32

# a row's key, and which adapter of the teacher reads it
RowIdentity = tuple[bytes, int]


class TeacherCache:
    """A folder that `write_teacher_cache` made, opened for reading.

    The files are mapped into memory, so of each only those pages are read that hold rows which are asked for, and
    processes on one machine share them.

    Args:
        folder: Where it lies.
        index: What it says of itself.
        verify: Whether the content of a file is compared with its SHA-256 when something is first read from it.
    """

    def __init__(self, folder: Path, index: CacheIndex, *, verify: bool = True) -> None:
        self.folder = folder
        self._index = index
        self._verify = verify
        self._opened: dict[int, dict[str, torch.Tensor]] = {}
        self._ends = list(accumulate(shard.rows for shard in index.shards))

    @classmethod
    def open(cls, folder: str | PathLike[str], *, verify: bool = True) -> "TeacherCache":
        """Opens a cache.

        Args:
            folder: Where it lies.
            verify: Whether the content of a file is compared with its SHA-256 when something is first read from it.
                `rows_of` reads from all files. Existence and sizes are compared at once, in any case.

        Raises:
            ValueError: If the folder is no cache, or a file of it is missing or cut off.
        """
        folder = Path(folder)
        index = CacheIndex.read(folder)
        for shard in index.shards:
            _check_size(folder / shard.file, shard)
        return cls(folder, index, verify=verify)

    @property
    def provenance(self) -> Provenance:
        """Who was asked, and how."""
        return self._index.provenance

    def __len__(self) -> int:
        """Number of rows."""
        return self._ends[-1] if self._ends else 0

    def check(
        self,
        *,
        teacher_tokenizer: PreTrainedTokenizerBase,
        student_tokenizer: PreTrainedTokenizerBase,
        temperature: float,
        shared_ids: int | None,
        exchange: tuple[int, int] | None,
        adapters: Sequence[str] | None = None,
        teacher_fingerprint: str | None = None,
        teacher_name: str | None = None,
    ) -> None:
        """Compares the cache with what a training is about to use it for; what is None of the last three may be any.

        Args:
            teacher_tokenizer: The one that the teacher's prompts are made with.
            student_tokenizer: The one that the labels are made with.
            temperature: That of the divergence.
            shared_ids: How many ids mean the same to teacher and student; None for all of the teacher's.
            exchange: The ends of an answer of student and teacher that swap roles.
            adapters: Names of the teacher's adapters, in the order that `teacher_index` counts.
            teacher_fingerprint: As `teacher_fingerprint` gives it.
            teacher_name: As it was given when the cache was written.

        Raises:
            ValueError: If something differs.
        """
        wanted = {
            "teacher_tokenizer": tokenizer_hash(teacher_tokenizer),
            "student_tokenizer": tokenizer_hash(student_tokenizer),
            "temperature": temperature,
            "shared_ids": shared_ids,
            "exchange": exchange,
        }
        optional = {
            "adapters": None if adapters is None else tuple(adapters),
            "teacher_fingerprint": teacher_fingerprint,
            "teacher_name": teacher_name,
        }
        wanted |= {name: value for name, value in optional.items() if value is not None}
        self.provenance.check(self.folder, wanted, "write a cache with these settings, or use those of this one")

    def rows_of(self, keys: Sequence[str], teacher_index: Sequence[int] | None = None) -> list[int]:
        """Returns which row of the cache is which row of a dataset.

        Args:
            keys: What `row_key` gives for each row of the dataset.
            teacher_index: Which adapter of the teacher reads each row; the first one if not given.

        Raises:
            ValueError: If the cache lacks a row.
        """
        indices = [0] * len(keys) if teacher_index is None else teacher_index
        places = {identity: row for row, identity in enumerate(self.identities())}
        rows = [places.get((bytes.fromhex(key), index)) for key, index in zip(keys, indices, strict=True)]
        found = [row for row in rows if row is not None]
        if len(found) < len(rows):
            raise ValueError(
                f"the teacher cache {self.folder} lacks {len(rows) - len(found)} of {len(rows)} rows, first row "
                f"{rows.index(None)}: write the cache with this dataset, these tokenizers, templates and lengths "
                "(rows that it has already are kept)"
            )
        return found

    def identities(self) -> list[RowIdentity]:
        """Returns key and adapter of all rows, in their order."""
        identities: list[RowIdentity] = []
        for number in range(len(self._index.shards)):
            shard = self._open(number)
            keys = shard["keys"].numpy().tobytes()
            identities += [
                (keys[KEY_BYTES * row : KEY_BYTES * (row + 1)], index)
                for row, index in enumerate(shard["teacher_index"].tolist())
            ]
        return identities

    def read(self, rows: Sequence[int], target_length: int, *, device: torch.device | str = "cpu") -> TopK:
        """Returns what the teacher says about the targets of some rows.

        Args:
            rows: Which, as `rows_of` counts them.
            target_length: To how many positions they are padded on the right. What stands there is a distribution
                like others, and means nothing.
            device: Where the tensors are to be.

        Returns:
            Of shape (batch, target, k), in float32.

        Raises:
            ValueError: If a target is longer, there is no such row, or a file has changed since it was written.
        """
        k = self.provenance.top_k
        shape = (len(rows), target_length, k)
        # uniform, with each id once
        log_probs = torch.full(shape, -math.log(k + 1))
        tail = torch.full(shape[:-1], -math.log(k + 1))
        ids = torch.arange(k).repeat(*shape[:-1], 1)
        for place, row in enumerate(rows):
            shard, tokens = self._find(row)
            length = tokens.stop - tokens.start
            if length > target_length:
                raise ValueError(
                    f"row {row} of the teacher cache has {length} target tokens, but the batch has {target_length}: "
                    "its labels are not those that the cache was written for"
                )
            log_probs[place, :length] = shard["log_probs"][tokens].float()
            ids[place, :length] = shard["ids"][tokens].long()
            tail[place, :length] = shard["tail"][tokens]
        return TopK(log_probs.to(device), ids.to(device), tail.to(device), temperature=self.provenance.temperature)

    def _find(self, row: int) -> tuple[dict[str, torch.Tensor], slice]:
        """Returns the shard of a row, and where in it its target tokens are."""
        if not 0 <= row < len(self):
            raise ValueError(f"there is no row {row} in the teacher cache {self.folder}, which has {len(self)}")
        number = bisect_right(self._ends, row)
        shard = self._open(number)
        row -= self._ends[number] - self._index.shards[number].rows
        start, stop = shard["offsets"][row : row + 2].tolist()
        return shard, slice(start, stop)

    def _open(self, number: int) -> dict[str, torch.Tensor]:
        if number not in self._opened:
            shard = self._index.shards[number]
            self._opened[number] = read_shard(self.folder / shard.file, shard, verify=self._verify)
        return self._opened[number]


def row_key(teacher_prompt_ids: Sequence[int], teacher_target_ids: Sequence[int]) -> str:
    """Returns a name for what the teacher reads: the same in every run, another one for other ids.

    It is the SHA-256, in hexadecimal digits, of the number of the prompt's ids, these, and those of the target, each
    a little-endian integer of 64 bits.
    """
    numbers = np.array([len(teacher_prompt_ids), *teacher_prompt_ids, *teacher_target_ids], dtype="<i8")
    return sha256(numbers.tobytes()).hexdigest()


def read_shard(file: Path, shard: Shard, *, verify: bool) -> dict[str, torch.Tensor]:
    """Maps a file of a cache into memory.

    Raises:
        ValueError: If it is not the file that was written.
    """
    _check_size(file, shard)
    if verify:
        found = sha256_of_file(file)
        if found != shard.sha256:
            raise _damaged(file, f"its SHA-256 is {found}, but {shard.sha256} was written")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise _damaged(file, str(error)) from error


def _check_size(file: Path, shard: Shard) -> None:
    if not file.is_file():
        raise _damaged(file, "it is missing")
    if file.stat().st_size != shard.bytes:
        raise _damaged(file, f"it has {file.stat().st_size} bytes, but {shard.bytes} were written")


def _damaged(file: Path, reason: str) -> ValueError:
    return ValueError(
        f"{file} of the teacher cache is damaged ({reason}): delete it if it is there, and write the cache again, "
        "which asks anew for its rows only"
    )
