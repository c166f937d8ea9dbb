"""Our layers as CTranslate2's: one specification of the engine takes the model as it is, weight by weight."""

from typing import Any

import torch
from ctranslate2.specs import attention_spec, common_spec, transformer_spec
from torch import nn

from encdec_slm.models.configuration_encdec_slm import EncDecSLMConfig, EncDecSLMEncoderConfig
from encdec_slm.models.modeling_encdec_slm import (
    EncDecSLMDecoderLayer,
    EncDecSLMEncoderLayer,
    EncDecSLMForConditionalGeneration,
)
from encdec_slm.models.modeling_encdec_slm_layers import EncDecSLMAttention, EncDecSLMMLP, EncDecSLMRMSNorm


Activation = common_spec.Activation
# those of `ACT2FN` that the engine computes; it writes the tanh form of GELU whatever its name
ACTIVATIONS = {
    "gelu": Activation.GELU,
    "gelu_python": Activation.GELU,
    "gelu_new": Activation.GELUTanh,
    "gelu_fast": Activation.GELUTanh,
    "gelu_pytorch_tanh": Activation.GELUTanh,
    "quick_gelu": Activation.GELUSigmoid,
    "relu": Activation.RELU,
    "silu": Activation.SWISH,
    "swish": Activation.SWISH,
    "tanh": Activation.Tanh,
    "sigmoid": Activation.Sigmoid,
}
# its llama3 is off by 7e-4 in log-probability and more
ROPE_SCALING = {"default": None, "linear": attention_spec.RotaryScalingType.Linear}


def refuse_what_ctranslate2_cannot_compute(config: EncDecSLMConfig) -> None:
    """Compares a configuration with what the engine's transformer has.

    Raises:
        ValueError: If the engine has no such layer, naming it and what it has instead.
    """
    encoder: Any = config.encoder
    decoder: Any = config.decoder
    for stack in (encoder, decoder):
        name = stack.base_config_key
        if stack.num_hidden_layers < 1:
            raise ValueError(f"{name}.num_hidden_layers is 0, but CTranslate2 needs a layer in each stack")
        if stack.hidden_act not in ACTIVATIONS:
            raise ValueError(
                f"{name}.hidden_act is {stack.hidden_act!r}, which CTranslate2 does not compute: it has "
                f"{', '.join(ACTIVATIONS)}"
            )
        rope_type = stack.rope_parameters["rope_type"]
        if rope_type not in ROPE_SCALING:
            raise ValueError(
                f"{name}.rope_parameters has rope_type {rope_type!r}, which CTranslate2 does not compute: it has "
                f"{', '.join(ROPE_SCALING)}"
            )
    if decoder.qk_norm:
        raise ValueError(
            "decoder.qk_norm is set, but CTranslate2 normalises queries and keys in self-attention alone, not in "
            "cross-attention: export to ONNX instead"
        )
    if decoder.cross_attention_rope:
        raise ValueError(
            "decoder.cross_attention_rope is set, but CTranslate2 rotates queries and keys in self-attention alone, "
            "not in cross-attention: export to ONNX instead"
        )
    if encoder.rms_norm_eps != decoder.rms_norm_eps:
        raise ValueError(
            f"encoder.rms_norm_eps ({encoder.rms_norm_eps}) and decoder.rms_norm_eps "
            f"({decoder.rms_norm_eps}) differ, but CTranslate2 has one for all norms"
        )


def model_spec(model: EncDecSLMForConditionalGeneration, tokens: list[str]) -> transformer_spec.TransformerSpec:
    """Returns the engine's specification with the weights of `model`, in float32, and `tokens` as the vocabulary.

    Args:
        model: A text model that `refuse_what_ctranslate2_cannot_compute` lets through.
        tokens: The name of each token id, no two alike.
    """
    config: Any = model.config
    spec = transformer_spec.TransformerSpec(
        transformer_spec.TransformerEncoderSpec(**_stack_arguments(config.encoder)),
        transformer_spec.TransformerDecoderSpec(**_stack_arguments(config.decoder), with_encoder_attention=True),
    )
    encoder, decoder = model.model.encoder, model.model.decoder
    spec.encoder.embeddings[0].weight = _weight(encoder.embed_tokens.weight)
    spec.decoder.embeddings.weight = _weight(decoder.embed_tokens.weight)
    for half, stack in ((spec.encoder, encoder), (spec.decoder, decoder)):
        half.scale_embeddings = False
        half.layer_norm.gamma = _weight(stack.norm.weight)
    spec.decoder.start_from_zero_embedding = False
    _set_linear(spec.decoder.projection, model.lm_head)
    for layer_spec, layer in zip(spec.encoder.layer, encoder.layers, strict=True):
        _set_layer(layer_spec, layer)
    for layer_spec, layer in zip(spec.decoder.layer, decoder.layers, strict=True):
        _set_layer(layer_spec, layer)
        _set_cross_attention(layer_spec.attention, layer.encoder_attn, layer.cross_attention_layernorm)
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    return spec


def _stack_arguments(config: EncDecSLMEncoderConfig) -> dict[str, Any]:
    rope: Any = config.rope_parameters
    return {
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "num_heads_kv": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "pre_norm": True,
        "rms_norm": True,
        "activation": ACTIVATIONS[config.hidden_act],
        "ffn_glu": config.gated_mlp,
        "qk_norm": config.qk_norm,
        "rotary_dim": config.head_dim,
        # dimension i turns with dimension i + head_dim / 2
        "rotary_interleave": False,
        "rotary_base": rope["rope_theta"],
        "rotary_scaling_type": ROPE_SCALING[rope["rope_type"]],
        "rotary_scaling_factor": rope.get("factor", 1),
    }


def _weight(parameter: torch.Tensor) -> torch.Tensor:
    # a copy: the engine's quantiser scales its tensors in place
    return parameter.detach().to(device="cpu", dtype=torch.float32, copy=True)


def _set_linear(spec: common_spec.LinearSpec, linear: nn.Linear) -> None:
    spec.weight = _weight(linear.weight)
    if linear.bias is not None:
        spec.bias = _weight(linear.bias)


def _set_layer(
    spec: transformer_spec.TransformerEncoderLayerSpec | transformer_spec.TransformerDecoderLayerSpec,
    layer: EncDecSLMEncoderLayer | EncDecSLMDecoderLayer,
) -> None:
    """Sets what both kinds of layers have: self-attention and the feed-forward block."""
    attention = spec.self_attention
    attention.layer_norm.gamma = _weight(layer.input_layernorm.weight)
    _set_linear(attention.linear[0], layer.self_attn.qkv_proj)
    _set_linear(attention.linear[1], layer.self_attn.o_proj)
    _set_qk_norm(attention, layer.self_attn)
    spec.ffn.layer_norm.gamma = _weight(layer.post_attention_layernorm.weight)
    _set_mlp(spec.ffn, layer.mlp)


def _set_cross_attention(
    spec: attention_spec.MultiHeadAttentionSpec, attention: EncDecSLMAttention, norm: EncDecSLMRMSNorm
) -> None:
    spec.layer_norm.gamma = _weight(norm.weight)
    _set_linear(spec.linear[0], attention.q_proj)
    _set_linear(spec.linear[1], attention.kv_proj)
    _set_linear(spec.linear[2], attention.o_proj)


def _set_qk_norm(spec: attention_spec.MultiHeadAttentionSpec, attention: EncDecSLMAttention) -> None:
    if attention.has_qk_norm:
        spec.q_norm.gamma = _weight(attention.q_norm.weight)
        spec.k_norm.gamma = _weight(attention.k_norm.weight)


def _set_mlp(spec: transformer_spec.FeedForwardSpec, mlp: EncDecSLMMLP) -> None:
    if mlp.is_gated:
        _set_linear(spec.linear_0, mlp.gate_proj)
        _set_linear(spec.linear_0_noact, mlp.up_proj)
    else:
        _set_linear(spec.linear_0, mlp.up_proj)
    _set_linear(spec.linear_1, mlp.down_proj)
