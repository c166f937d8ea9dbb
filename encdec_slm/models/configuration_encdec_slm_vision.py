"""What a vision-text encoder-decoder is made of: the text model's two halves, the encoder with a vision tower."""

from copy import deepcopy
from typing import Any, ClassVar, Self

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import auto_docstring
from transformers.utils.versions import require_version

from .configuration_encdec_slm import (
    EncDecSLMConfig,
    EncDecSLMDecoderConfig,
    EncDecSLMEncoderConfig,
    of_the,
    own_fields,
)
from .image_tokens_encdec_slm import ImageGeometry, most_image_tokens


REMOTE_VISION_CODE = {
    "AutoConfig": "configuration_encdec_slm_vision.EncDecSLMVisionConfig",
    "AutoModel": "modeling_encdec_slm_vision.EncDecSLMVisionModel",
    "AutoModelForImageTextToText": "modeling_encdec_slm_vision.EncDecSLMVisionForConditionalGeneration",
    "AutoModelForSeq2SeqLM": "modeling_encdec_slm_vision.EncDecSLMVisionForConditionalGeneration",
}
# the tower of the original: CLIP ViT-L/14 at 336 pixels
DEFAULT_VISION_CONFIG = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
# tiles along height and width: photographs, pages and charts at three tiles a side, strips as of lines and axes
DEFAULT_GRIDS = ((1, 1), (1, 2), (2, 1), (2, 2), (1, 3), (3, 1), (2, 3), (3, 2), (1, 4), (4, 1), (3, 3))
IMAGE_TOKEN_COMPRESSIONS = ("bilinear", "average_pool", "pixel_shuffle")


def require_vision_support() -> None:
    """Refuses releases of Transformers whose processors would expand no image token, and say nothing.

    Raises:
        ImportError: If Transformers is older than 5.12.
    """
    require_version(
        "transformers>=5.12", "The vision model needs it, the text model does not: pip install -U transformers"
    )


@auto_docstring(checkpoint="encdec-slm/vision")
@strict
class EncDecSLMVisionEncoderConfig(EncDecSLMEncoderConfig):
    r"""
    gated_mlp (`bool`, *optional*, defaults to `False`):
        `False`: two projections around the activation, as in the original; `True`: the three of the Llama family.
    qk_norm (`bool`, *optional*, defaults to `False`):
        Whether every head's queries and keys are normalised before their rotation, as in Qwen3.
    dropout (`float`, *optional*, defaults to 0.1):
        Dropout on the output of the feed-forward block.
    vision_config (`PreTrainedConfig` or `dict`, *optional*):
        Configuration of the vision tower: CLIP, SigLIP, DINOv2, a timm model or another that `AutoModel` knows. CLIP
        ViT-L/14 at 336 pixels if not given.
    image_size (`int`, *optional*):
        Edge in pixels of the square views that the tower sees; the tower's own if not given.
    patches_per_side (`int`, *optional*):
        States of the tower along the edge of a view; worked out from the tower's `patch_size` if not given.
    vision_hidden_size (`int`, *optional*):
        Width of the tower's states; its `hidden_size` if not given.
    vision_feature_layer (`int`, *optional*, defaults to -2):
        Which of the tower's hidden states are read, counted from the last. Of a timm model it is a feature map.
    kept_prefix_tokens (`int`, *optional*, defaults to 0):
        How many of the states before the tower's patches are read: 0 drops CLS, 1 keeps that of the first view.
    image_grid_pinpoints (`list[list[int]]`, *optional*):
        Sizes (height, width) that an image may be scaled to, multiples of `image_size`. If not given, grids of up to
        three by three tiles and strips of up to four; if empty, an image is one square view.
    thumbnail_for_one_tile (`bool`, *optional*, defaults to `False`):
        Whether an image that fits one tile is seen as a thumbnail too, as in the original: twice the tokens.
    max_tiles (`int`, *optional*):
        The cap of the original and of LLaVA-OneVision's `anyres_max_N`: a grid with clearly more tokens than so many
        tiles is resampled to as many. The thumbnail comes on top.
    max_image_tokens (`int`, *optional*, defaults to 2304):
        Most tokens of one image in the encoder's input, all included; met exactly or from below.
    image_token_compression (`str`, *optional*, defaults to `"bilinear"`):
        How the budget is met: by `"bilinear"` resampling, by `"average_pool"`, or by `"pixel_shuffle"`, which joins
        neighbouring states of the tower to one of more channels before the projector.
    pixel_shuffle_factor (`int`, *optional*):
        Side of the square of states that pixel shuffle joins; if not given, the smallest that meets the budget.
    image_state_pooling (`int`, *optional*, defaults to 1):
        The encoder's states of so many image tokens in a row are averaged to one before the decoder reads them.
    """

    model_type = "encdec_slm_vision_encoder"
    sub_configs = {"vision_config": AutoConfig}

    vision_config: PreTrainedConfig | dict[str, Any] | None = None
    image_token_id: int | None = None
    image_size: int | None = None
    patches_per_side: int | None = None
    vision_hidden_size: int | None = None
    vision_feature_layer: int = -2
    kept_prefix_tokens: int = 0
    projector_hidden_act: str = "gelu"
    multimodal_projector_bias: bool = True
    image_grid_pinpoints: list[list[int]] | None = None
    thumbnail_for_one_tile: bool = False
    max_tiles: int | None = None
    max_image_tokens: int | None = 2304
    image_token_compression: str = "bilinear"
    pixel_shuffle_factor: int | None = None
    image_state_pooling: int = 1

    def __post_init__(self, **kwargs: Any) -> None:
        require_vision_support()
        if not isinstance(self.vision_config, PreTrainedConfig):
            self.vision_config = _tower_config(self.vision_config or DEFAULT_VISION_CONFIG)
        self._take_sizes_of_the_tower()
        if self.image_grid_pinpoints is None:
            self.image_grid_pinpoints = [[self.image_size * length for length in grid] for grid in DEFAULT_GRIDS]
        if self.pixel_shuffle_factor is None:
            self.pixel_shuffle_factor = (
                self._needed_shuffle() if self.image_token_compression == "pixel_shuffle" else 1
            )
        super().__post_init__(**kwargs)

    def _take_sizes_of_the_tower(self) -> None:
        tower = self.vision_config
        if self.image_size is None and hasattr(tower, "image_size"):
            self.image_size = tower.image_size
        if self.patches_per_side is None and self.image_size is not None and hasattr(tower, "patch_size"):
            self.patches_per_side = self.image_size // tower.patch_size
        if self.vision_hidden_size is None and hasattr(tower, "hidden_size"):
            self.vision_hidden_size = tower.hidden_size
        missing = [
            name for name in ("image_size", "patches_per_side", "vision_hidden_size") if getattr(self, name) is None
        ]
        if missing:
            raise ValueError(
                f"the configuration of a {tower.model_type} tower does not say its {' and '.join(missing)}: pass it "
                "to the encoder's, or let from_text_and_vision_pretrained measure it"
            )

    @property
    def image_geometry(self) -> ImageGeometry:
        """All of it that decides how many tokens an image takes."""
        return self._geometry(self.pixel_shuffle_factor, self.max_image_tokens)

    def _geometry(self, shuffle: int, budget: int | None) -> ImageGeometry:
        return ImageGeometry(
            image_size=self.image_size,
            patches_per_side=self.patches_per_side // shuffle,
            grid_pinpoints=tuple((height, width) for height, width in self.image_grid_pinpoints),
            thumbnail_for_one_tile=self.thumbnail_for_one_tile,
            kept_prefix_tokens=self.kept_prefix_tokens,
            max_tiles=self.max_tiles,
            max_image_tokens=budget,
        )

    def _needed_shuffle(self) -> int:
        if self.max_image_tokens is None:
            raise ValueError(
                "image_token_compression='pixel_shuffle' needs max_image_tokens to be met, or a pixel_shuffle_factor"
            )
        for factor in range(1, self.patches_per_side + 1):
            if not self.patches_per_side % factor:
                most = most_image_tokens(self._geometry(factor, None))
                if most <= self.max_image_tokens:
                    return factor
        raise ValueError(
            f"max_image_tokens ({self.max_image_tokens}) is less than the {most} tokens that the largest of "
            f"image_grid_pinpoints takes at one token per view: raise it, or leave grids out"
        )

    def validate_architecture(self) -> None:
        """Called by `@strict`: refuses a tower, a budget and a compression that do not fit together.

        Raises:
            ValueError: If the layer is not counted from the last, the compression is unknown or does not divide a
                view, or a size is not one.
        """
        super().validate_architecture()
        if self.vision_feature_layer >= 0:
            raise ValueError(
                f"vision_feature_layer ({self.vision_feature_layer}) is counted from the last layer: -1, -2 and so on"
            )
        for name, least in {"vision_hidden_size": 1, "image_state_pooling": 1, "kept_prefix_tokens": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} ({getattr(self, name)}) must be at least {least}")
        if self.image_token_id is not None and not 0 <= self.image_token_id < self.vocab_size:
            raise ValueError(
                f"image_token_id ({self.image_token_id}) is outside the vocabulary of {self.vocab_size} tokens: add "
                "the token to the tokenizer, and call resize_token_embeddings before it is set"
            )
        self._validate_compression()
        # it checks what it is given
        _ = self.image_geometry

    def _validate_compression(self) -> None:
        factor = self.pixel_shuffle_factor
        if self.image_token_compression not in IMAGE_TOKEN_COMPRESSIONS:
            raise ValueError(
                f"unknown image_token_compression {self.image_token_compression!r}: use one of "
                f"{IMAGE_TOKEN_COMPRESSIONS}"
            )
        if factor != 1 and self.image_token_compression != "pixel_shuffle":
            raise ValueError(
                f"pixel_shuffle_factor is {factor}, but image_token_compression {self.image_token_compression!r}: set "
                "the one to 1 or the other to 'pixel_shuffle'"
            )
        if factor < 1 or self.patches_per_side % factor:
            raise ValueError(
                f"pixel_shuffle_factor ({factor}) must divide the {self.patches_per_side} patches along a view's edge"
            )
        if factor != 1 and self.kept_prefix_tokens:
            raise ValueError(
                f"kept_prefix_tokens is {self.kept_prefix_tokens}, but pixel shuffle has no place for states that are "
                "no patches: set it to 0, or choose another image_token_compression"
            )


def _tower_config(values: dict[str, Any]) -> PreTrainedConfig:
    values = dict(values)
    if "model_type" not in values:
        raise ValueError(
            "vision_config names no model_type: pass a configuration, or a dictionary with that of a tower"
        )
    return AutoConfig.for_model(values.pop("model_type"), **values)


@auto_docstring(checkpoint="encdec-slm/vision")
@strict
class EncDecSLMVisionConfig(EncDecSLMConfig):
    r"""
    encoder (`EncDecSLMVisionEncoderConfig` or `dict`, *optional*):
        Configuration of the encoder stack, its vision tower and the way from one to the other.
    decoder (`EncDecSLMDecoderConfig` or `dict`, *optional*):
        Configuration of the decoder stack, which is that of the text model.
    lm_head_bias (`bool`, *optional*, defaults to `False`):
        Whether the language modeling head has a bias.

    Example:
    >>> from encdec_slm import EncDecSLMVisionConfig, EncDecSLMVisionForConditionalGeneration
    >>> tower = {"model_type": "siglip_vision_model", "hidden_size": 96, "num_hidden_layers": 2, "image_size": 64}
    >>> config = EncDecSLMVisionConfig(encoder={"vision_config": tower, "image_token_id": 31_999})
    >>> config.encoder.patches_per_side, config.image_token_id
    (4, 31999)
    >>> model = EncDecSLMVisionForConditionalGeneration(config)
    """

    model_type = "encdec_slm_vision"
    sub_configs = {"encoder": EncDecSLMVisionEncoderConfig, "decoder": EncDecSLMDecoderConfig}
    shared_fields: ClassVar[tuple[str, ...]] = (*EncDecSLMConfig.shared_fields, "image_token_id")
    remote_code: ClassVar[dict[str, str]] = REMOTE_VISION_CODE

    encoder: EncDecSLMVisionEncoderConfig | dict[str, Any] | None = None

    image_token_id = of_the("encoder", "image_token_id", "Token that stands for a state of an image.")

    @property
    def vision_config(self) -> PreTrainedConfig:
        """Configuration of the vision tower, a part of the encoder's."""
        return self.encoder.vision_config

    @classmethod
    def from_text_config(cls, config: EncDecSLMConfig, **vision_fields: Any) -> Self:
        """Returns the configuration of a text model with a vision tower added.

        Args:
            config: Configuration of the text model.
            vision_fields: Fields of `EncDecSLMVisionEncoderConfig`, such as `vision_config` and `image_token_id`.

        Raises:
            ValueError: If they do not fit the text model, or each other.
        """
        encoder = {name: getattr(config.encoder, name) for name in own_fields(EncDecSLMEncoderConfig)}
        whole = {name: getattr(config, name) for name in own_fields(EncDecSLMConfig)}
        return cls(**deepcopy({**whole, "encoder": {**encoder, **vision_fields}}))


__all__ = ["EncDecSLMVisionConfig", "EncDecSLMVisionEncoderConfig"]
