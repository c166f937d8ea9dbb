"""The vision-text encoder-decoder: image states take the places of placeholder tokens in the encoder's input.

The decoder is that of the text model and costs as little: it meets an image in cross-attention alone.
"""

import inspect
from copy import deepcopy
from dataclasses import dataclass
from os import PathLike
from typing import Any, Self

import torch
from torch import nn
from transformers import AutoModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPooling,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, can_return_tuple, torch_compilable_check
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from .configuration_encdec_slm_vision import EncDecSLMVisionConfig, EncDecSLMVisionEncoderConfig
from .modeling_encdec_slm import (
    EncDecSLMEncoderStack,
    EncDecSLMForConditionalGeneration,
    EncDecSLMModel,
    EncDecSLMPreTrainedModel,
    embed,
)
from .modeling_encdec_slm_vision_layers import (
    EncDecSLMVisionProjector,
    arrange,
    image_layouts,
    load_tower,
    mask_of_states,
    measure_tower,
    pixel_shuffle,
    pool_image_states,
    split_states,
    tower_arguments,
)


@auto_docstring(
    custom_intro="""
    Encoder states of which several of an image were averaged to one.
    """
)
@dataclass
class EncDecSLMVisionEncoderOutput(BaseModelOutput):
    r"""
    attention_mask (`torch.Tensor` of shape `(batch_size, states)`, *optional*):
        Which states the decoder may read: they are fewer than the tokens of the input.
    """

    attention_mask: torch.Tensor | None = None


@auto_docstring
class EncDecSLMVisionPreTrainedModel(EncDecSLMPreTrainedModel):
    config: EncDecSLMVisionConfig
    input_modalities = ("image", "text")

    @can_return_tuple
    @auto_docstring(custom_intro="What the encoder reads of every image, as a tuple in `pooler_output`.")
    def get_image_features(
        self,
        pixel_values: torch.FloatTensor,
        image_sizes: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        r"""
        image_sizes (`torch.LongTensor` of shape `(images, 2)`, *optional*):
            Heights and widths of the images before they were scaled, as the processor gives them.
        """
        return self.get_encoder().get_image_features(pixel_values, image_sizes, return_dict=True, **kwargs)


class EncDecSLMVisionEncoderStack(EncDecSLMVisionPreTrainedModel, EncDecSLMEncoderStack):
    """The text encoder, whose input has the projected states of a vision tower at the places of image tokens."""

    config: EncDecSLMVisionEncoderConfig

    def __init__(self, config: EncDecSLMVisionEncoderConfig) -> None:
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.multi_modal_projector = EncDecSLMVisionProjector(config)
        # a module, and not a parameter of this one, so that it is initialised, placed and offloaded like any other
        self.image_newline = nn.Embedding(1, config.hidden_size)
        self.tower_arguments = tower_arguments(self.vision_tower)
        # of all parts, once: the library would install the tower's with the tower's first call and again with the
        # encoder's, and a tower that records its layers twice has another layer -2
        maybe_install_capturing_hooks(self)
        self.post_init()

    def train(self, mode: bool = True) -> Self:
        """As in the library, but a tower whose every weight is frozen keeps its statistics and its units too."""
        super().train(mode)
        if not any(weight.requires_grad for weight in self.vision_tower.parameters()):
            self.vision_tower.eval()
        return self

    @can_return_tuple
    @auto_docstring
    def get_image_features(
        self,
        pixel_values: torch.FloatTensor,
        image_sizes: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        r"""
        pixel_values (`torch.FloatTensor` of shape `(images, views, channels, image_size, image_size)`):
            The thumbnail and the tiles of every image, padded to the same number of views. Without
            `image_grid_pinpoints` an image is one view, and the shape has no second dimension.
        image_sizes (`torch.LongTensor` of shape `(images, 2)`, *optional*):
            Heights and widths of the images before they were scaled.
        """
        config, geometry = self.config, self.config.image_geometry
        layouts = image_layouts(pixel_values, image_sizes, geometry)
        images = pixel_values if geometry.grid_pinpoints else pixel_values[:, None]
        views = [image[layout.views] for image, layout in zip(images, layouts, strict=True)]
        asked = {
            name: True
            for name in ("output_hidden_states", "output_attentions")
            if kwargs.get(name, getattr(config, name))
        }
        outputs = self.vision_tower(
            torch.cat(views).to(self.image_newline.weight.dtype),
            # one layer alone is kept, by releases of the library that can
            **{"output_hidden_states": config.vision_feature_layer, **asked, **self.tower_arguments},
        )
        states = outputs.hidden_states[config.vision_feature_layer]
        prefix, patches = split_states(states, config.kept_prefix_tokens, config.patches_per_side)
        patches = self.multi_modal_projector(pixel_shuffle(patches, config.pixel_shuffle_factor))
        # CODEPATH: checkpoints that read CLS, which pixel shuffle cannot
        prefix = self.multi_modal_projector(prefix) if config.kept_prefix_tokens else patches[:, :0]
        patches = patches.unflatten(1, (geometry.patches_per_side, geometry.patches_per_side))
        newline = self.image_newline(torch.zeros((), dtype=torch.long, device=patches.device))
        lengths = [len(view) for view in views]
        features = tuple(
            arrange(*parts, newline, config.image_token_compression)
            for parts in zip(prefix.split(lengths), patches.split(lengths), layouts, strict=True)
        )
        return BaseModelOutputWithPooling(
            last_hidden_state=states,
            pooler_output=features,
            hidden_states=outputs.hidden_states if "output_hidden_states" in asked else None,
            attentions=outputs.get("attentions"),
        )

    def get_placeholder_mask(
        self, input_ids: torch.LongTensor | None, inputs_embeds: torch.Tensor
    ) -> torch.BoolTensor:
        """Returns which tokens stand for states of an image, shape `(batch, source)`.

        Raises:
            ValueError: If the configuration has no `image_token_id`.
        """
        token = self.config.image_token_id
        if token is None:
            raise ValueError("pixel_values were given, but the configuration has no image_token_id: set it")
        if input_ids is not None:
            return input_ids == token
        return (inputs_embeds == self.embed_tokens.weight[token].to(inputs_embeds)).all(-1)

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_sizes: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        r"""
        image_sizes (`torch.LongTensor` of shape `(images, 2)`, *optional*):
            Heights and widths of the images before they were scaled, as the processor gives them.
        """
        given = {"attention_mask": attention_mask, "position_ids": position_ids, "return_dict": True}
        if pixel_values is None:
            # CODEPATH: every checkpoint that can read images has the token
            if input_ids is not None and self.config.image_token_id is not None:
                torch_compilable_check(
                    (input_ids != self.config.image_token_id).all(),
                    "there are image tokens in input_ids, but no pixel_values: give the images, or leave the tokens "
                    "out",
                )
            return super().forward(input_ids=input_ids, inputs_embeds=inputs_embeds, **given, **kwargs)
        inputs_embeds = embed(self.embed_tokens, input_ids, inputs_embeds)
        is_image = self.get_placeholder_mask(input_ids, inputs_embeds)
        features = torch.cat(self.get_image_features(pixel_values, image_sizes, return_dict=True).pooler_output)
        torch_compilable_check(
            is_image.sum() == len(features),
            lambda: (
                f"the input has {is_image.sum()} image tokens, but the images have {len(features)} features: take "
                "both from the checkpoint's processor, and change max_image_tokens in processor and model alike"
            ),
        )
        inputs_embeds = inputs_embeds.masked_scatter(is_image[..., None], features.to(inputs_embeds))
        outputs = super().forward(inputs_embeds=inputs_embeds, **given, **kwargs)
        # CODEPATH: checkpoints whose decoder reads fewer states of an image than their encoder
        if self.config.image_state_pooling == 1:
            return outputs
        if attention_mask is None:
            attention_mask = torch.ones_like(is_image, dtype=torch.long)
        states, mask = pool_image_states(
            outputs.last_hidden_state, is_image, attention_mask, self.config.image_state_pooling
        )
        return EncDecSLMVisionEncoderOutput(**{**outputs, "last_hidden_state": states, "attention_mask": mask})


@auto_docstring
class EncDecSLMVisionModel(EncDecSLMVisionPreTrainedModel, EncDecSLMModel):
    _encoder_class = EncDecSLMVisionEncoderStack

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        decoder_position_ids: torch.LongTensor | None = None,
        encoder_outputs: BaseModelOutput | tuple[torch.Tensor, ...] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        decoder_inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_sizes: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Seq2SeqModelOutput:
        r"""
        decoder_position_ids (`torch.LongTensor` of shape `(batch_size, target_length)`, *optional*):
            Positions of the decoder tokens, for their rotary embeddings.
        image_sizes (`torch.LongTensor` of shape `(images, 2)`, *optional*):
            Heights and widths of the images before they were scaled, as the processor gives them.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                inputs_embeds=inputs_embeds,
                pixel_values=pixel_values,
                image_sizes=image_sizes,
                return_dict=True,
                **kwargs,
            )
        return super().forward(
            attention_mask=mask_of_states(encoder_outputs, attention_mask),
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            decoder_position_ids=decoder_position_ids,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )


def without_images(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns what of a call's arguments is of texts alone."""
    return {name: value for name, value in kwargs.items() if name not in {"pixel_values", "image_sizes"}}


@auto_docstring
class EncDecSLMVisionForConditionalGeneration(EncDecSLMVisionPreTrainedModel, EncDecSLMForConditionalGeneration):
    _model_class = EncDecSLMVisionModel

    @classmethod
    def from_text_and_vision_pretrained(
        cls,
        text: str | PathLike[str] | EncDecSLMForConditionalGeneration,
        vision: str | PathLike[str] | PreTrainedModel,
        *,
        image_token_id: int,
        **vision_fields: Any,
    ) -> Self:
        """Joins a trained text model and a trained vision tower; the projector between them is new.

        Args:
            text: Text model, or the folder or name of its checkpoint.
            vision: Vision model, or the folder or name of its checkpoint. The vision half of CLIP's kind is taken.
            image_token_id: Token of the text model's vocabulary that stands for a state of an image.
            vision_fields: Fields of `EncDecSLMVisionEncoderConfig`, such as `max_image_tokens`.

        Returns:
            The model in the text model's dtype, in evaluation mode. It shares no weights with what was passed.

        Raises:
            ValueError: If text model, tower and fields do not fit together.
        """
        if not isinstance(text, PreTrainedModel):
            text = EncDecSLMForConditionalGeneration.from_pretrained(text)
        tower = vision if isinstance(vision, PreTrainedModel) else load_tower(vision)
        fields = {**measure_tower(tower, vision_fields), **vision_fields, "image_token_id": image_token_id}
        config = EncDecSLMVisionConfig.from_text_config(text.config, vision_config=tower.config, **fields)
        model: Any = cls(config).eval()
        model.to(device=text.device, dtype=text.dtype)
        model.load_state_dict({**model.state_dict(), **text.state_dict()})
        model.model.encoder.vision_tower.load_state_dict(tower.state_dict())
        model.generation_config = deepcopy(text.generation_config)
        return model

    def _expand_inputs_for_generation(self, expand_size: int = 1, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        # the encoder has seen the images, and beams need no copies of them; an assistant, which has none, still does
        if expand_size > 1:
            kwargs = without_images(kwargs)
        return super()._expand_inputs_for_generation(expand_size=expand_size, **kwargs)

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As in the text model; the images have been seen when the first token is generated."""
        return super().prepare_inputs_for_generation(*args, **without_images(kwargs))

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        decoder_position_ids: torch.LongTensor | None = None,
        encoder_outputs: BaseModelOutput | tuple[torch.Tensor, ...] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        decoder_inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        pixel_values: torch.FloatTensor | None = None,
        image_sizes: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Seq2SeqLMOutput:
        r"""
        decoder_position_ids (`torch.LongTensor` of shape `(batch_size, target_length)`, *optional*):
            Positions of the decoder tokens, for their rotary embeddings.
        labels (`torch.LongTensor` of shape `(batch_size, target_length)`, *optional*):
            The tokens that the decoder should predict at its positions; -100 is left out of the loss. Without
            `decoder_input_ids` the decoder reads the labels shifted to the right.
        image_sizes (`torch.LongTensor` of shape `(images, 2)`, *optional*):
            Heights and widths of the images before they were scaled, as the processor gives them.
        """
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            position_ids=position_ids,
            decoder_position_ids=decoder_position_ids,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            pixel_values=pixel_values,
            image_sizes=image_sizes,
            return_dict=True,
            **kwargs,
        )


# as of the text model's `forward`
EncDecSLMVisionForConditionalGeneration.forward.__signature__ = inspect.signature(
    EncDecSLMVisionForConditionalGeneration.forward
)

__all__ = [
    "EncDecSLMVisionForConditionalGeneration",
    "EncDecSLMVisionModel",
    "EncDecSLMVisionPreTrainedModel",
]
