"""The loss of one batch: the student's passes, what the teacher says to them, and both terms together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from encdec_slm.distillation.chunked_divergence import (
    IGNORE_INDEX,
    DistillationLoss,
    LazyLogits,
    Objective,
    distillation_loss,
)
from encdec_slm.distillation.columns import STUDENT_IMAGES
from encdec_slm.distillation.divergences import TopK
from encdec_slm.distillation.heads import GivenLogits, capture_head
from encdec_slm.distillation.images import RowImages
from encdec_slm.distillation.original_loss import original_divergence
from encdec_slm.distillation.universal import universal_loss


Batch = Mapping[str, Any]
# what a teacher says about the positions of a batch's labels
Signal = Callable[[Batch], "LazyLogits | GivenLogits | TopK"]
# of a batch: what the student has sampled for some of its rows, a batch of these rows with the samples as labels
SAMPLES = "student_samples"
# of these: which rows they are
ROWS = "rows"


@dataclass(frozen=True, kw_only=True)
class StepLoss:
    """How the loss of a batch is put together.

    The cross-entropy is taken on the batch's labels. The divergence is taken there too, except on the rows that the
    student has answered itself: on these it is taken on the answer. All share one pass of the encoder.

    Args:
        objective: How the terms are weighted; without a divergence if that is the universal one.
        alpha: Weight of the divergence.
        signal: What the teacher says; not called if alpha is 0, and None if there is none.
        shared_ids: How many ids mean the same to both models.
        chunk_size: Positions whose logits exist at a time.
        universal_temperature: That of the universal divergence, where it takes the place of the objective's.
        is_original: Whether the divergence is that of the published code.
    """

    objective: Objective
    alpha: float
    signal: Signal | None
    shared_ids: int | None = None
    chunk_size: int = 256
    universal_temperature: float | None = None
    is_original: bool = False

    def __call__(
        self,
        student: PreTrainedModel,
        batch: Batch,
        *,
        num_items: torch.Tensor | int | None = None,
        num_divergence_items: torch.Tensor | int | None = None,
        num_batches: int = 1,
        with_teacher: bool = True,
    ) -> DistillationLoss:
        """Returns the loss of a batch.

        Args:
            student: Called with gradients if they are enabled.
            batch: What the collator gives, and `student_samples`.
            num_items: Number of labels in all batches of the step.
            num_divergence_items: Number of positions at which the divergence is taken in all batches of the step.
            num_batches: Number of batches of the step, for the published code's mean, which knows no items.
            with_teacher: Whether the teacher is asked; if not, the cross-entropy is all there is.
        """
        states = encode(student, batch)
        gold = decode(student, states, batch["labels"])
        alpha = self.alpha if with_teacher else 0.0
        if alpha > 0 and self._is_one_pass(batch):
            return self._in_one_pass(gold, batch, num_items, num_divergence_items)
        loss = distillation_loss(
            gold,
            None,
            batch["labels"],
            objective=replace(self.objective, alpha=0.0),
            num_items=num_items,
            chunk_size=self.chunk_size,
        )
        if alpha == 0:
            return loss
        divergence = self._divergence(student, states, gold, batch, num_divergence_items)
        if self.is_original:
            divergence = divergence / num_batches
        return DistillationLoss(
            loss=(1 - alpha) * loss.loss + alpha * divergence,
            cross_entropy=loss.cross_entropy,
            divergence=divergence.detach(),
        )

    def _ask(self, batch: Batch) -> Any:
        if self.signal is None:
            raise ValueError(f"alpha is {self.alpha}, but there is no teacher: give one, or set alpha to 0")
        return self.signal(batch)

    def count(self, batch: Batch) -> torch.Tensor:
        """Returns the number of positions at which the divergence of a batch is taken."""
        off_policy, on_policy = split_rows(batch)
        return sum((self._count(part) for part in (off_policy, on_policy) if part is not None), torch.tensor(0))

    def _count(self, part: Batch) -> torch.Tensor:
        if self.universal_temperature is not None:
            return (part["aligned"][..., 0] >= 0).sum()
        return part["labels"].ne(IGNORE_INDEX).sum()

    def _is_one_pass(self, batch: Batch) -> bool:
        return SAMPLES not in batch and self.universal_temperature is None and not self.is_original

    def _in_one_pass(
        self,
        gold: LazyLogits,
        batch: Batch,
        num_items: torch.Tensor | int | None,
        num_divergence_items: torch.Tensor | int | None,
    ) -> DistillationLoss:
        return distillation_loss(
            gold,
            self._ask(batch),
            batch["labels"],
            objective=self.objective,
            num_items=num_items,
            num_divergence_items=num_divergence_items,
            shared_ids=self.shared_ids,
            chunk_size=self.chunk_size,
        )

    def _divergence(
        self,
        student: PreTrainedModel,
        states: "EncoderStates",
        gold: LazyLogits,
        batch: Batch,
        num_items: torch.Tensor | int | None,
    ) -> torch.Tensor:
        """Returns the divergence on labels where the student has not answered, and on its answers where it has."""
        off_policy, on_policy = split_rows(batch)
        items = self.count(batch) if num_items is None else num_items
        total = states.values.new_zeros(())
        if off_policy is not None:
            rows = off_policy[ROWS]
            total = total + self._divergence_of(gold[rows], off_policy, items)
        if on_policy is not None:
            answers = decode(student, states[on_policy[ROWS]], on_policy["labels"])
            total = total + self._divergence_of(answers, on_policy, items)
        return total

    def _divergence_of(self, student: LazyLogits, part: Batch, items: torch.Tensor | int) -> torch.Tensor:
        teacher: Any = self._ask(part)
        if self.is_original:
            return original_divergence(teacher.logits(), student.logits())
        if self.universal_temperature is not None:
            return universal_loss(
                student,
                teacher,
                part["aligned"],
                temperature=self.universal_temperature,
                num_items=items,
                chunk_size=self.chunk_size,
            )
        return distillation_loss(
            student,
            teacher,
            None,
            objective=replace(self.objective, alpha=1.0),
            mask=part["labels"].ne(IGNORE_INDEX),
            num_divergence_items=items,
            shared_ids=self.shared_ids,
            chunk_size=self.chunk_size,
        ).loss


@dataclass(frozen=True, eq=False)
class EncoderStates:
    """What the decoder reads of the sources of a batch.

    Args:
        values: Of shape (batch, states, hidden).
        mask: Which of them are no padding, of shape (batch, states). They are as many as the source has tokens, unless
            the encoder has averaged those of images.
    """

    values: torch.Tensor
    mask: torch.Tensor

    def __getitem__(self, rows: torch.Tensor) -> "EncoderStates":
        """Returns some rows."""
        return EncoderStates(self.values[rows], self.mask[rows])


def encode(student: PreTrainedModel, batch: Batch) -> EncoderStates:
    """Returns what the student's encoder makes of the sources of a batch, and of their images."""
    encoded = student.get_encoder()(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **images_for(student, batch)
    )
    mask = encoded["attention_mask"] if "attention_mask" in encoded else batch["attention_mask"]
    return EncoderStates(encoded.last_hidden_state, mask)


def images_for(student: PreTrainedModel, batch: Batch) -> dict[str, torch.Tensor]:
    """Returns the images of a batch as the student takes them."""
    return batch[STUDENT_IMAGES].joined(student) if STUDENT_IMAGES in batch else {}


def decode(student: Any, states: EncoderStates, labels: torch.Tensor) -> LazyLogits:
    """Returns the student's logits for labels.

    Args:
        student: An encoder-decoder.
        states: Of its encoder.
        labels: Of shape (batch, target).
    """
    with capture_head(student) as head:
        student(
            encoder_outputs=BaseModelOutput(last_hidden_state=states.values),
            attention_mask=states.mask,
            decoder_input_ids=student.prepare_decoder_input_ids_from_labels(labels=labels),
            use_cache=False,
        )
        return head.read()


def select(batch: Batch, rows: torch.Tensor) -> dict[str, Any]:
    """Returns some rows of a batch, without the samples, and which they are."""
    chosen = {name: value[rows] for name, value in batch.items() if _is_by_row(value)}
    return {**chosen, ROWS: rows}


def split_rows(batch: Batch) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Returns the rows whose divergence is taken on their labels, and those where it is on the student's samples."""
    every = torch.arange(len(batch["labels"]), device=batch["labels"].device)
    if SAMPLES not in batch:
        return select(batch, every), None
    samples = batch[SAMPLES]
    sampled = samples[ROWS]
    others = every[torch.isin(every, sampled, invert=True)]
    on_policy = {**select(batch, sampled), **samples}
    return (select(batch, others) if len(others) else None), on_policy


def _is_by_row(value: Any) -> bool:
    return isinstance(value, RowImages) or (isinstance(value, torch.Tensor) and value.ndim > 0)
