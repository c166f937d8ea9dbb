"""A data collator for the student's source and target and for what the teacher reads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase

from encdec_slm.distillation.chunked_divergence import IGNORE_INDEX
from encdec_slm.distillation.columns import ENCODED_COLUMNS, PROMPT, STUDENT_IMAGES, TEACHER_IMAGES
from encdec_slm.distillation.image_text import TOKEN_TYPES
from encdec_slm.distillation.images import RowImages


# no position of a target
NO_POSITION = -1
ALIGNED_COLUMNS = ("teacher_labels", "aligned")
# a number per row
INDEX_COLUMNS = ("teacher_index", "cache_row")


@dataclass
class DataCollatorForDistillation:
    """Pads encoded rows to a batch: sources and targets on the right, the teacher's prompts on the left.

    Masks are made from the lengths of rows and never from ids: the padding token may also be that of unknown words or
    the end-of-sequence token. The padding side of the tokenizer does not matter. Columns that are not named here are
    left out.

    A batch has `input_ids` and `attention_mask` of shape (batch, source), `labels` of (batch, target), and
    `teacher_prompt_ids` and `teacher_prompt_mask` of (batch, prompt). Where rows have them, it also has
    `teacher_labels` of (batch, teacher target), `aligned` of (batch, pairs, 2), padded with -1, and `teacher_index`
    and `cache_row` of (batch,). Where rows have images, it has `student_images` and `teacher_images`, which are
    `RowImages`, and what the teacher's processor says of each token of its prompts, as in
    `teacher_prompt_mm_token_type_ids`.

    Args:
        tokenizer: The student's, whose padding token must be set.
        teacher_pad_token_id: What prompts are padded with: any id that the teacher knows, for it is masked.
        pad_to_multiple_of: Sources, targets and prompts are padded to a multiple of it.
        label_pad_token_id: What `labels` and `teacher_labels` are padded with.
        return_tensors: `"pt"` or `"np"`; images are in PyTorch.
        read_row: Makes ids of rows that have images and texts, a `RowReader`.

    Raises:
        ValueError: If the tokenizer has no padding token.
    """

    tokenizer: PreTrainedTokenizerBase
    teacher_pad_token_id: int = 0
    pad_to_multiple_of: int | None = None
    label_pad_token_id: int = IGNORE_INDEX
    return_tensors: str = "pt"
    read_row: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        if self.tokenizer.pad_token_id is None:
            raise ValueError(
                "the student's tokenizer has no pad_token to pad sources with: set tokenizer.pad_token, to the "
                "eos_token if there is no other"
            )

    def __call__(self, features: Sequence[Mapping[str, Any]], return_tensors: str | None = None) -> dict[str, Any]:
        """Returns a batch.

        Args:
            features: Encoded rows, see `encode_rows`.
            return_tensors: Instead of the collator's own.

        Raises:
            ValueError: If a row lacks a column or cannot be read, or the tensors are of an unknown kind.
        """
        return_tensors = return_tensors or self.return_tensors
        if return_tensors not in ("pt", "np"):
            raise ValueError(f"return_tensors is {return_tensors!r}, use 'pt' or 'np'")
        if self.read_row is not None:
            features = [self.read_row(feature) for feature in features]
        rows = {name: _column(features, name) for name in _columns(features)}
        batch = {
            "input_ids": self._padded(rows["input_ids"], self.tokenizer.pad_token_id),
            "attention_mask": self._padded(_ones(rows["input_ids"]), 0),
            "labels": self._padded(rows["labels"], self.label_pad_token_id),
            "teacher_prompt_ids": self._padded(rows["teacher_prompt_ids"], self.teacher_pad_token_id, side="left"),
            "teacher_prompt_mask": self._padded(_ones(rows["teacher_prompt_ids"]), 0, side="left"),
        }
        if "teacher_labels" in rows:
            batch["teacher_labels"] = self._padded(rows["teacher_labels"], self.label_pad_token_id)
        if "aligned" in rows:
            # a row without a pair has shape (0,)
            batch["aligned"] = _pad([row.reshape(-1, 2) for row in rows["aligned"]], NO_POSITION)
        batch |= {name: torch.stack(rows[name]) for name in INDEX_COLUMNS if name in rows}
        for name in _token_types(features):
            types = [
                torch.as_tensor(feature.get(name, [0] * len(feature["teacher_prompt_ids"]))) for feature in features
            ]
            batch[name] = self._padded(types, 0, side="left")
        if return_tensors == "np":
            return {name: part.numpy() for name, part in batch.items()} | _images(features)
        return batch | _images(features)

    def _padded(
        self, rows: Sequence[torch.Tensor], value: int, *, side: Literal["left", "right"] = "right"
    ) -> torch.Tensor:
        return _pad(rows, value, side=side, multiple_of=self.pad_to_multiple_of or 1)


def _columns(features: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the columns that the batch is made of: those that all rows must have, and those that any row has."""
    optional = (*ALIGNED_COLUMNS, *INDEX_COLUMNS)
    return [*ENCODED_COLUMNS, *(name for name in optional if any(name in feature for feature in features))]


def token_types(batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Returns what a batch has of each token of the teacher's prompts, by the name of the model's argument."""
    return {name.removeprefix(PROMPT): batch[name] for name in _token_types([batch])}


def _token_types(features: Sequence[Mapping[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for feature in features for name in feature)
    return [name for name in names if name.startswith(PROMPT) and name.endswith(TOKEN_TYPES)]


def _images(features: Sequence[Mapping[str, Any]]) -> dict[str, RowImages]:
    return {
        name: RowImages(tuple(feature.get(name, {}) for feature in features))
        for name in (STUDENT_IMAGES, TEACHER_IMAGES)
        if any(name in feature for feature in features)
    }


def _column(features: Sequence[Mapping[str, Any]], name: str) -> list[torch.Tensor]:
    for feature in features:
        if name not in feature:
            raise ValueError(
                f"a row has no {name}, only {', '.join(sorted(feature))}: encode all rows alike with `encode_rows`, "
                "and set remove_unused_columns=False where the Trainer removes columns"
            )
    return [torch.as_tensor(feature[name]).long() for feature in features]


def _ones(rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [torch.ones_like(row) for row in rows]


def _pad(
    rows: Sequence[torch.Tensor], value: int, *, side: Literal["left", "right"] = "right", multiple_of: int = 1
) -> torch.Tensor:
    """Returns rows of shape (length, ...) as one tensor of shape (batch, longest, ...)."""
    longest = -(-max(map(len, rows)) // multiple_of) * multiple_of
    padded = torch.full((len(rows), longest, *rows[0].shape[1:]), value, dtype=torch.int64)
    for line, row in zip(padded, rows, strict=True):
        start = longest - len(row) if side == "left" else 0
        line[start : start + len(row)] = row
    return padded
