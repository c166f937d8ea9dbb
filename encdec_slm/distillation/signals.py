"""What a teacher says about the labels of a batch: asked now, read from a cache, or the student's own base.

A signal takes a batch and returns logits, or the top k of them, at the positions of its labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from encdec_slm.distillation.alignment import exchange_ids, read_after_prompt
from encdec_slm.distillation.cache import TeacherCache
from encdec_slm.distillation.chunked_divergence import IGNORE_INDEX, LazyLogits
from encdec_slm.distillation.collator import token_types
from encdec_slm.distillation.columns import TEACHER_IMAGES
from encdec_slm.distillation.divergences import TopK, top_k_of_logits
from encdec_slm.distillation.heads import GivenLogits
from encdec_slm.distillation.teachers import SelfTeacher, Teacher


Batch = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TopKChoice:
    """Which of a teacher's logits are told apart: see `top_k_of_logits`."""

    k: int
    temperature: float
    shared_ids: int | None
    chunk_size: int

    @torch.no_grad()
    def __call__(self, logits: LazyLogits | GivenLogits) -> TopK:
        """Returns the top k of all positions, computed a few positions at a time."""
        shape = logits.shape
        every = logits[torch.ones(shape, dtype=torch.bool, device=logits.device)]
        chunks = [
            top_k_of_logits(
                every[start : start + self.chunk_size].logits(),
                self.k,
                temperature=self.temperature,
                shared_ids=self.shared_ids,
            )
            for start in range(0, shape.numel(), self.chunk_size)
        ]
        return TopK(
            torch.cat([chunk.log_probs for chunk in chunks]).view(*shape, -1),
            torch.cat([chunk.ids for chunk in chunks]).view(*shape, -1),
            torch.cat([chunk.tail for chunk in chunks]).view(shape),
            temperature=self.temperature,
        )


@dataclass(frozen=True, kw_only=True)
class LiveSignal:
    """A teacher that reads its prompt and then the target.

    Args:
        teacher: Who is asked.
        is_universal: Whether it has a tokenizer, and so targets, of its own.
        choice: Which logits are told apart; all if not given.
    """

    teacher: Teacher
    is_universal: bool = False
    choice: TopKChoice | None = None

    def __call__(self, batch: Batch) -> LazyLogits | GivenLogits | TopK:
        """Returns what the teacher says at each position of the target."""
        labels = batch["teacher_labels" if self.is_universal else "labels"]
        inputs = read_after_prompt(
            batch["teacher_prompt_ids"],
            batch["teacher_prompt_mask"],
            exchange_ids(labels, self.teacher.exchange),
            labels != IGNORE_INDEX,
            pad_token_id=self.teacher.pad_token_id,
            token_types=token_types(batch),
            images=batch.get(TEACHER_IMAGES),
        )
        logits = self.teacher.predict(inputs, batch.get("teacher_index"))
        return logits if self.choice is None else self.choice(logits)


@dataclass(frozen=True)
class CachedSignal:
    """A teacher that has said it all already."""

    cache: TeacherCache

    def __call__(self, batch: Batch) -> TopK:
        """Returns what it said about the batch's rows of the cache."""
        labels = batch["labels"]
        return self.cache.read(batch["cache_row"].tolist(), labels.shape[1], device=labels.device)


@dataclass(frozen=True, kw_only=True)
class OwnBaseSignal:
    """The student itself with its adapter off, so that it does not stray from where it started."""

    teacher: SelfTeacher
    choice: TopKChoice | None = None

    def __call__(self, batch: Batch) -> LazyLogits | TopK:
        """Returns what the base says at each position of the labels."""
        logits = self.teacher.predict(batch)
        return logits if self.choice is None else self.choice(logits)
