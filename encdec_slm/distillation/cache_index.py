"""What the cache of a teacher says of itself: whose probabilities it holds, how they were made, and in which files."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase


INDEX_FILE = "index.json"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Who was asked, and how: all that the probabilities in a cache depend on beside the rows.

    Args:
        teacher_name: For people; a teacher that was moved to another folder is still the same.
        teacher_fingerprint: Of the teacher's weights and adapters.
        adapters: Names of the teacher's adapters; a row's `teacher_index` is a place in them.
        teacher_tokenizer: Its `tokenizer_hash`.
        student_tokenizer: Its `tokenizer_hash`.
        top_k: How many probabilities there are for each target token.
        temperature: Of the softmax over the teacher's whole vocabulary.
        shared_ids: How many ids, from 0 on, were to choose from; all of the teacher if None.
        exchange: The ends of an answer of student and teacher, if they swapped roles.
    """

    teacher_name: str
    teacher_fingerprint: str
    adapters: tuple[str, ...]
    teacher_tokenizer: str
    student_tokenizer: str
    top_k: int
    temperature: float
    shared_ids: int | None
    exchange: tuple[int, int] | None

    def check(self, folder: Path, wanted: Mapping[str, Any], way_out: str) -> None:
        """Compares some of the fields with what somebody expects.

        Args:
            folder: Where the cache lies.
            wanted: Values by the names of the fields.
            way_out: What to do where they differ.

        Raises:
            ValueError: If one differs; all that do are named, with both values.
        """
        found = asdict(self)
        different = [name for name, value in wanted.items() if found[name] != value]
        if different:
            shown = "; ".join(
                f"{name} is {found[name]!r} in the cache, and {wanted[name]!r} here" for name in different
            )
            raise ValueError(f"the teacher cache {folder} was made otherwise ({shown}): {way_out}")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A file of the cache.

    Args:
        file: Its name in the folder.
        rows: How many rows it holds.
        tokens: How many target tokens these have.
        bytes: Its size.
        sha256: Of its content, in hexadecimal digits.
        tail_probability: What the tokens outside of the top k have together, on average.
    """

    file: str
    rows: int
    tokens: int
    bytes: int
    sha256: str
    tail_probability: float


@dataclass(frozen=True)
class CacheIndex:
    """The content of the index file: the provenance, and the shards in the order of their rows."""

    provenance: Provenance
    shards: tuple[Shard, ...] = ()

    @staticmethod
    def read(folder: Path) -> "CacheIndex":
        """Returns the index of a cache.

        Raises:
            ValueError: If there is none in the folder, or one of another format.
        """
        file = folder / INDEX_FILE
        if not file.is_file():
            raise ValueError(f"{folder} has no {INDEX_FILE}, so it is no teacher cache: write one with this folder")
        try:
            content = json.loads(file.read_bytes())
            version = content["format_version"]
            if version != FORMAT_VERSION:
                raise ValueError(
                    f"the format version of {file} is {version}, but this program reads {FORMAT_VERSION}: write the "
                    "cache anew, or use the version of the program that wrote it"
                )
            return CacheIndex(_provenance(content["provenance"]), tuple(Shard(**shard) for shard in content["shards"]))
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file} is not the index of a teacher cache ({error!r}): write the cache anew"
            ) from error

    def write(self, folder: Path) -> None:
        """Replaces the index of a cache."""
        content = {"format_version": FORMAT_VERSION} | asdict(self)
        write_whole(folder / INDEX_FILE, lambda file: file.write_text(json.dumps(content, indent=2) + "\n"))


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns a SHA-256 of what a tokenizer does with a text, in hexadecimal digits.

    It covers vocabulary, added tokens, normaliser, pre-tokeniser and what is put around a text. It does not change
    with use: the truncation and the padding of the last call, which a fast tokenizer remembers, are left out. A
    tokenizer in Python keeps its rules in its code: there the class's name stands for them.
    """
    if tokenizer.is_fast:
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        del content["truncation"], content["padding"]
    else:
        added = {i: token.__getstate__() for i, token in tokenizer.added_tokens_decoder.items()}
        content = [type(tokenizer).__name__, tokenizer.get_vocab(), added]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def sha256_of_file(file: Path) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def write_whole(file: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` make a file under another name, and gives it its own when it is complete and on the disk."""
    partial = file.with_name(f".{file.name}.partial")
    try:
        write(partial)
        with partial.open("rb+") as content:
            os.fsync(content.fileno())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _provenance(content: dict[str, Any]) -> Provenance:
    # JSON has lists only
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
    }
    return Provenance(**fields)
