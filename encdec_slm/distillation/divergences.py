"""How far the student's next-token distribution is from the teacher's, at each position of the target.

Pure functions. p is the teacher's distribution, q the student's, V the size of the vocabulary. All is computed in
float32 (or float64, if that is what comes in), whatever the dtype of the logits: in bfloat16 a divergence over a large
vocabulary is mostly rounding error.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch

from encdec_slm.distillation.vocabularies import LOG_TINY, log_tail, to_shared_ids


DivergenceName = Literal["forward_kl", "reverse_kl", "jsd", "skewed_forward_kl", "skewed_reverse_kl"]


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """A divergence between teacher and student at a temperature, where m is a mixture of both.

    - `forward_kl`: KL(p || q). The student covers all that the teacher may say.
    - `reverse_kl`: KL(q || p). The student keeps to what the teacher finds likely.
    - `jsd`: beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q. Generalised Jensen-Shannon divergence
      (Agarwal et al., arXiv 2306.13649, section 2). It is bounded, symmetric for beta = 1/2, and goes to 0 at both
      ends: JSD / beta goes to the forward KL for beta to 0, and JSD / (1 - beta) to the reverse KL for beta to 1.
    - `skewed_forward_kl`: KL(p || m), m = skew p + (1 - skew) q, at most -log(skew).
    - `skewed_reverse_kl`: KL(q || m), m = (1 - skew) p + skew q, likewise. (Both: Ko et al., arXiv 2402.03898,
      section 3.1, who use 0.1.)

    Natural logarithms, 0 log 0 = 0. Infinite, as it should be, where the second argument of a KL lacks an outcome of
    the first one.

    Args:
        name: One of the above.
        beta: Weight of the teacher in `jsd`, in (0, 1).
        skew: Share of the first argument in the second one of the skewed KLs, in [0, 1).
        temperature: T. Both distributions are softmax(logits / T), and the divergence is multiplied by T², so that
            its gradient is as strong at every temperature (Hinton et al., arXiv 1503.02531, section 2).

    Raises:
        ValueError: If there is no such divergence.
    """

    name: DivergenceName = "forward_kl"
    beta: float = 0.5
    skew: float = 0.1
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in get_args(DivergenceName):
            raise ValueError(f"divergence is {self.name!r}, but it is one of {', '.join(get_args(DivergenceName))}")
        if not 0 < self.beta < 1:
            raise ValueError(
                f"beta is {self.beta}, but JSD(beta) is between 0 and 1 and is always 0 at both ends: take forward_kl "
                "as the limit at 0, reverse_kl as the one at 1"
            )
        if not 0 <= self.skew < 1:
            raise ValueError(f"skew is {self.skew}, but it is at least 0 and below 1, where the skewed KL is always 0")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}, but it is positive and finite")

    def soften(self, logits: torch.Tensor) -> torch.Tensor:
        """Returns log softmax(logits / T), at least in float32; log-probabilities at T = 1 are logits too."""
        return (to_float32(logits) / self.temperature).log_softmax(dim=-1)

    def between(self, teacher_log_probs: torch.Tensor, student_log_probs: torch.Tensor) -> torch.Tensor:
        """Returns T² D of distributions that `soften` made, one number per position.

        Args:
            teacher_log_probs: Normalised, of shape (batch, target, outcomes), -inf allowed.
            student_log_probs: Likewise.

        Returns:
            Of shape (batch, target).

        Raises:
            ValueError: If the shapes differ.
        """
        if teacher_log_probs.shape != student_log_probs.shape:
            raise ValueError(
                f"teacher and student have log-probabilities of shapes {tuple(teacher_log_probs.shape)} and "
                f"{tuple(student_log_probs.shape)}: align the positions, and vocabularies with `to_shared_ids`"
            )
        teacher_weight, student_weight, share = self._formula()
        mixture = _log_mixture(teacher_log_probs, student_log_probs, share)
        value = student_log_probs.new_zeros(student_log_probs.shape[:-1])
        if teacher_weight:
            value = value + teacher_weight * _kl(teacher_log_probs, mixture)
        if student_weight:
            value = value + student_weight * _kl(student_log_probs, mixture)
        return self.temperature**2 * value

    def _formula(self) -> tuple[float, float, float]:
        """Returns a, b and c of a KL(p || m) + b KL(q || m) with m = c p + (1 - c) q, which all divergences are."""
        return {
            "forward_kl": (1.0, 0.0, 0.0),
            "reverse_kl": (0.0, 1.0, 1.0),
            "jsd": (self.beta, 1 - self.beta, self.beta),
            "skewed_forward_kl": (1.0, 0.0, self.skew),
            "skewed_reverse_kl": (0.0, 1.0, 1 - self.skew),
        }[self.name]


FORWARD_KL = Divergence()


@dataclass(frozen=True, eq=False)
class TopK:
    """The teacher's most likely tokens and the probability of all others together, as a cache keeps them.

    Args:
        log_probs: Log-probabilities of shape (batch, target, k).
        ids: Which tokens, of the same shape; no token twice at a position.
        tail: Log-probability of all other tokens together, of shape (batch, target).
        temperature: That of the probabilities. They cannot be had at another one: the tail is many tokens in one.
    """

    log_probs: torch.Tensor
    ids: torch.Tensor
    tail: torch.Tensor
    temperature: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        if not self.log_probs.shape == self.ids.shape == (*self.tail.shape, self.ids.shape[-1]):
            raise ValueError(
                f"log_probs, ids and tail have shapes {tuple(self.log_probs.shape)}, {tuple(self.ids.shape)} and "
                f"{tuple(self.tail.shape)}, but log_probs and ids are as many numbers for each one of tail"
            )

    def __getitem__(self, index: slice | torch.Tensor) -> "TopK":
        """Returns some positions: an index, slice or mask of all dimensions but the last."""
        return replace(self, log_probs=self.log_probs[index], ids=self.ids[index], tail=self.tail[index])


def top_k_of_logits(logits: torch.Tensor, k: int, *, temperature: float = 1.0, shared_ids: int | None = None) -> TopK:
    """Returns the k most likely tokens of each position.

    Args:
        logits: The teacher's, of shape (batch, target, vocab).
        k: How many, at most as many as there are.
        temperature: Of the softmax over the whole vocabulary.
        shared_ids: How many ids, from 0 on, the student knows too; all if not given. Others count in the tail.

    Raises:
        ValueError: If there are fewer than `k` tokens.
    """
    log_probs = Divergence(temperature=temperature).soften(logits)
    known = log_probs[..., :shared_ids]
    if not 1 <= k <= known.shape[-1]:
        raise ValueError(f"k is {k}, but there are 1 to {known.shape[-1]} tokens to choose from")
    top = known.topk(k, dim=-1)
    return TopK(top.values, top.indices, _log_rest(log_probs, top.indices), temperature=temperature)


def divergence_from_logits(
    teacher_logits: torch.Tensor,
    student_logits: torch.Tensor,
    *,
    divergence: Divergence = FORWARD_KL,
    shared_ids: int | None = None,
) -> torch.Tensor:
    """Returns T² D(p, q), one number per position.

    Args:
        teacher_logits: Of shape (batch, target, teacher vocab), of any floating dtype.
        student_logits: Of shape (batch, target, student vocab).
        divergence: D and T.
        shared_ids: How many ids mean the same to both; see `to_shared_ids`.

    Returns:
        Of shape (batch, target).
    """
    teacher, student = divergence.soften(teacher_logits), divergence.soften(student_logits)
    return divergence.between(*to_shared_ids(teacher, student, shared_ids=shared_ids))


def divergence_from_top_k(
    teacher: TopK, student_logits: torch.Tensor, *, divergence: Divergence = FORWARD_KL
) -> torch.Tensor:
    """Returns T² D between the k tokens of the teacher and the tail, and the student's probability of the same.

    Never more than the divergence over the whole vocabulary, since what is not told apart cannot differ
    (data-processing inequality), and equal to it for k = V.

    Args:
        teacher: What is known of p. It is normalised again: a cache may have rounded it.
        student_logits: Of shape (batch, target, vocab), with a vocabulary that has all ids of the teacher.
        divergence: D and T.

    Returns:
        Of shape (batch, target).

    Raises:
        ValueError: If the temperatures differ, or the student lacks an id.
    """
    _check_top_k(teacher, student_logits.shape[-1], divergence)
    known = torch.cat([to_float32(teacher.log_probs), to_float32(teacher.tail).unsqueeze(-1)], dim=-1)
    known = known.log_softmax(dim=-1)
    known = torch.cat([known[..., :-1], known[..., -1:].clamp(min=LOG_TINY)], dim=-1)
    student = divergence.soften(student_logits)
    tail = _log_rest(student, teacher.ids)
    return divergence.between(known, torch.cat([student.gather(-1, teacher.ids), tail.unsqueeze(-1)], dim=-1))


def masked_mean(
    values: torch.Tensor, mask: torch.Tensor, *, num_items: int | torch.Tensor | None = None
) -> torch.Tensor:
    """Returns the sum of the values where the mask is true, divided by `num_items`; 0 where it is nowhere true.

    Args:
        values: One per position, of shape (batch, target).
        mask: Which of them count, of the same shape. Make it from labels or lengths, never from ids: a padding token
            may also be the end of the sequence, or the unknown token.
        num_items: How many count in the whole step, over all batches that are accumulated and all processes; as many
            as `mask` has if not given.
    """
    return values.masked_fill(~mask, 0).sum() / denominator(mask, num_items)


def denominator(mask: torch.Tensor, num_items: int | torch.Tensor | None) -> torch.Tensor:
    """Returns `num_items`, or how often `mask` is true if not given, and 1 for 0: the mean of nothing is 0."""
    items = mask.sum() if num_items is None else torch.as_tensor(num_items, device=mask.device)
    return items.float() + (items == 0)


def to_float32(values: torch.Tensor) -> torch.Tensor:
    """Returns the values in float32, or in float64 if that is what they have."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _check_top_k(teacher: TopK, student_vocab: int, divergence: Divergence) -> None:
    if teacher.temperature != divergence.temperature:
        raise ValueError(
            f"the teacher's top-k probabilities have temperature {teacher.temperature}, but the divergence has "
            f"{divergence.temperature}: use that of the teacher, or compute its top-k anew"
        )
    if teacher.ids.numel() and int(teacher.ids.max()) >= student_vocab:
        raise ValueError(
            f"the teacher's top-k has id {int(teacher.ids.max())}, but the student's vocabulary has {student_vocab}: "
            "compute it with the `shared_ids` of both"
        )


def _kl(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    # 0 log 0 = 0, also in the gradient: where both are -inf their difference is NaN
    absent = first == -math.inf
    return (first.exp() * (first.masked_fill(absent, 0) - second.masked_fill(absent, 0))).sum(dim=-1)


def _log_mixture(teacher: torch.Tensor, student: torch.Tensor, share: float) -> torch.Tensor:
    """Returns log(share p + (1 - share) q)."""
    if share in (0, 1):
        return teacher if share else student
    # the gradient of logaddexp at (-inf, -inf) is NaN; no KL looks at what is put there
    nowhere = (teacher == -math.inf) & (student == -math.inf)
    return torch.logaddexp(
        teacher.masked_fill(nowhere, 0) + math.log(share), student.masked_fill(nowhere, 0) + math.log1p(-share)
    )


def _log_rest(log_probs: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    # not 1 minus the others, which is nothing but rounding error where the rest is small
    return log_tail(log_probs.scatter(-1, ids, -math.inf))
