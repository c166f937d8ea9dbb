"""Universal logit distillation: teacher and student with different tokenizers (Boizard et al., arXiv 2402.12030).

Their ids have nothing in common, so what is compared is how sure both are: the probability of the most likely token,
of the second most likely one and so on, at positions where both continue the same text (see `aligned_positions`).
"""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from encdec_slm.distillation.chunked_divergence import LazyLogits, TeacherLogits
from encdec_slm.distillation.divergences import Divergence, denominator


def universal_divergence(
    teacher_logits: torch.Tensor, student_logits: torch.Tensor, *, temperature: float = 1.0
) -> torch.Tensor:
    """Returns T Σ_k |p_(k) - q_(k)|, one number per position, in [0, 2T].

    p_(k) is the teacher's k-th largest probability softmax(logits / T), q_(k) the student's, and the smaller
    vocabulary has further tokens of probability 0: the paper's closed form of a Wasserstein distance, times T. Which
    token has a probability does not matter: it is 0 also for a student that gives the teacher's probabilities to
    other tokens.

    The gradient of a probability is proportional to 1 / T, not to 1 / T² as that of a KL divergence: the factor T
    makes it as strong at every temperature, as T² does in `Divergence`.

    Args:
        teacher_logits: Of shape (..., teacher vocab), of any floating dtype; computed in float32 at least.
        student_logits: Of shape (..., student vocab), at the same positions.
        temperature: T.

    Returns:
        Of shape (...).

    Raises:
        ValueError: If the positions are not the same, or the temperature is not positive and finite.
    """
    if teacher_logits.shape[:-1] != student_logits.shape[:-1]:
        raise ValueError(
            f"teacher and student have logits of shapes {tuple(teacher_logits.shape)} and "
            f"{tuple(student_logits.shape)}: give both at the same positions, which `aligned_positions` tells"
        )
    soften = Divergence(temperature=temperature).soften
    teacher, student = (
        soften(logits).exp().sort(dim=-1, descending=True).values for logits in (teacher_logits, student_logits)
    )
    missing = teacher.shape[-1] - student.shape[-1]
    teacher, student = F.pad(teacher, (0, max(0, -missing))), F.pad(student, (0, max(0, missing)))
    return temperature * (teacher - student).abs().sum(dim=-1)


def universal_loss(
    student: LazyLogits,
    teacher: TeacherLogits,
    aligned: torch.Tensor,
    *,
    temperature: float = 1.0,
    num_items: int | torch.Tensor | None = None,
    chunk_size: int = 256,
) -> torch.Tensor:
    """Returns the mean of `universal_divergence` over all pairs of aligned positions, and 0 if there are none.

    Logits exist for `chunk_size` pairs only: those of a chunk are made again for its gradient, which goes to the
    student's hidden states, weight and bias, and not to the teacher.

    Args:
        student: Its position i predicts token i of its target.
        teacher: Likewise, of the same text in its own tokens.
        aligned: Of shape (batch, pairs, 2): positions of student and teacher, which increase along a row, padded with
            -1; see `aligned_positions`.
        temperature: T.
        num_items: By what the sum is divided: how many pairs there are in the whole step, over all batches that are
            accumulated and all processes. Those of this batch if not given.
        chunk_size: Number of pairs whose logits exist at a time.

    Raises:
        ValueError: If a position is not there, the pairs do not increase, or a number is out of range.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}, but a chunk has at least 1 pair")
    rows, pairs = _checked_pairs(student, teacher, aligned)
    # a mask keeps the order of the pairs, since they increase
    student = student[_mask_of(student.shape, rows, pairs[:, 0])]
    teacher = teacher[_mask_of(teacher.shape, rows, pairs[:, 1])]
    # one empty chunk if there are no pairs: the loss has a gradient, which is zero
    chunks = [slice(start, start + chunk_size) for start in range(0, max(1, len(rows)), chunk_size)]
    sums = [
        checkpoint(
            _sum_over_chunk,
            student[chunk],
            teacher[chunk],
            temperature,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for chunk in chunks
    ]
    return torch.stack(sums).sum() / denominator(torch.ones_like(rows), num_items)


def _sum_over_chunk(student: LazyLogits, teacher: TeacherLogits, temperature: float) -> torch.Tensor:
    with torch.no_grad():
        teacher_logits = teacher.logits()
    return universal_divergence(teacher_logits, student.logits(), temperature=temperature).sum()


def _checked_pairs(
    student: LazyLogits, teacher: TeacherLogits, aligned: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the row of each pair, of shape (all pairs,), and the pairs, of shape (all pairs, 2), without padding."""
    (rows_of_student, *lengths_of_student), (rows_of_teacher, *lengths_of_teacher) = student.shape, teacher.shape
    if aligned.ndim != 3 or aligned.shape[-1] != 2 or {len(aligned)} != {rows_of_student, rows_of_teacher}:
        raise ValueError(
            f"aligned has shape {tuple(aligned.shape)}, but it is (batch, pairs, 2) for {rows_of_student} rows of the "
            f"student and {rows_of_teacher} of the teacher"
        )
    rows, columns = (aligned != -1).any(dim=-1).nonzero(as_tuple=True)
    pairs, lengths = aligned[rows, columns], lengths_of_student + lengths_of_teacher
    if ((pairs < 0) | (pairs >= pairs.new_tensor(lengths))).any():
        raise ValueError(
            f"aligned has positions from {int(pairs.min())} to {pairs.amax(dim=0).tolist()}, but there are "
            f"{lengths[0]} of the student and {lengths[1]} of the teacher: cut the pairs along with the targets, and "
            "pad both numbers with -1"
        )
    decreasing = (rows[1:] == rows[:-1]) & (pairs[1:] <= pairs[:-1]).any(dim=-1)
    if decreasing.any():
        at = int(decreasing.nonzero()[0])
        raise ValueError(
            f"the pair {pairs[at].tolist()} comes before {pairs[at + 1].tolist()}, but both numbers increase along a "
            "row, as `aligned_positions` gives them"
        )
    return rows, pairs


def _mask_of(shape: torch.Size, rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros(shape, dtype=torch.bool, device=rows.device)
    mask[rows, positions] = True
    return mask
