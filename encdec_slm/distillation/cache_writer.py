"""Writing what a teacher says about the targets of a dataset to a folder, once, and to go on where it was stopped."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from filelock import FileLock, Timeout
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from encdec_slm.distillation.cache import RowIdentity, TeacherCache, row_key
from encdec_slm.distillation.cache_index import (
    INDEX_FILE,
    CacheIndex,
    Provenance,
    Shard,
    sha256_of_file,
    tokenizer_hash,
    write_whole,
)
from encdec_slm.distillation.chunked_divergence import IGNORE_INDEX
from encdec_slm.distillation.divergences import TopK
from encdec_slm.distillation.images import IMAGES
from encdec_slm.distillation.signals import LiveSignal, TopKChoice
from encdec_slm.distillation.teachers import Teacher, teacher_fingerprint


if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.get_logger(__name__)

Collator = Callable[[list[dict[str, object]]], dict[str, torch.Tensor]]


@dataclass(frozen=True, kw_only=True)
class CacheReport:
    """What a cache holds after it was written.

    Args:
        dataset_rows: How many rows the dataset has.
        asked_rows: For how many of them the teacher was asked now.
        rows: How many the cache holds: each once, also those of other datasets.
        target_tokens: How many target tokens these have.
        cache_bytes: Size of the folder's files.
        tail_probability: What the tokens outside of the top k have together, on average over the target tokens.
    """

    dataset_rows: int
    asked_rows: int
    rows: int
    target_tokens: int
    cache_bytes: int
    tail_probability: float

    @property
    def bytes_per_token(self) -> float:
        """Bytes on disk for each target token."""
        return self.cache_bytes / self.target_tokens


def write_teacher_cache(
    folder: str | PathLike[str],
    teacher: Teacher,
    dataset: "Dataset",
    *,
    collator: Collator,
    student_tokenizer: PreTrainedTokenizerBase,
    top_k: int = 64,
    temperature: float = 1.0,
    shared_ids: int | None = None,
    batch_size: int = 8,
    tokens_per_shard: int = 1 << 18,
    chunk_size: int = 256,
    teacher_name: str | None = None,
) -> CacheReport:
    """Asks a teacher about all target tokens of a dataset, and keeps the k most likely ones of each and their tail.

    Rows that the folder has already are not asked again: a run that was stopped goes on, and the rows of another
    dataset (for evaluation) are added. What is on disk is always whole; what is lost when a run is stopped is the
    file that it was about to write. Longer prompts come first: memory that does not suffice is noticed at once.

    Args:
        folder: Where the cache is, or is to be.
        teacher: Who is asked, with its roles of the end of an answer.
        dataset: Encoded rows, with `teacher_prompt_ids` and `labels`, and `teacher_index` if the teacher has several
            adapters.
        collator: Makes batches of the rows, as in training.
        student_tokenizer: The one that made the labels.
        top_k: How many tokens are kept.
        temperature: Of the softmax, which must be that of the divergence in training.
        shared_ids: How many ids mean the same to teacher and student; see `count_shared_ids`.
        batch_size: How many rows the teacher reads at a time.
        tokens_per_shard: A file is complete when it has so many target tokens; 68 MB at k = 64, which are held in
            memory until then.
        chunk_size: Number of positions whose logits exist at a time.
        teacher_name: For people, and for `TeacherCache.check`; that of the model's configuration if not given.

    Raises:
        ValueError: If an argument or the dataset does not fit, the teacher says NaN, the folder holds something else,
            a damaged cache or one that was made otherwise, or another process is writing there.
    """
    provenance = Provenance(
        teacher_name=teacher.model.config.name_or_path if teacher_name is None else teacher_name,
        teacher_fingerprint=teacher_fingerprint(teacher),
        adapters=tuple(teacher.adapters),
        teacher_tokenizer=tokenizer_hash(teacher.tokenizer),
        student_tokenizer=tokenizer_hash(student_tokenizer),
        top_k=top_k,
        temperature=temperature,
        shared_ids=shared_ids,
        exchange=teacher.exchange,
    )
    _check_sizes(batch_size=batch_size, tokens_per_shard=tokens_per_shard, chunk_size=chunk_size)
    rows = _distinct_rows(dataset)
    folder = Path(folder)
    _refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    choice = TopKChoice(k=top_k, temperature=temperature, shared_ids=shared_ids, chunk_size=chunk_size)
    signal = LiveSignal(teacher=teacher, choice=choice)
    try:
        with FileLock(folder / ".lock", timeout=0):
            index = _resumed(folder, provenance)
            stored = set(TeacherCache(folder, index).identities())
            missing = [row for row in rows if row.identity not in stored]
            with logging.tqdm(total=len(rows), initial=len(rows) - len(missing), desc="Teacher", unit="row") as bar:
                for batches in _planned(missing, batch_size, tokens_per_shard):
                    answers = []
                    for batch in batches:
                        answers.append(_answer(signal, collator([dataset[row.place] for row in batch]), batch))
                        bar.update(len(batch))
                    index = _with_shard(folder, index, [row for batch in batches for row in batch], answers)
    except Timeout as error:
        raise ValueError(f"another process is writing the teacher cache {folder}: wait for it, or stop it") from error
    return _report(folder, index, dataset_rows=len(dataset), asked_rows=len(missing))


@dataclass(frozen=True)
class _Row:
    """Where a row is in the dataset, and its lengths in tokens."""

    identity: RowIdentity
    place: int
    prompt: int
    target: int


def _distinct_rows(dataset: "Dataset") -> list[_Row]:
    """Returns each row once, the longest prompts first and rows of like lengths together."""
    if IMAGES in dataset.column_names:
        raise ValueError(
            "the dataset has images, but a cache tells rows apart by the ids that the teacher reads, which are the "
            "same for different images of one size: distil with the teacher in memory"
        )
    missing = {"teacher_prompt_ids", "labels"} - set(dataset.column_names)
    if missing:
        raise ValueError(f"the dataset has no {' and no '.join(sorted(missing))}: encode it as for training")
    if "teacher_labels" in dataset.column_names:
        raise ValueError(
            "the dataset has teacher_labels, so the teacher has another tokenizer: a cache holds probabilities of ids "
            "that mean the same to both; distil with the teacher in memory"
        )
    distinct: dict[RowIdentity, _Row] = {}
    columns = [name for name in ("teacher_prompt_ids", "labels", "teacher_index") if name in dataset.column_names]
    for place, row in enumerate(dataset.select_columns(columns).with_format(None)):
        prompt, labels = row["teacher_prompt_ids"], row["labels"]
        if not labels or IGNORE_INDEX in labels:
            raise ValueError(f"the labels of row {place} are {labels}, but all of them are to be target tokens")
        identity = bytes.fromhex(row_key(prompt, labels)), row.get("teacher_index", 0)
        distinct.setdefault(identity, _Row(identity, place, len(prompt), len(labels)))
    if not distinct:
        raise ValueError("the dataset has no rows, so there is nothing to ask the teacher")
    # whatever the order of the dataset is: a run that goes on finds the same batches
    return sorted(distinct.values(), key=lambda row: (-row.prompt, -row.target, row.identity))


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}, but it is at least 1")


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"the teacher cache {folder} is a file: name a folder")
    if not folder.exists() or (folder / INDEX_FILE).is_file():
        return
    entries = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    if entries:
        shown = ", ".join(entries[:5]) + (", ..." if len(entries) > 5 else "")
        raise ValueError(f"{folder} holds something that is no teacher cache ({shown}): name another folder")


def _resumed(folder: Path, provenance: Provenance) -> CacheIndex:
    """Returns the index to go on with: that of a new cache, or of the one in the folder without what it has lost."""
    old = CacheIndex.read(folder) if (folder / INDEX_FILE).is_file() else CacheIndex(provenance)
    if old.shards:
        # a name may be another path to the same teacher
        wanted = {name: value for name, value in asdict(provenance).items() if name != "teacher_name"}
        old.provenance.check(folder, wanted, "name another folder, or use the settings of this cache")
    present = tuple(shard for shard in old.shards if (folder / shard.file).is_file())
    if len(present) < len(old.shards):
        lost = sorted({shard.file for shard in old.shards} - {shard.file for shard in present})
        logger.warning(f"the teacher cache {folder} has lost {', '.join(lost)}: its rows are asked anew")
    index = CacheIndex(provenance, present)
    index.write(folder)
    return index


def _planned(rows: Sequence[_Row], batch_size: int, tokens_per_shard: int) -> Iterator[list[Sequence[_Row]]]:
    """Yields the batches of each shard, cut one after the other: what a stopped run has left is cut as in that run."""
    batches, tokens = [], 0
    for start in range(0, len(rows), batch_size):
        batches.append(rows[start : start + batch_size])
        tokens += sum(row.target for row in batches[-1])
        if tokens >= tokens_per_shard:
            yield batches
            batches, tokens = [], 0
    if batches:
        yield batches


def _report(folder: Path, index: CacheIndex, *, dataset_rows: int, asked_rows: int) -> CacheReport:
    tokens = sum(shard.tokens for shard in index.shards)
    return CacheReport(
        dataset_rows=dataset_rows,
        asked_rows=asked_rows,
        rows=sum(shard.rows for shard in index.shards),
        target_tokens=tokens,
        cache_bytes=sum(shard.bytes for shard in index.shards) + (folder / INDEX_FILE).stat().st_size,
        tail_probability=sum(shard.tokens * shard.tail_probability for shard in index.shards) / tokens,
    )


def _answer(signal: LiveSignal, batch: dict[str, torch.Tensor], rows: Sequence[_Row]) -> TopK:
    """Returns what a shard keeps of a batch: the target tokens of all rows one after the other, without padding."""
    mask = batch["labels"] != IGNORE_INDEX
    if mask.sum(dim=1).tolist() != [row.target for row in rows]:
        raise ValueError(
            f"the collator gives {mask.sum(dim=1).tolist()} labels for rows that have {[row.target for row in rows]}: "
            "take one that pads and does nothing else to them"
        )
    batch = {name: value.to(signal.teacher.device) for name, value in batch.items()}
    top_k = cast(TopK, signal(batch))[mask.to(signal.teacher.device)]
    if top_k.log_probs.isnan().any():
        raise ValueError(
            f"the teacher's logits are NaN in one of the rows {[row.place for row in rows]} of the dataset: load it "
            "in bfloat16 or float32"
        )
    return TopK(
        top_k.log_probs.to("cpu", torch.float16), top_k.ids.cpu(), top_k.tail.cpu(), temperature=top_k.temperature
    )


def _with_shard(folder: Path, index: CacheIndex, rows: Sequence[_Row], answers: Sequence[TopK]) -> CacheIndex:
    """Writes a shard and then the index that has it, which is returned."""
    lengths = torch.tensor([row.target for row in rows])
    ids = torch.cat([answer.ids for answer in answers])
    content = {
        "keys": torch.frombuffer(bytearray(b"".join(row.identity[0] for row in rows)), dtype=torch.uint8),
        "teacher_index": torch.tensor([row.identity[1] for row in rows], dtype=torch.int16),
        "offsets": F.pad(lengths.cumsum(0), (1, 0)),
        "log_probs": torch.cat([answer.log_probs for answer in answers]),
        "ids": ids.to(torch.uint16 if int(ids.max()) < 1 << 16 else torch.int32),
        "tail": torch.cat([answer.tail for answer in answers]).float(),
    }
    file = folder / _free_name(index.shards)
    write_whole(file, lambda partial: save_file(content, partial))
    shard = Shard(
        file=file.name,
        rows=len(rows),
        tokens=int(lengths.sum()),
        bytes=file.stat().st_size,
        sha256=sha256_of_file(file),
        tail_probability=content["tail"].exp().mean().item(),
    )
    index = replace(index, shards=(*index.shards, shard))
    index.write(folder)
    return index


def _free_name(shards: Sequence[Shard]) -> str:
    taken = {shard.file for shard in shards}
    return next(name for name in (f"teacher-{number:05}.safetensors" for number in count()) if name not in taken)
