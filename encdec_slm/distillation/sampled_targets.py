"""Batches whose rows are answered during the training, by the student or the teacher, before the loss is taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from encdec_slm.distillation.chunked_divergence import IGNORE_INDEX
from encdec_slm.distillation.collator import token_types
from encdec_slm.distillation.columns import STUDENT_IMAGES, TEACHER_IMAGES
from encdec_slm.distillation.heads import language_model
from encdec_slm.distillation.policies import Sampling, choose_rows, row_seeds, sample_student, sample_teacher
from encdec_slm.distillation.retokenization import NO_PAIR, Retokenizer
from encdec_slm.distillation.step_loss import ROWS, SAMPLES, images_for, select
from encdec_slm.distillation.teachers import Teacher


# of a batch: whether a row has the teacher's answer as its labels
TEACHER_ROWS = "teacher_rows"


@dataclass(frozen=True, kw_only=True)
class TargetSampler:
    """Answers some rows of a batch.

    Which rows, and what, is a function of the seed, the step and the row; see `policies`.

    Args:
        on_policy_fraction: Share of rows that the student answers. Their labels stay what they are; the answers are
            `student_samples` of the batch.
        teacher_samples_fraction: Share of rows whose labels the teacher's answers take the place of.
        sampling: How answers are sampled.
        teacher_sampling: The same for the teacher's.
        seed: Of the training.
        eos_token_ids: What ends an answer of the student.
        teacher: Who is asked; None if it answers no row.
        teacher_eos_token_ids: What ends an answer of the teacher.
        retokenizer: Turns answers of one into ids of the other, if they have different tokenizers.
    """

    on_policy_fraction: float
    teacher_samples_fraction: float
    sampling: Sampling
    teacher_sampling: Sampling
    seed: int
    eos_token_ids: Sequence[int]
    teacher: Teacher | None = None
    teacher_eos_token_ids: Sequence[int] = ()
    retokenizer: Retokenizer | None = None

    def __call__(self, student: nn.Module, batch: Mapping[str, Any], step: int) -> dict[str, Any]:
        """Returns the batch with answers.

        Args:
            student: Unwrapped; a `PeftModel` has its adapter on.
            batch: What the collator gives, on the student's device.
            step: Number of steps done before.
        """
        batch = dict(batch)
        images = batch[STUDENT_IMAGES].digests() if STUDENT_IMAGES in batch else None
        seeds = row_seeds(self.seed, step, batch["input_ids"], batch["attention_mask"], images)
        device = batch["input_ids"].device
        by_teacher = choose_rows(self.teacher_samples_fraction, seeds).to(device)
        # a row that the teacher answers is left to it
        by_either = choose_rows(self.teacher_samples_fraction + self.on_policy_fraction, seeds).to(device)
        if by_teacher.any():
            batch = self._answered_by_teacher(batch, by_teacher.nonzero().flatten(), seeds)
            batch[TEACHER_ROWS] = by_teacher
        rows = (by_either & ~by_teacher).nonzero().flatten()
        if len(rows):
            batch[SAMPLES] = self._answers_of_student(student, batch, rows, seeds)
        return batch

    def _answers_of_student(
        self, student: nn.Module, batch: dict[str, Any], rows: torch.Tensor, seeds: Sequence[int]
    ) -> dict[str, torch.Tensor]:
        part = select(batch, rows)
        model = language_model(student)
        labels = sample_student(
            model,
            part["input_ids"],
            part["attention_mask"],
            self.sampling,
            [seeds[row] for row in rows.tolist()],
            self.eos_token_ids,
            images_for(model, part),
        )
        return {ROWS: rows, **self._with_teacher_ids(labels)}

    def _with_teacher_ids(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.retokenizer is None:
            return {"labels": labels}
        teacher_labels, aligned = self.retokenizer.for_teacher(labels)
        return {"labels": labels, "teacher_labels": teacher_labels, "aligned": aligned}

    def _answered_by_teacher(self, batch: dict[str, Any], rows: torch.Tensor, seeds: Sequence[int]) -> dict[str, Any]:
        part = select(batch, rows)
        labels = self._answers_of_teacher(part, [seeds[row] for row in rows.tolist()])
        for name, answers in self._with_teacher_ids(labels).items():
            batch[name] = _put(batch[name], rows, answers)
        return batch

    def _answers_of_teacher(self, part: dict[str, Any], seeds: Sequence[int]) -> torch.Tensor:
        indices = part.get("teacher_index")
        if indices is None:
            return self._labels_of(part, seeds)
        answers = torch.full((len(seeds), 0), IGNORE_INDEX, device=indices.device)
        teacher = self._asked()
        for index in indices.unique().tolist():
            rows = (indices == index).nonzero().flatten()
            with teacher.reading_with(index):
                labels = self._labels_of(select(part, rows), [seeds[row] for row in rows.tolist()])
            answers = _put(answers, rows, labels)
        return answers

    def _asked(self) -> Teacher:
        if self.teacher is None:
            raise ValueError("teacher_samples_fraction is above 0, but there is no teacher in memory: give one")
        return self.teacher

    def _labels_of(self, part: Mapping[str, Any], seeds: Sequence[int]) -> torch.Tensor:
        teacher = self._asked()
        model = language_model(teacher.model)
        images = part[TEACHER_IMAGES].joined(model) if TEACHER_IMAGES in part else {}
        labels = sample_teacher(
            model,
            part["teacher_prompt_ids"],
            part["teacher_prompt_mask"],
            self.teacher_sampling,
            seeds,
            self.teacher_eos_token_ids,
            teacher.exchange,
            {**token_types(part), **images},
        )
        return labels if self.retokenizer is None else self.retokenizer.for_student(labels)


def _put(values: torch.Tensor, rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Returns ids, or pairs of positions, with others in some rows, padded to the longest row that is left."""
    padding = IGNORE_INDEX if values.ndim == 2 else NO_PAIR
    width = max(values.shape[1], others.shape[1])
    result = values.new_full((len(values), width, *values.shape[2:]), padding)
    result[:, : values.shape[1]] = values
    result[rows] = padding
    result[rows, : others.shape[1]] = others
    is_real = (result != padding).flatten(start_dim=2).any(dim=-1) if result.ndim > 2 else result != padding
    return result[:, : max(1, int(is_real.sum(dim=1).max()))]
