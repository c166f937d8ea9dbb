"""A teacher's predictions must not depend on the padding of a batch: found out before the training starts."""

from collections.abc import Sequence

import torch

from encdec_slm.distillation.alignment import read_after_prompt
from encdec_slm.distillation.heads import language_model
from encdec_slm.distillation.teachers import Teacher, is_quantized


# read if no prompt of the data is given: so many tokens, however many the tokenizer makes of it
MOST_TOKENS = 24
SAMPLE = "A week has seven days. Which day comes after Saturday? After Saturday comes Sunday, and then Monday."
# the largest difference between two log-probabilities in float32
MOST_NATS = 1e-3
# the largest Kullback-Leibler divergence at a position, in nats, where weights have 16 bits or fewer: rounding changes
# the log-probabilities of unlikely tokens by tenths of a nat. With SmolLM2-135M in bfloat16 it makes a divergence of
# 0.0025, and a mask that is ignored one of 1.5
MOST_DIVERGENCE = 0.05


@torch.no_grad()
def check_teacher(teacher: Teacher, prompt: Sequence[int] | None = None, *, target_length: int = 4) -> None:
    """Reads a text and its second half, each alone and both in one batch padded on the left, and compares.

    Args:
        teacher: Asked as in the training, by `predict`; with its first adapter if it has some.
        prompt: Token ids of a text, best one as long as those of the data; a short one is made up if not given.
        target_length: How many tokens at the end of each text are predicted.

    Raises:
        ValueError: If the teacher's predictions change by more than rounding, or the text is too short.
    """
    ids = teacher.tokenizer(SAMPLE)["input_ids"][:MOST_TOKENS] if prompt is None else list(prompt)
    texts = [ids, ids[len(ids) // 2 :]]
    if len(texts[1]) <= target_length:
        raise ValueError(
            f"a text of {len(ids)} tokens is too short to predict {target_length} of its second half: give a longer "
            "prompt"
        )
    together = _log_probs(teacher, texts, target_length)
    alone = torch.cat([_log_probs(teacher, [text], target_length) for text in texts])
    is_exact = _is_exact(teacher)
    difference = float(_largest_difference(alone, together) if is_exact else _divergence(alone, together).max())
    most, unit = (MOST_NATS, "in log-probability") if is_exact else (MOST_DIVERGENCE, "nats of KL divergence")
    # NaN is a difference too
    if not difference <= most:
        raise ValueError(
            f"what the teacher ({type(language_model(teacher.model)).__name__}) says about a row changes by "
            f"{difference:.2g} {unit} when the row is padded on the left, more than {most:g}: it does not obey "
            "attention_mask and position_ids, or its rotary scaling depends on the longest row of the batch. Load it "
            'with attn_implementation="eager", use a newer model class, or train with check_teacher=False on batches '
            "of rows of equal length"
        )


def _log_probs(teacher: Teacher, texts: list[list[int]], target_length: int) -> torch.Tensor:
    """Returns what the teacher says about the last tokens of texts in one batch, (batch, target, vocab)."""
    longest = max(map(len, texts))
    padded = [[teacher.pad_token_id] * (longest - len(text)) + text for text in texts]
    mask = [[0] * (longest - len(text)) + [1] * len(text) for text in texts]
    ids, real = (torch.tensor(rows, device=teacher.device) for rows in (padded, mask))
    inputs = read_after_prompt(
        ids[:, :-target_length],
        real[:, :-target_length],
        ids[:, -target_length:],
        real[:, -target_length:],
        pad_token_id=teacher.pad_token_id,
    )
    index = torch.zeros(len(texts), dtype=torch.long) if teacher.adapters else None
    return teacher.predict(inputs, index).logits().log_softmax(dim=-1)


def _is_exact(teacher: Teacher) -> bool:
    below = language_model(teacher.model)
    return below.dtype in (torch.float32, torch.float64) and not is_quantized(below)


def _largest_difference(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    # both may be -inf
    return torch.where(first == second, 0, first - second).abs().max()


def _divergence(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return (first.exp() * torch.where(first == second, 0, first - second)).sum(dim=-1)
