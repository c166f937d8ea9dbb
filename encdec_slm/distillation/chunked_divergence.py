"""Cross-entropy and divergence from hidden states and LM heads, a few positions at a time.

The logits of a batch are by far its largest tensor, and a loss in float32 makes a dozen of that size. Here they exist
for `chunk_size` positions only: while a chunk's logits are there its gradient is computed too, down to the hidden
states and the head, and nothing of the size of the vocabulary is kept for `backward`. Nothing is projected twice, and
positions that do not count are not projected at all.
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from encdec_slm.distillation.divergences import (
    FORWARD_KL,
    Divergence,
    TopK,
    denominator,
    divergence_from_logits,
    divergence_from_top_k,
    to_float32,
)


# what `CrossEntropyLoss` and the collators of Transformers leave out
IGNORE_INDEX = -100


@dataclass(frozen=True, eq=False)
class LazyLogits:
    """Logits that are not computed yet: hidden states, and the LM head that makes logits of them.

    A model that multiplies hidden states or logits by a number before or after its head (T5 with tied embeddings,
    Granite) has that number multiplied into `hidden_states`.

    Args:
        hidden_states: What goes into the head, of shape (batch, target, hidden).
        weight: Of shape (vocab, hidden).
        bias: Of shape (vocab,).
        softcap: Logits are softcap * tanh(logits / softcap), as in Gemma 2 (`final_logit_softcapping`).
        exchange: Two ids whose logits are swapped: of a teacher that ends its answers by another token than the
            student, while both have one vocabulary.

    Raises:
        ValueError: If the head does not fit the hidden states, or has no such ids.
    """

    hidden_states: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None = None
    softcap: float | None = None
    exchange: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.weight.shape[1] != self.hidden_states.shape[-1]:
            raise ValueError(
                f"an LM head of shape {tuple(self.weight.shape)} cannot read hidden states of shape "
                f"{tuple(self.hidden_states.shape)}: pass those that go into this head, and its weight as (vocab, "
                "hidden)"
            )
        if self.bias is not None and self.bias.shape != self.weight.shape[:1]:
            raise ValueError(
                f"the LM head has a bias of shape {tuple(self.bias.shape)} for a vocabulary of {len(self.weight)}: "
                "flatten it"
            )
        if self.exchange is not None and not all(0 <= i < self.vocab_size for i in self.exchange):
            raise ValueError(
                f"the ids {self.exchange} are to be exchanged, but the vocabulary has {self.vocab_size}: both must be "
                "in it"
            )

    @property
    def shape(self) -> torch.Size:
        """That of the positions: (batch, target)."""
        return self.hidden_states.shape[:-1]

    @property
    def device(self) -> torch.device:
        """Where the logits will be."""
        return self.hidden_states.device

    @property
    def vocab_size(self) -> int:
        """Number of rows of the head."""
        return self.weight.shape[0]

    def __getitem__(self, index: slice | torch.Tensor) -> "LazyLogits":
        """Returns some positions: an index, slice or mask of all dimensions but the last."""
        return replace(self, hidden_states=self.hidden_states[index])

    def project(self) -> torch.Tensor:
        """Returns what the head gives, in the dtype it computes in."""
        return F.linear(self.hidden_states, self.weight, self.bias)

    def finish(self, projected: torch.Tensor) -> torch.Tensor:
        """Returns the logits, at least in float32, of what `project` gave."""
        logits = to_float32(projected)
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return exchange_logits(logits, self.exchange)

    def logits(self) -> torch.Tensor:
        """Returns the logits of all positions at once, of shape (batch, target, vocab), at least in float32."""
        return self.finish(self.project())


class TeacherLogits(Protocol):
    """What a loss needs of a teacher's logits: `LazyLogits`, or some that are computed already."""

    @property
    def shape(self) -> torch.Size:
        """That of the positions: (batch, target)."""

    def __getitem__(self, index: slice | torch.Tensor) -> "TeacherLogits":
        """Returns some positions."""

    def logits(self) -> torch.Tensor:
        """Returns the logits of all positions, at least in float32."""


def exchange_logits(logits: torch.Tensor, exchange: tuple[int, int] | None) -> torch.Tensor:
    """Returns logits of shape (..., vocab) in which those of two ids are swapped; None for no ids."""
    if exchange is None:
        return logits
    ids = torch.tensor(exchange, device=logits.device)
    return logits.index_copy(-1, ids, logits[..., ids.flip(0)])


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is minimised: alpha T² D(teacher, student) + (1 - alpha) CE(labels).

    Args:
        alpha: Weight of the divergence, in [0, 1].
        divergence: D and T. The cross-entropy is always at temperature 1.
        label_smoothing: Share of the labels' probability that is spread over the student's whole vocabulary, in
            [0, 1), as in PyTorch's `cross_entropy`.

    Raises:
        ValueError: If a share is not one.
    """

    alpha: float = 0.5
    divergence: Divergence = FORWARD_KL
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}, but the share of the divergence is between 0 and 1")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}, but it is at least 0 and below 1")


@dataclass(frozen=True, eq=False)
class DistillationLoss:
    """The loss and its parts: `loss` is alpha * `divergence` + (1 - alpha) * `cross_entropy`.

    Args:
        loss: A number with a gradient to the student's hidden states and head.
        cross_entropy: Without a gradient; None if there are no labels.
        divergence: With its T², without a gradient; None if there is no teacher.
    """

    loss: torch.Tensor
    cross_entropy: torch.Tensor | None
    divergence: torch.Tensor | None


def distillation_loss(
    student: LazyLogits,
    teacher: TeacherLogits | TopK | None,
    labels: torch.Tensor | None,
    *,
    objective: Objective,
    mask: torch.Tensor | None = None,
    num_items: int | torch.Tensor | None = None,
    num_divergence_items: int | torch.Tensor | None = None,
    shared_ids: int | None = None,
    chunk_size: int = 256,
) -> DistillationLoss:
    """Returns the mean cross-entropy and divergence per token, in one pass over the student's logits.

    The gradient goes to the student's hidden states, weight and bias, as far as they require one, and not to the
    teacher. There is no second derivative. Under `no_grad` no gradient is computed.

    Args:
        student: Its position i predicts target token i.
        teacher: Likewise, on the same positions; None for the cross-entropy alone.
        labels: Target tokens of shape (batch, target), -100 where none is to be learned; None for the divergence
            alone.
        objective: How the terms are weighted.
        mask: Where the divergence counts, of the same shape; where there are labels if not given.
        num_items: By what the sum of the cross-entropy is divided: how many labels there are in the whole step, over
            all batches that are accumulated and all processes. Those of this batch if not given.
        num_divergence_items: The same for the divergence. If not given, it is `num_items`, or, where that is not given
            either, the number of positions of this batch that count.
        shared_ids: How many ids mean the same to teacher and student; see `to_shared_ids`. A `TopK` was made with it.
        chunk_size: Number of positions whose logits exist at a time.

    Raises:
        ValueError: If a term has a weight but no input, or shapes, ids or temperatures do not fit.
    """
    mask = _divergence_mask(teacher, labels, mask)
    _check_weights(teacher, labels, objective)
    _check_positions(student, teacher, labels, mask)
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}, but a chunk has at least 1 position")
    learned = torch.zeros_like(mask) if labels is None else labels != IGNORE_INDEX
    label_items = denominator(learned, num_items)
    divergence_items = denominator(mask, num_items if num_divergence_items is None else num_divergence_items)
    counts = learned | mask
    # float16 has no room for the gradient of a mean over many tokens: it is divided by their number at the end
    scale = divergence_items if objective.alpha > 0 else label_items
    terms = _Terms(
        teacher=None if teacher is None else teacher[counts],
        labels=None if labels is None else labels[counts],
        mask=mask[counts],
        objective=objective,
        weights=scale * torch.stack([(1 - objective.alpha) / label_items, objective.alpha / divergence_items]),
        shared_ids=shared_ids,
        chunk_size=chunk_size,
        softcap=student.softcap,
        exchange=student.exchange,
        with_gradient=torch.is_grad_enabled(),
    )
    total, sums = _SumOverChunks.apply(student.hidden_states[counts], student.weight, student.bias, terms)
    return DistillationLoss(
        loss=total / scale,
        cross_entropy=None if labels is None else sums[0] / label_items,
        divergence=None if teacher is None else sums[1] / divergence_items,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class _Terms:
    """All that the sum over chunks depends on beside the student: the positions that count, and how."""

    teacher: TeacherLogits | TopK | None
    labels: torch.Tensor | None
    mask: torch.Tensor
    objective: Objective
    weights: torch.Tensor
    shared_ids: int | None
    chunk_size: int
    softcap: float | None
    exchange: tuple[int, int] | None
    with_gradient: bool

    def weighted(self, sums: torch.Tensor) -> torch.Tensor:
        """Returns the weighted sum of both; a term without weight may be infinite."""
        # no product of vectors: autocast would round it to half precision
        return (sums.masked_fill(self.weights == 0, 0) * self.weights.to(sums.dtype)).sum()

    def sums(self, logits: torch.Tensor, rows: slice) -> torch.Tensor:
        """Returns the sums of cross-entropy and divergence over some positions, of shape (2,)."""
        with _gradient(self.objective.alpha < 1):
            cross_entropy = self._cross_entropy(logits, rows)
        with _gradient(self.objective.alpha > 0):
            divergence = self._divergence(logits, rows)
        return torch.stack([cross_entropy, divergence])

    def _cross_entropy(self, logits: torch.Tensor, rows: slice) -> torch.Tensor:
        if self.labels is None:
            return logits.new_zeros(())
        return F.cross_entropy(
            logits,
            self.labels[rows],
            reduction="sum",
            ignore_index=IGNORE_INDEX,
            label_smoothing=self.objective.label_smoothing,
        )

    def _divergence(self, logits: torch.Tensor, rows: slice) -> torch.Tensor:
        if self.teacher is None:
            return logits.new_zeros(())
        # left out, not multiplied by 0: where the teacher is not asked it may have said NaN
        mask, divergence = self.mask[rows], self.objective.divergence
        student, teacher = logits[mask], self.teacher[rows][mask]
        if isinstance(teacher, TopK):
            return divergence_from_top_k(teacher, student, divergence=divergence).sum()
        with torch.no_grad():
            teacher_logits = teacher.logits()
        return divergence_from_logits(teacher_logits, student, divergence=divergence, shared_ids=self.shared_ids).sum()


def _gradient(wanted: bool) -> torch.set_grad_enabled:
    """Returns a context that has gradients if they are wanted and not switched off already."""
    return torch.set_grad_enabled(wanted and torch.is_grad_enabled())


class _SumOverChunks(torch.autograd.Function):
    """Sums both terms over all positions; the gradient of their weighted sum is computed along the way."""

    @staticmethod
    def forward(
        ctx: Any, hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, terms: _Terms
    ) -> tuple[torch.Tensor, torch.Tensor]:
        student = LazyLogits(hidden_states, weight, bias, terms.softcap, terms.exchange)
        wanted = [terms.with_gradient and needed for needed in ctx.needs_input_grad[:3]]
        gradients = [
            torch.zeros_like(value, dtype=torch.promote_types(value.dtype, torch.float32))
            if wants and value is not None
            else None
            for value, wants in zip((hidden_states, weight, bias), wanted, strict=True)
        ]
        sums = to_float32(hidden_states.new_zeros(2))
        for start in range(0, len(hidden_states), terms.chunk_size):
            sums += _add_chunk(student, terms, slice(start, start + terms.chunk_size), gradients)
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [None if value is None else value.dtype for value in (hidden_states, weight, bias)]
        ctx.mark_non_differentiable(sums)
        return terms.weighted(sums), sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, total: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scaled = [
            None if gradient is None else (total * gradient).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *scaled, None


def _add_chunk(student: LazyLogits, terms: _Terms, rows: slice, gradients: list[torch.Tensor | None]) -> torch.Tensor:
    """Returns the sums of a chunk, and adds its gradient to those of hidden states, weight and bias."""
    chunk = student[rows]
    projected = chunk.project()
    if all(gradient is None for gradient in gradients):
        return terms.sums(chunk.finish(projected), rows)
    projected.requires_grad_()
    with torch.enable_grad():
        sums = terms.sums(chunk.finish(projected), rows)
        (gradient,) = torch.autograd.grad(terms.weighted(sums), projected)
    of_hidden_states, of_weight, of_bias = gradients
    if of_hidden_states is not None:
        of_hidden_states[rows] = gradient @ student.weight
    if of_weight is not None:
        of_weight += gradient.T @ chunk.hidden_states
    if of_bias is not None:
        of_bias += to_float32(gradient).sum(dim=0)
    return sums.detach()


def _divergence_mask(
    teacher: TeacherLogits | TopK | None, labels: torch.Tensor | None, mask: torch.Tensor | None
) -> torch.Tensor:
    if mask is None:
        if labels is None:
            raise ValueError("neither labels nor a mask are given: one of them must tell which positions count")
        mask = labels.ne(IGNORE_INDEX)
    return mask.bool() if teacher is not None else torch.zeros_like(mask, dtype=torch.bool)


def _check_weights(teacher: TeacherLogits | TopK | None, labels: torch.Tensor | None, objective: Objective) -> None:
    if teacher is None and objective.alpha > 0:
        raise ValueError(f"alpha is {objective.alpha}, but there is no teacher: give one, or set alpha to 0")
    if labels is None and objective.alpha < 1:
        raise ValueError(f"alpha is {objective.alpha}, but there are no labels: give them, or set alpha to 1")


def _check_positions(
    student: LazyLogits, teacher: TeacherLogits | TopK | None, labels: torch.Tensor | None, mask: torch.Tensor
) -> None:
    shapes = {"student": student.shape, "mask": mask.shape}
    if labels is not None:
        shapes["labels"] = labels.shape
        if labels.numel() and int(labels.max()) >= student.vocab_size:
            raise ValueError(f"a label is {int(labels.max())}, but the student's vocabulary has {student.vocab_size}")
    if teacher is not None:
        shapes["teacher"] = teacher.tail.shape if isinstance(teacher, TopK) else teacher.shape
    if len(set(shapes.values())) > 1:
        shown = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        raise ValueError(f"the positions (batch, target) do not agree: {shown}. Align them first")
