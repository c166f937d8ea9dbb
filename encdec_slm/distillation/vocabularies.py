"""Teacher and student whose tokens have the same ids, but whose vocabularies are padded to different sizes.

Each side's softmax runs over its full vocabulary first. What is compared is then the probability of each id that both
have, and of all other ids together: the tail. A student that wastes probability on ids that the teacher lacks pays
for it, which it would not if the logits were cut before the softmax.
"""

import math

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerBase


# the logarithm of float32's smallest normal number: the probability of a tail that has no ids
LOG_TINY = math.log(torch.finfo(torch.float32).tiny)


def log_tail(log_probs: torch.Tensor) -> torch.Tensor:
    """Returns the log-probability of all the given outcomes together, at least `LOG_TINY`.

    With a tail of probability 0 on one side, a divergence would be infinite for whatever the other side has there.

    Args:
        log_probs: Of shape (..., outcomes), where there may be no outcomes.

    Returns:
        Of shape (...).
    """
    return F.pad(log_probs, (0, 1), value=LOG_TINY).logsumexp(dim=-1)


def to_shared_ids(
    teacher_log_probs: torch.Tensor, student_log_probs: torch.Tensor, *, shared_ids: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the log-probabilities of the teacher and the student over the ids that both have, then of the tail.

    The tail of a side without other ids has the probability `tiny` of float32. Where no side has any, both are
    returned as they came.

    Args:
        teacher_log_probs: Normalised, of shape (..., teacher vocab).
        student_log_probs: Normalised, of shape (..., student vocab).
        shared_ids: How many ids, from 0 on, mean the same to both (see `count_shared_ids`); all that both have if not
            given.

    Returns:
        Two tensors of shape (..., shared_ids + 1).

    Raises:
        ValueError: If a vocabulary is smaller than `shared_ids`.

    Example:
    >>> half, third = torch.full((2,), 1 / 2).log(), torch.full((3,), 1 / 3).log()
    >>> teacher, student = to_shared_ids(half, third)
    >>> print(teacher.exp().round(decimals=4), student.exp().round(decimals=4))
    tensor([0.5000, 0.5000, 0.0000]) tensor([0.3333, 0.3333, 0.3333])
    """
    sizes = teacher_log_probs.shape[-1], student_log_probs.shape[-1]
    shared = min(sizes) if shared_ids is None else shared_ids
    if not 1 <= shared <= min(sizes):
        raise ValueError(
            f"teacher and student are said to share {shared} ids, but their vocabularies have {sizes[0]} and "
            f"{sizes[1]}: shared_ids is at least 1 and at most the smaller one"
        )
    if max(sizes) == shared:
        return teacher_log_probs, student_log_probs
    return _with_tail(teacher_log_probs, shared), _with_tail(student_log_probs, shared)


def count_shared_ids(teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> int:
    """Returns how many ids, from 0 on, stand for the same string in both tokenizers.

    One of them may have more: tokens that were added behind the others. Both may have special tokens there that
    differ, such as those of images: these are not shared, nor is what follows them. Only the strings are compared, not
    how a text is cut into them: what one tokenizer has cut is given to both models.

    Raises:
        ValueError: If an id stands for different strings, or for one in the middle of the ids of only one tokenizer.
    """
    teacher_tokens, student_tokens = _tokens_by_id(teacher), _tokens_by_id(student)
    shared = 1 + min(max(teacher_tokens), max(student_tokens))
    different = [i for i in range(shared) if teacher_tokens.get(i) != student_tokens.get(i)]
    if different and different[0] > max(_last_of_text(teacher), _last_of_text(student)):
        return different[0]
    if different:
        shown = ", ".join(f"{i} is {teacher_tokens.get(i)!r} and {student_tokens.get(i)!r}" for i in different[:3])
        raise ValueError(
            f"{len(different)} of {shared} ids mean different tokens to teacher and student ({shown}): divergences "
            "compare the probabilities of one token with one another. Take a student with the teacher's tokenizer; "
            "different tokenizers need universal logit distillation"
        )
    return shared


def _with_tail(log_probs: torch.Tensor, shared: int) -> torch.Tensor:
    tail = log_tail(log_probs[..., shared:])
    return torch.cat([log_probs[..., :shared], tail.unsqueeze(-1)], dim=-1)


def _tokens_by_id(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    return {i: token for token, i in tokenizer.get_vocab().items()}


def _last_of_text(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the highest id of a token that is no special one; -1 if there is none."""
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return max(set(tokenizer.get_vocab().values()) - special, default=-1)
