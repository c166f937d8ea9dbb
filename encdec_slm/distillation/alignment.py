"""What a decoder-only teacher reads, and which of its positions predict which token of the target.

The teacher reads the prompt and the target in a row. What it says at the prompt's last token is about the target's
first one, and so on: its predictions of T target tokens are those of its last T + 1 positions but the very last. An
encoder-decoder student, whose decoder starts with a token of its own, says the same at its positions 0 to T - 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F

from encdec_slm.distillation.chunked_divergence import IGNORE_INDEX
from encdec_slm.distillation.images import RowImages


@dataclass(frozen=True, eq=False)
class TeacherInputs:
    """What a teacher reads: prompts, padded on the left, and targets, padded on the right.

    Args:
        input_ids: Of shape (batch, prompt + target).
        attention_mask: 1 where `input_ids` are not padding, of the same shape.
        position_ids: Counted from each row's first token, of the same shape.
        target_length: Number of columns of the targets, at the end.
        token_types: What else there is of each token, by the name of the model's argument, of the same shape.
        images: Of the rows; None if none of them has any.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    target_length: int
    token_types: Mapping[str, torch.Tensor] = field(default_factory=dict)
    images: RowImages | None = None

    def __getitem__(self, rows: torch.Tensor) -> "TeacherInputs":
        """Returns some rows.

        Args:
            rows: Which, of shape (rows,).
        """
        return replace(
            self,
            input_ids=self.input_ids[rows],
            attention_mask=self.attention_mask[rows],
            position_ids=self.position_ids[rows],
            token_types={name: types[rows] for name, types in self.token_types.items()},
            images=None if self.images is None else self.images[rows],
        )


def positions_from_mask(attention_mask: torch.Tensor) -> torch.Tensor:
    """Returns each token's place in its row, 0 for the first one; padding on the left is at 0 too.

    Models that are not told the positions count columns, so that padding on the left would change what they say.

    Args:
        attention_mask: Bool or 0 and 1, of shape (batch, sequence).

    Example:
    >>> positions_from_mask(torch.tensor([[0, 0, 1, 1, 1]]))
    tensor([[0, 0, 0, 1, 2]])
    """
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)


def read_after_prompt(
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    targets: torch.Tensor,
    target_mask: torch.Tensor,
    *,
    pad_token_id: int,
    token_types: Mapping[str, torch.Tensor] | None = None,
    images: RowImages | None = None,
) -> TeacherInputs:
    """Returns prompts with their targets behind them; all targets start in the same column.

    Args:
        prompt_ids: Padded on the left, of shape (batch, prompt).
        prompt_mask: Bool or 0 and 1, of the same shape; at least the last column of every row is 1.
        targets: The teacher's ids, padded on the right with anything (as -100), of shape (batch, target).
        target_mask: Bool or 0 and 1, of the same shape.
        pad_token_id: What padding of the targets is replaced by: any id that the teacher knows.
        token_types: What else there is of each token of the prompts; targets are text, which is of type 0.
        images: Of the prompts.

    Raises:
        ValueError: If a prompt is empty or padded on the right, or a target padded on the left.
    """
    _check_padding(prompt_mask.bool(), target_mask.bool())
    attention_mask = torch.cat([prompt_mask.long(), target_mask.long()], dim=1)
    return TeacherInputs(
        input_ids=torch.cat([prompt_ids, targets.masked_fill(~target_mask.bool(), pad_token_id)], dim=1),
        attention_mask=attention_mask,
        position_ids=positions_from_mask(attention_mask),
        target_length=targets.shape[1],
        token_types={name: F.pad(types, (0, targets.shape[1])) for name, types in (token_types or {}).items()},
        images=images,
    )


def predictions_of_target(values: torch.Tensor, target_length: int) -> torch.Tensor:
    """Returns the values at the positions that predict the target: its token t from the position before it.

    Args:
        values: Of all positions, or of at least the last `target_length + 1` (`logits_to_keep`), of shape
            (batch, positions, ...).
        target_length: Number of columns of the targets.

    Returns:
        Of shape (batch, target, ...).

    Raises:
        ValueError: If there are too few positions.
    """
    if values.shape[1] <= target_length:
        raise ValueError(
            f"{values.shape[1]} positions cannot predict a target of {target_length}: its first token is predicted at "
            f"the end of the prompt, so keep at least {target_length + 1}"
        )
    return values[:, -target_length - 1 : -1]


def exchange_ids(ids: torch.Tensor, exchange: tuple[int, int] | None) -> torch.Tensor:
    """Returns ids in which two have swapped their roles, and all others are as they were.

    Args:
        ids: Of any shape; padding such as -100 stays.
        exchange: The two ids; None for none.

    Example:
    >>> exchange_ids(torch.tensor([5, 2, 7, -100]), (2, 7))
    tensor([   5,    7,    2, -100])
    """
    if exchange is None:
        return ids
    first, second = exchange
    return torch.where(ids == first, second, torch.where(ids == second, first, ids))


def labels_of_samples(
    samples: torch.Tensor, *, eos_token_ids: int | Sequence[int], prefix_length: int = 0
) -> torch.Tensor:
    """Returns what `generate` has sampled as labels: up to and including the first end of a row, -100 behind it.

    Padding is told by its place behind the end and never by its id, which may be that of the end itself. A sample
    that was cut at the maximal length has no end and stays whole.

    Args:
        samples: Ids of shape (batch, prefix + target).
        eos_token_ids: What ends a sample.
        prefix_length: Number of columns that were given, and not sampled: 1 for the decoder's start token.

    Returns:
        Of shape (batch, target).
    """
    sampled = samples[:, prefix_length:]
    ends = [eos_token_ids] if isinstance(eos_token_ids, int) else list(eos_token_ids)
    is_end = torch.isin(sampled, torch.tensor(ends, dtype=sampled.dtype, device=sampled.device)).long()
    ended_before = is_end.cumsum(dim=1) > is_end
    return sampled.masked_fill(ended_before, IGNORE_INDEX)


def _check_padding(prompt_mask: torch.Tensor, target_mask: torch.Tensor) -> None:
    is_left_padded = (prompt_mask[:, 1:] >= prompt_mask[:, :-1]).all() and prompt_mask.any(dim=1).all()
    if not is_left_padded:
        raise ValueError(
            "a prompt is empty or not padded on the left, but the target follows its last token: pad prompts on the "
            "left, and give the teacher at least one token to read"
        )
    if (target_mask[:, 1:] > target_mask[:, :-1]).any():
        raise ValueError("a target is not padded on the right, but it follows the prompt: pad targets on the right")
