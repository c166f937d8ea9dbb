"""Images and text to the input of a vision-text encoder-decoder: an image marker becomes as many tokens as it needs.

How many they are is known from the image's size (`image_tokens_encdec_slm.py`); an image processor of Transformers
cuts the tiles.
"""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Self

import transformers
from transformers.processing_utils import MultiModalData, ProcessorMixin
from transformers.utils import auto_docstring

from .configuration_encdec_slm_vision import EncDecSLMVisionConfig, require_vision_support
from .image_reading_encdec_slm import flattened, readable
from .image_tokens_encdec_slm import ImageGeometry, count_image_tokens, image_layout


# `PIL.Image.Resampling.BICUBIC`: this file is imported where Pillow is missing too
BICUBIC = 3
# images and texts as they come, one below the other: an encoder reads them all before the answer begins
CHAT_TEMPLATE = """\
{%- for message in messages -%}
  {%- if not loop.first -%}{{ '\\n' }}{%- endif -%}
  {%- if message['content'] is string -%}
    {{ message['content'] }}
  {%- else -%}
    {%- for part in message['content'] -%}
      {%- if not loop.first -%}{{ '\\n' }}{%- endif -%}
      {%- if part['type'] == 'text' -%}{{ part['text'] }}{%- else -%}{{ '<image>' }}{%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endfor -%}
"""


@auto_docstring
class EncDecSLMVisionProcessor(ProcessorMixin):
    # what the library's image processor says of rows with several images, which here are tiled like any other
    unused_input_names = ["batch_num_images", "token_type_ids"]

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        image_geometry: ImageGeometry | dict[str, Any],
        chat_template: str | None = None,
        image_token: str = "<image>",
    ) -> None:
        r"""
        image_geometry (`ImageGeometry` or `dict`):
            What decides how many tokens an image takes, as in the configuration of the model's encoder.
        image_token (`str`, *optional*, defaults to `"<image>"`):
            Stands for an image in a text, and for each of its tokens in the encoder's input.
        """
        require_vision_support()
        if isinstance(image_geometry, dict):
            pinpoints = tuple((height, width) for height, width in image_geometry["grid_pinpoints"])
            image_geometry = ImageGeometry(**{**image_geometry, "grid_pinpoints": pinpoints})
        check_image_processor(image_processor, image_geometry)
        self.image_geometry = image_geometry
        self.image_token = image_token
        self.image_token_id = token_id(tokenizer, image_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def for_model(
        cls,
        config: EncDecSLMVisionConfig,
        tokenizer: Any,
        *,
        image_mean: list[float],
        image_std: list[float],
        resample: int = BICUBIC,
        chat_template: str | None = CHAT_TEMPLATE,
        image_token: str = "<image>",
    ) -> Self:
        """Returns the processor that cuts and counts as the model does.

        Args:
            config: Configuration of the model.
            tokenizer: Of the text model, with the image token.
            image_mean: Of each channel, as the vision tower was trained with.
            image_std: Of each channel.
            resample: How images are scaled, as one of `PIL.Image.Resampling`.
            chat_template: Jinja template of messages; the default puts all images and texts below each other.
            image_token: Stands for an image in a text.

        Raises:
            ValueError: If the tokenizer has no such token, or the configuration another one.
        """
        if token_id(tokenizer, image_token) != config.image_token_id:
            raise ValueError(
                f"{image_token!r} is token {token_id(tokenizer, image_token)} of the tokenizer, but the configuration "
                f"has image_token_id={config.image_token_id}: set it to the tokenizer's"
            )
        geometry = config.encoder.image_geometry
        options = {
            "size": {"height": geometry.image_size, "width": geometry.image_size},
            "image_mean": image_mean,
            "image_std": image_std,
            "resample": resample,
        }
        if geometry.grid_pinpoints:
            pinpoints = [list(pinpoint) for pinpoint in geometry.grid_pinpoints]
            image_processor = transformers.LlavaOnevisionImageProcessor(image_grid_pinpoints=pinpoints, **options)
        else:
            image_processor = transformers.SiglipImageProcessor(**options)
        if chat_template is not None:
            chat_template = chat_template.replace("<image>", image_token)
        return cls(image_processor, tokenizer, geometry, chat_template, image_token)

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "image_geometry": asdict(self.image_geometry)}

    def count_image_tokens(self, sizes: Iterable[tuple[int, int]]) -> list[int]:
        """Returns how many tokens images of these sizes (height, width) take, without looking at any."""
        return count_image_tokens(sizes, self.image_geometry)

    def prepare_inputs_layout(self, images: Any = None, text: Any = None, **kwargs: Any) -> tuple[Any, ...]:
        """Reads the images and puts them in one list, in the order of their markers.

        Args:
            images: An image, a list of them, or for every row of a batch a list, empty where the row has none. An
                image is one of Pillow's, an array, a tensor, a path, a URL or Base64.
            text: A text, or those of a batch.
            kwargs: As in the library.

        Raises:
            ValueError: If an image cannot be read or shows nothing, or a row has more or fewer images than markers.
        """
        if images is not None:
            self._check_rows(images, text)
            images = [readable(image, i) for i, image in enumerate(flattened(images))] or None
        return super().prepare_inputs_layout(images=images, text=text, **kwargs)

    def _check_rows(self, images: Any, text: Any) -> None:
        texts = [text] if isinstance(text, str) else text
        if texts is None or not isinstance(images, list | tuple):
            return
        if not any(row is None or isinstance(row, list | tuple) for row in images):
            return
        counts = [0 if row is None else sum(1 for _ in flattened(row)) for row in images]
        markers = [row.count(self.image_token) for row in texts]
        if counts != markers:
            raise ValueError(
                f"the texts have {markers} markers {self.image_token!r}, but there are {counts} images for them: give "
                "every row an image for each of its markers"
            )

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any) -> str:
        """Returns the tokens of an image, as text."""
        return self.image_token * self._count(image_inputs, image_idx)

    def _count(self, image_inputs: dict[str, Any], image_idx: int) -> int:
        # images that are one view take the same number of tokens, whatever their size
        height, width = image_inputs["image_sizes"][image_idx] if self.image_geometry.grid_pinpoints else (1, 1)
        return image_layout(int(height), int(width), self.image_geometry).num_tokens

    def _get_num_multimodal_tokens(
        self, image_sizes: list[tuple[int, int]] | None = None, **kwargs: Any
    ) -> MultiModalData:
        if image_sizes is None:
            return MultiModalData()
        layouts = [image_layout(height, width, self.image_geometry) for height, width in image_sizes]
        return MultiModalData(
            num_image_tokens=[layout.num_tokens for layout in layouts],
            num_image_patches=[1 + layout.num_tiles for layout in layouts],
        )


def token_id(tokenizer: Any, token: str) -> int:
    """Returns the id of a token.

    Raises:
        ValueError: If the tokenizer does not read it as one token.
    """
    token_ids = tokenizer.encode(token, add_special_tokens=False)
    if len(token_ids) != 1 or token_ids[0] == tokenizer.unk_token_id:
        raise ValueError(
            f"the tokenizer reads {token!r} as the tokens {token_ids}, but it has to be one of its own: call "
            f"tokenizer.add_tokens([{token!r}], special_tokens=True) and model.resize_token_embeddings(len(tokenizer))"
        )
    return token_ids[0]


def check_image_processor(image_processor: Any, geometry: ImageGeometry) -> None:
    """Refuses an image processor that does not cut the views that are counted.

    Raises:
        ValueError: If it has other pinpoints, or views of another size.
    """
    pinpoints = getattr(image_processor, "image_grid_pinpoints", None) or []
    expected = [list(pinpoint) for pinpoint in geometry.grid_pinpoints]
    if [list(pinpoint) for pinpoint in pinpoints] != expected:
        raise ValueError(
            f"the image processor has image_grid_pinpoints {pinpoints}, but image_geometry has {expected}: give both "
            "the same, as EncDecSLMVisionProcessor.for_model does"
        )
    size = (image_processor.size["height"], image_processor.size["width"])
    if size != (geometry.image_size, geometry.image_size):
        raise ValueError(
            f"the image processor gives views of {size[0]} times {size[1]} pixels, but image_geometry has image_size "
            f"{geometry.image_size}: give both the same, as EncDecSLMVisionProcessor.for_model does"
        )


__all__ = ["EncDecSLMVisionProcessor"]
