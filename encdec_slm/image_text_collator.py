"""Rows of images, a question and its answer as batches for the stock trainer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import BatchFeature, ProcessorMixin


@dataclass
class DataCollatorForImageTextToText:
    """Has a processor make batches for an encoder-decoder that reads images: `AutoModelForImageTextToText`.

    A row has `source`, a text with the processor's image token for each image; `images`, a list of them, empty or not
    there in a row of text alone; and `target`, the text to be written, not there if the model shall be asked only.
    Images are prepared as a batch is made, so that rows keep them as files do: the trainer needs
    `remove_unused_columns=False`.

    A batch has what the processor gives (`input_ids`, `attention_mask`, and of images `pixel_values` and others), and
    `labels` of shape (batch, target).

    Args:
        processor: That of the model, whose tokenizer has a padding token and ends a text as an answer ends.
        pad_to_multiple_of: Sources and targets are padded to a multiple of it.
        label_pad_token_id: What labels are padded with.

    Raises:
        ValueError: If the processor has no tokenizer, or that no padding token.
    """

    processor: ProcessorMixin
    pad_to_multiple_of: int | None = None
    label_pad_token_id: int = -100

    def __post_init__(self) -> None:
        tokenizer = getattr(self.processor, "tokenizer", None)
        if tokenizer is None or tokenizer.pad_token_id is None:
            raise ValueError(
                f"{type(self.processor).__name__} has no tokenizer with a pad_token to pad batches with: pass the "
                "processor of an image-text model and set processor.tokenizer.pad_token"
            )

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> BatchFeature:
        """Returns a batch.

        Raises:
            ValueError: If only some of the rows have a target, or a row has more or fewer images than image tokens.
        """
        # a processor's parts are attributes that its class alone declares
        processor: Any = self.processor
        images = [list(row.get("images") or ()) for row in rows]
        padding = {"padding": True, "pad_to_multiple_of": self.pad_to_multiple_of, "return_tensors": "pt"}
        batch: BatchFeature = processor(
            text=[row["source"] for row in rows], images=images if any(images) else None, **padding
        )
        targets = [row["target"] for row in rows if row.get("target") is not None]
        if targets and len(targets) < len(rows):
            raise ValueError(f"{len(targets)} of {len(rows)} rows have a target: give all of them one, or none")
        if targets:
            encoded = processor.tokenizer(text_target=targets, padding_side="right", **padding)
            is_padding = encoded["attention_mask"] == 0
            batch["labels"] = torch.masked_fill(encoded["input_ids"], is_padding, self.label_pad_token_id)
        return batch
