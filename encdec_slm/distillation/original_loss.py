"""The loss as the code published with arXiv 2501.16273 computes it, to compare with: not to train with.

It differs from `distillation_loss` in four ways. Both logits are cut to the smaller vocabulary before the softmax, so
what the larger one puts on its other ids is not seen; the mean is over all positions, padding included, whose
divergences are summed as well; it is computed in the dtype of the logits, bfloat16 there; and the temperature is 1. It
is a forward KL, while the paper speaks of a reverse one.
"""

import torch
import torch.nn.functional as F


def original_divergence(
    teacher_logits: torch.Tensor, student_logits: torch.Tensor, *, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Returns the sum of KL(p || q) over all positions, padding included, divided by their number.

    For a batch with n real positions of N, it is n / N times the mean over the real ones, and (N - n) / N times that
    over the padding. The published code pads all targets to one length, so N is batch size times this length.

    Args:
        teacher_logits: Of shape (batch, target, teacher vocab).
        student_logits: Of shape (batch, target, student vocab).
        dtype: In which all is computed; that of the logits if not given.

    Returns:
        A scalar.

    Raises:
        ValueError: If batch or target differ.
    """
    if teacher_logits.shape[:-1] != student_logits.shape[:-1]:
        raise ValueError(
            f"teacher and student have logits of shapes {tuple(teacher_logits.shape)} and "
            f"{tuple(student_logits.shape)}: align the positions; only the vocabularies may differ"
        )
    smaller = min(teacher_logits.shape[-1], student_logits.shape[-1])
    teacher, student = (
        logits[..., :smaller].flatten(end_dim=-2).log_softmax(dim=-1, dtype=dtype)
        for logits in (teacher_logits, student_logits)
    )
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def original_loss(
    teacher_logits: torch.Tensor,
    student_logits: torch.Tensor,
    cross_entropy: torch.Tensor,
    *,
    alpha: float = 0.9,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Returns alpha * divergence + (1 - alpha) * cross-entropy.

    Args:
        teacher_logits: Of shape (batch, target, teacher vocab). The published targets of the divergence are samples of
            the student.
        student_logits: Of shape (batch, target, student vocab).
        cross_entropy: Of the gold targets, averaged over their real tokens: a scalar.
        alpha: Weight of the divergence; 0.9 in the published recipe.
        dtype: As in `original_divergence`.

    Returns:
        A scalar.

    Raises:
        ValueError: If alpha is not between 0 and 1, or the positions differ.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}, but it is the weight of the divergence, between 0 and 1")
    divergence = original_divergence(teacher_logits, student_logits, dtype=dtype)
    return alpha * divergence + (1 - alpha) * cross_entropy
