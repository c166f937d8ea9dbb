"""The text encoder-decoder: read the input once, keep its keys and values, decode with a small decoder.

Shape of "Return of the Encoder" (arXiv 2501.16273): RMSNorm before every sub-layer, rotary positions in both
self-attentions and none in cross-attention, grouped-query attention, one embedding for encoder, decoder and head.
"""

import inspect
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.generation import GenerationMixin
from transformers.generation.configuration_utils import GenerationConfig
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, can_return_tuple, logging
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_encdec_slm import EncDecSLMConfig, EncDecSLMDecoderConfig, EncDecSLMEncoderConfig
from .modeling_encdec_slm_layers import (
    EncDecSLMAttention,
    EncDecSLMMLP,
    EncDecSLMRMSNorm,
    EncDecSLMRotaryEmbedding,
    get_attention_interface,
    positions_of,
)


try:
    from transformers.modeling_utils import slice_logits_to_keep
except ImportError:  # transformers < 5.21

    def slice_logits_to_keep(hidden_states: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
        """Keeps the last `logits_to_keep` positions (0: all), or those that a tensor names."""
        positions = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return hidden_states[:, positions]


logger = logging.get_logger(__name__)


class EncDecSLMEncoderLayer(GradientCheckpointingLayer):
    """Self-attention in both directions and a feed-forward block."""

    def __init__(self, config: EncDecSLMEncoderConfig, layer_idx: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.self_attn = EncDecSLMAttention(config, layer_idx, is_causal=False)
        self.mlp = EncDecSLMMLP(config)
        self.input_layernorm = EncDecSLMRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = EncDecSLMRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        attn_output, _ = self.self_attn(
            self.input_layernorm(hidden_states), position_embeddings, attention_mask, **kwargs
        )
        hidden_states = hidden_states + attn_output
        mlp_output = self.mlp(self.post_attention_layernorm(hidden_states))
        if self.training:
            mlp_output = nn.functional.dropout(mlp_output, p=self.dropout)
        return hidden_states + mlp_output


class EncDecSLMDecoderLayer(GradientCheckpointingLayer):
    """Causal self-attention, cross-attention to the encoder states and a feed-forward block."""

    def __init__(self, config: EncDecSLMDecoderConfig, layer_idx: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.cross_attention_rope = config.cross_attention_rope
        self.self_attn = EncDecSLMAttention(config, layer_idx, is_causal=True)
        self.encoder_attn = EncDecSLMAttention(
            config, layer_idx, is_causal=False, key_value_size=config.cross_attention_hidden_size
        )
        self.mlp = EncDecSLMMLP(config)
        self.input_layernorm = EncDecSLMRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.cross_attention_layernorm = EncDecSLMRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = EncDecSLMRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        encoder_position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        attn_output, _ = self.self_attn(
            self.input_layernorm(hidden_states), position_embeddings, attention_mask, past_key_values, **kwargs
        )
        hidden_states = hidden_states + attn_output
        attn_output, _ = self.encoder_attn(
            self.cross_attention_layernorm(hidden_states),
            # CODEPATH: only some models have places in cross-attention
            position_embeddings=position_embeddings if self.cross_attention_rope else None,
            attention_mask=encoder_attention_mask,
            past_key_values=past_key_values,
            key_value_states=encoder_hidden_states,
            key_position_embeddings=encoder_position_embeddings,
            **kwargs,
        )
        hidden_states = hidden_states + attn_output
        mlp_output = self.mlp(self.post_attention_layernorm(hidden_states))
        if self.training:
            mlp_output = nn.functional.dropout(mlp_output, p=self.dropout)
        return hidden_states + mlp_output


@auto_docstring
class EncDecSLMPreTrainedModel(PreTrainedModel):
    config: EncDecSLMConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["EncDecSLMEncoderLayer", "EncDecSLMDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _can_compile_fullgraph = True
    _supports_attention_backend = True

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """As in the library, for both stacks: an untied decoder has an embedding that the library overlooks."""
        embeddings = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        decoder = self.get_decoder()
        if (
            isinstance(decoder, EncDecSLMDecoderStack)
            and decoder.embed_tokens.num_embeddings != embeddings.num_embeddings
        ):
            decoder.embed_tokens = self._get_resized_embeddings(
                decoder.embed_tokens, embeddings.num_embeddings, mean_resizing=mean_resizing
            )
            self.tie_weights()
        self.config.vocab_size = embeddings.num_embeddings
        return embeddings


def embed(
    embed_tokens: nn.Embedding, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None
) -> torch.Tensor:
    """Returns `inputs_embeds` or the embeddings of `input_ids`, whichever was given.

    Raises:
        ValueError: If both or neither were given, or no token.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
    hidden_states = embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
    if hidden_states.shape[1] == 0:
        raise ValueError("there is no token to read: leave empty inputs out, or give them an end-of-sequence token")
    return hidden_states


def check_length(config: EncDecSLMEncoderConfig, length: int, past_length: int = 0) -> None:
    """Warns once of a sequence that is longer than those that the stack was trained on.

    Raises:
        ValueError: If dynamic NTK scaling has to turn keys that a cache already holds, turned for a shorter sequence.
    """
    # CODEPATH: within the trained length nothing is to say, whatever the checkpoint
    if past_length + length <= config.max_position_embeddings:
        return
    # CODEPATH: checkpoints with `rope_factor` > 1
    if past_length and config.rope_parameters["rope_type"] == "dynamic":
        raise ValueError(
            f"{past_length} tokens in the cache and {length} new ones are more than max_position_embeddings "
            f"({config.max_position_embeddings}), from where dynamic NTK scaling changes the rotary base with every "
            "token, and cached keys keep the one they had: decode with use_cache=False"
        )
    logger.warning_once(
        f"The {config.base_config_key} was given more than the {config.max_position_embeddings} tokens that it was "
        "trained for (`max_position_embeddings`): expect worse results. Truncate the input, or scale the rotary "
        "embeddings by `rope_parameters`."
    )


class EncDecSLMEncoderStack(EncDecSLMPreTrainedModel):
    """Token embedding, encoder layers and the last norm."""

    config: EncDecSLMEncoderConfig
    _can_record_outputs = {
        "hidden_states": EncDecSLMEncoderLayer,
        "attentions": EncDecSLMAttention,
    }

    def __init__(self, config: EncDecSLMEncoderConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([EncDecSLMEncoderLayer(config, i) for i in range(config.num_hidden_layers)])
        self.norm = EncDecSLMRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = EncDecSLMRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        hidden_states = embed(self.embed_tokens, input_ids, inputs_embeds)
        check_length(self.config, hidden_states.shape[1])
        if position_ids is None:
            position_ids = positions_of(hidden_states)
        attention_mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask
        )
        position_embeddings = self.rotary_emb.for_heads(hidden_states, position_ids)
        attention_interface = get_attention_interface(self.config, hidden_states.shape[1])
        for encoder_layer in self.layers:
            hidden_states = encoder_layer(
                hidden_states,
                attention_mask,
                position_embeddings=position_embeddings,
                attention_interface=attention_interface,
                **kwargs,
            )
        return BaseModelOutput(last_hidden_state=self.norm(hidden_states))


class EncDecSLMDecoderStack(EncDecSLMPreTrainedModel):
    """Token embedding, decoder layers and the last norm."""

    config: EncDecSLMDecoderConfig
    _can_record_outputs = {
        "hidden_states": EncDecSLMDecoderLayer,
        "attentions": OutputRecorder(EncDecSLMAttention, index=1, layer_name="self_attn"),
        "cross_attentions": OutputRecorder(EncDecSLMAttention, index=1, layer_name="encoder_attn"),
    }

    def __init__(self, config: EncDecSLMDecoderConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([EncDecSLMDecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        self.norm = EncDecSLMRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = EncDecSLMRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        encoder_hidden_states: torch.FloatTensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        hidden_states = embed(self.embed_tokens, input_ids, inputs_embeds)
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(config=self.config), DynamicCache(config=self.config))
        past_length = 0 if past_key_values is None else past_key_values.get_seq_length()
        # a static cache counts in a tensor, which compiled code must not look into
        if isinstance(past_length, int):
            check_length(self.config, hidden_states.shape[1], past_length)
        # CODEPATH: where places are compared with those of the source, padding must not count
        has_places = self.config.cross_attention_rope
        if position_ids is None:
            position_ids = positions_of(hidden_states, attention_mask if has_places else None, past_length)

        is_pair = isinstance(past_key_values, EncoderDecoderCache)
        causal_mask = create_causal_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            past_key_values=past_key_values.self_attention_cache if is_pair else past_key_values,
            position_ids=position_ids,
        )
        encoder_position_embeddings = None
        # CODEPATH: as above; keys in the cache are rotated already
        if has_places and not (is_pair and past_key_values.is_updated.get(0)):
            places = positions_of(encoder_hidden_states, encoder_attention_mask)
            encoder_position_embeddings = self.rotary_emb.for_heads(hidden_states, places)
        encoder_attention_mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=encoder_attention_mask,
            encoder_hidden_states=encoder_hidden_states,
        )
        position_embeddings = self.rotary_emb.for_heads(hidden_states, position_ids)
        attention_interface = get_attention_interface(self.config, hidden_states.shape[1])
        for decoder_layer in self.layers:
            hidden_states = decoder_layer(
                hidden_states,
                causal_mask,
                encoder_hidden_states,  # by position: reentrant checkpointing passes gradients to those alone
                encoder_attention_mask=encoder_attention_mask,
                past_key_values=past_key_values,
                position_embeddings=position_embeddings,
                encoder_position_embeddings=encoder_position_embeddings,
                attention_interface=attention_interface,
                **kwargs,
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values
        )


@auto_docstring(
    custom_intro="""
    The encoder alone, for embeddings and classification heads. Loads the encoder's weights of a full checkpoint.
    """
)
class EncDecSLMEncoder(EncDecSLMPreTrainedModel):
    _keys_to_ignore_on_load_unexpected = [r"decoder\.", r"lm_head\."]

    def __init__(self, config: EncDecSLMConfig) -> None:
        super().__init__(config)
        self.encoder = EncDecSLMEncoderStack(config.encoder)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.encoder.embed_tokens = value

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        return self.encoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )


@auto_docstring
class EncDecSLMModel(EncDecSLMPreTrainedModel):
    _tied_weights_keys = {"decoder.embed_tokens.weight": "encoder.embed_tokens.weight"}
    _encoder_class: type[EncDecSLMEncoderStack] = EncDecSLMEncoderStack

    def __init__(self, config: EncDecSLMConfig) -> None:
        super().__init__(config)
        self.encoder = self._encoder_class(config.encoder)
        self.decoder = EncDecSLMDecoderStack(config.decoder)
        # CODEPATH: halves of different width, as a wide encoder before a narrow decoder, cannot share an embedding
        if config.encoder.hidden_size != config.decoder.hidden_size:
            self._tied_weights_keys = None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        if self.decoder.embed_tokens.weight is self.encoder.embed_tokens.weight:
            self.decoder.embed_tokens = value
        self.encoder.embed_tokens = value

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
        **kwargs: Unpack[TransformersKwargs],
    ) -> Seq2SeqModelOutput:
        r"""
        decoder_position_ids (`torch.LongTensor` of shape `(batch_size, target_length)`, *optional*):
            Positions of the decoder tokens, for their rotary embeddings.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                inputs_embeds=inputs_embeds,
                **kwargs,
            )
        elif not isinstance(encoder_outputs, BaseModelOutput):
            encoder_outputs = BaseModelOutput(*encoder_outputs[:3])
        decoder_outputs = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            position_ids=decoder_position_ids,
            encoder_hidden_states=encoder_outputs.last_hidden_state,
            encoder_attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        return Seq2SeqModelOutput(
            last_hidden_state=decoder_outputs.last_hidden_state,
            past_key_values=decoder_outputs.past_key_values,
            decoder_hidden_states=decoder_outputs.hidden_states,
            decoder_attentions=decoder_outputs.attentions,
            cross_attentions=decoder_outputs.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
        )


def shift_tokens_right(labels: torch.Tensor, pad_token_id: int, decoder_start_token_id: int) -> torch.Tensor:
    """Returns the decoder input that predicts `labels`: the start token, then all labels but the last; -100 as pad."""
    shifted = labels.roll(1, dims=-1)
    shifted[:, 0] = decoder_start_token_id
    return shifted.masked_fill(shifted == -100, pad_token_id)


def _ship_with_checkpoint() -> type:
    # never called: `save_pretrained` copies the files that the text of this one imports, and the configuration of a
    # checkpoint names the pipeline, so that fine-tuning and saving again must not lose its file
    from .pipeline_encdec_slm import Text2TextGenerationPipeline

    return Text2TextGenerationPipeline


@auto_docstring
class EncDecSLMForConditionalGeneration(EncDecSLMPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.encoder.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _model_class: type[EncDecSLMModel] = EncDecSLMModel

    def __init__(self, config: EncDecSLMConfig) -> None:
        super().__init__(config)
        self.model = self._model_class(config)
        self.lm_head = nn.Linear(config.decoder.hidden_size, config.vocab_size, bias=config.lm_head_bias)
        # CODEPATH: halves of different width; the head then shares the decoder's embedding
        if config.encoder.hidden_size != config.decoder.hidden_size:
            self._tied_weights_keys = {"lm_head.weight": "model.decoder.embed_tokens.weight"}
        # labels stand at the positions that predict them: the default loss for such a class would shift them again
        self.loss_type = "ForMaskedLM"
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Returns the decoder input for `labels`, shape `(batch, target)`; `DataCollatorForSeq2Seq` calls this.

        Raises:
            ValueError: If the configuration has no token to start with, or none to pad with.
        """
        for name in ("decoder_start_token_id", "pad_token_id"):
            if getattr(self.config, name) is None:
                raise ValueError(
                    f"{name} is None in the configuration, so that labels alone do not say what the decoder reads: "
                    "set it, or pass decoder_input_ids"
                )
        return shift_tokens_right(labels, self.config.pad_token_id, self.config.decoder_start_token_id)

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.LongTensor,
        next_sequence_length: int | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As in the library, which continues from a cache only if a decoder mask tells how long the sequence is.

        Given more tokens than the cache holds, they are the whole sequence: those in the cache are not read again.
        An assistant continues so, round after round.
        """
        if next_sequence_length is None and past_key_values is not None:
            past_length = past_key_values.get_seq_length()
            if isinstance(past_length, int) and 0 < past_length < input_ids.shape[1]:
                next_sequence_length = input_ids.shape[1] - past_length
        mask = kwargs.get("decoder_attention_mask")
        # CODEPATH: with a static cache the decoder gets a mask of another form, which tells no position
        if self.config.decoder.cross_attention_rope and mask is not None and "decoder_position_ids" not in kwargs:
            kwargs["decoder_position_ids"] = positions_of(input_ids, mask)
        return super().prepare_inputs_for_generation(
            input_ids, next_sequence_length=next_sequence_length, past_key_values=past_key_values, **kwargs
        )

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any
    ) -> None:
        # dynamic NTK turns every key and state when the length passes `max_position_embeddings`: those in a cache
        # would stay as they were
        decoder = self.config.decoder
        length = generation_config.max_length
        if (
            decoder.rope_parameters["rope_type"] == "dynamic"
            and length > decoder.max_position_embeddings
            and generation_config.use_cache
            and model_kwargs.get("past_key_values") is None
        ):
            logger.warning_once(
                f"Generating up to {length} tokens with dynamic NTK scaling beyond `max_position_embeddings` "
                f"({decoder.max_position_embeddings}): the cache is switched off, since the rotary base changes with "
                "every token. Ask for fewer tokens to decode with a cache."
            )
            generation_config.use_cache = False
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args)

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
        **kwargs: Unpack[TransformersKwargs],
    ) -> Seq2SeqLMOutput:
        r"""
        decoder_position_ids (`torch.LongTensor` of shape `(batch_size, target_length)`, *optional*):
            Positions of the decoder tokens, for their rotary embeddings.
        labels (`torch.LongTensor` of shape `(batch_size, target_length)`, *optional*):
            The tokens that the decoder should predict at its positions; -100 is left out of the loss. Without
            `decoder_input_ids` the decoder reads the labels shifted to the right.
        """
        if labels is not None:
            # a training step throws the cache away
            use_cache = False if use_cache is None else use_cache
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        outputs: Seq2SeqModelOutput = self.model(
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
            use_cache=use_cache,
            **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            if labels.shape != logits.shape[:-1]:
                raise ValueError(
                    f"labels have shape {tuple(labels.shape)}, but the decoder predicts {tuple(logits.shape[:-1])}: "
                    "give decoder_input_ids of the shape of the labels (or none) and logits_to_keep=0"
                )
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            decoder_hidden_states=outputs.decoder_hidden_states,
            decoder_attentions=outputs.decoder_attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            encoder_hidden_states=outputs.encoder_hidden_states,
            encoder_attentions=outputs.encoder_attentions,
        )


# `generate` asks for the signature of remote code at every token: it should not be worked out anew each time
EncDecSLMForConditionalGeneration.forward.__signature__ = inspect.signature(EncDecSLMForConditionalGeneration.forward)

__all__ = [
    "EncDecSLMEncoder",
    "EncDecSLMForConditionalGeneration",
    "EncDecSLMModel",
    "EncDecSLMPreTrainedModel",
]
