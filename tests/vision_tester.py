"""A tiny vision-text model and inputs for it: what the laws of `tests/models` need, as `model_tester` for text."""

from copy import deepcopy
from typing import Any, ClassVar

import torch
from model_tester import VOCAB_SIZE, Inputs, ModelTester
from transformers import PreTrainedTokenizerBase

from encdec_slm import (
    EncDecSLMVisionConfig,
    EncDecSLMVisionForConditionalGeneration,
    EncDecSLMVisionModel,
    EncDecSLMVisionProcessor,
)
from encdec_slm.models.image_tokens_encdec_slm import image_layout


# among the tokens that `ModelTester` takes no words from
IMAGE_TOKEN_ID = 5
# or added to the vocabulary of the tokenizer of the tests
IMAGE_TOKEN = "<image>"
WITH_IMAGE_TOKEN = {"both": {"vocab_size": VOCAB_SIZE + 1}, "image_token_id": VOCAB_SIZE}
# four by four patches a view
CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 2,
}
# square, wide, thin and tall, in pixels; the second is larger than any grid
SIZES = ((8, 8), (30, 41), (6, 20), (20, 7))


class VisionTester(ModelTester):
    """The vision model, with a CLIP tower, tiles and a budget; every row has an image at its end.

    Args:
        tower: What the vision configuration has different.
        encoder: What the encoder has different, among them the fields of the vision side.
        options: As of `ModelTester`.
    """

    model_class = EncDecSLMVisionForConditionalGeneration
    base_class = EncDecSLMVisionModel
    config_class = EncDecSLMVisionConfig
    stack: ClassVar[dict[str, Any]] = {**ModelTester.stack, "max_position_embeddings": 128}

    def __init__(
        self, *, tower: dict[str, Any] | None = None, encoder: dict[str, Any] | None = None, **options: Any
    ) -> None:
        vision = {
            "vision_config": {**CLIP, **(tower or {})},
            "image_token_id": IMAGE_TOKEN_ID,
            "max_image_tokens": 30,
        }
        super().__init__(encoder={**vision, **(encoder or {})}, **options)

    def assistant(self) -> EncDecSLMVisionForConditionalGeneration:
        """Returns a smaller model with the same vocabulary, other weights and as many tokens for an image."""
        smaller = type(self)(
            encoder={"num_hidden_layers": 1}, decoder={"num_hidden_layers": 1, "num_key_value_heads": 1}
        )
        return smaller.model()

    def image(self, size: tuple[int, int]) -> Inputs:
        """Returns random views of an image of so many pixels in height and width, and its tokens."""
        geometry = self.config().encoder.image_geometry
        layout = image_layout(*size, geometry)
        views = torch.randn(1, 1 + layout.num_tiles, 3, geometry.image_size, geometry.image_size)
        tokens = torch.full((1, layout.num_tokens), IMAGE_TOKEN_ID)
        if not geometry.grid_pinpoints:
            return {"input_ids": tokens, "pixel_values": views[:, 0]}
        return {"input_ids": tokens, "pixel_values": views, "image_sizes": torch.tensor([size])}

    def row(self, length: int) -> Inputs:
        """Returns `length` random words and an image, whose size depends on their number."""
        return self.row_with_images(length, SIZES[length % len(SIZES)])

    def row_with_images(self, length: int, *sizes: tuple[int, int]) -> Inputs:
        """Returns `length` random words, and images of these sizes after them."""
        words, images = self.words(length), [self.image(size) for size in sizes]
        input_ids = torch.cat([words["input_ids"], *(image["input_ids"] for image in images)], dim=1)
        row = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        return {**row, **join_images(images)}

    def batch(self, rows: list[Inputs], padding_side: str = "right") -> Inputs:
        """Returns several rows as one batch; the images are those of the rows, one after the other."""
        texts = [{name: row[name] for name in ("input_ids", "attention_mask")} for row in rows]
        return {**super().batch(texts, padding_side), **join_images(rows)}


def join_images(rows: list[Inputs]) -> Inputs:
    """Returns the images of several rows as those of one, padded to as many views as the largest has."""
    rows = [row for row in rows if "pixel_values" in row]
    if not rows:
        return {}
    views = [row["pixel_values"] for row in rows]
    if views[0].dim() == 4:
        return {"pixel_values": torch.cat(views)}
    most = max(view.shape[1] for view in views)
    padded = [torch.cat((view, view.new_ones(len(view), most - view.shape[1], *view.shape[2:])), 1) for view in views]
    return {"pixel_values": torch.cat(padded), "image_sizes": torch.cat([row["image_sizes"] for row in rows])}


def with_image_token(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Returns a copy of a tokenizer that has one more token, for images."""
    tokenizer = deepcopy(tokenizer)
    tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    return tokenizer


def processor_of(tester: VisionTester, tokenizer: PreTrainedTokenizerBase) -> EncDecSLMVisionProcessor:
    """Returns the processor of a tester's model; the tokenizer has the token for images."""
    return EncDecSLMVisionProcessor.for_model(
        tester.config(), tokenizer, image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5]
    )
