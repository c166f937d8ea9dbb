"""Which decoder-only models our layers can hold exactly, and in what each family differs: data, and one check."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedConfig

from encdec_slm.models.configuration_encdec_slm import SUPPORTED_ROPE_TYPES


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the models of one `model_type` differ from the plain Llama layer.

    Args:
        carried: Fields of our stacks that the source's configuration has under the same name.
        constants: Fields of our stacks that its code fixes.
        norm_offset: What its RMSNorm adds to the stored weight.
        scales_embeddings: Whether embeddings are multiplied by the root of the width before the first layer.
        has_window: Whether its configuration has a `sliding_window`.
        unsupported: Fields that must not be set: what they switch on, our layers do not have.
    """

    carried: tuple[str, ...] = ()
    constants: Mapping[str, Any] = field(default_factory=dict)
    norm_offset: float = 0.0
    scales_embeddings: bool = False
    has_window: bool = False
    unsupported: tuple[str, ...] = ()


FAMILIES = {
    # SmolLM, SmolLM2, TinyLlama, Llama 1 to 3
    "llama": Family(carried=("attention_bias", "mlp_bias")),
    "mistral": Family(constants={"attention_bias": False, "mlp_bias": False}, has_window=True),
    # biases on queries, keys and values; the missing one of the output is zero
    "qwen2": Family(constants={"attention_bias": True, "mlp_bias": False}, has_window=True),
    "qwen3": Family(carried=("attention_bias",), constants={"mlp_bias": False, "qk_norm": True}, has_window=True),
    "gemma": Family(
        carried=("attention_bias",),
        constants={"mlp_bias": False},
        norm_offset=1.0,
        scales_embeddings=True,
        unsupported=("use_bidirectional_attention",),
    ),
}
# the reason in place of "not of the Llama family", for those that readers may think are
REFUSED = {
    "gemma2": "it has norms after the sub-layers, caps its logits and alternates between two attention windows",
    "gemma3": "it reads images, has norms after the sub-layers and alternates between two attention windows",
    "gemma3_text": "it has norms after the sub-layers and alternates between two attention windows",
    "gpt2": "it is not of the Llama family: it has learned positions and LayerNorm",
    "gpt_neox": "it is not of the Llama family: it has LayerNorm and attention beside the feed-forward block",
    "granite": "it multiplies embeddings, residuals, attention and logits by factors of its own",
    "ministral": "it alternates between two attention windows",
    "olmo2": "its norms stand after the sub-layers",
    "phi": "it is not of the Llama family: it has LayerNorm and attention beside the feed-forward block",
    "phi3": "its long context has rotary embeddings of the type longrope, which change between two cached tokens",
    "smollm3": "some of its layers have no positions",
    "stablelm": "it is not of the Llama family: it has LayerNorm",
}
# what configurations of mixtures call the number of their experts
EXPERT_FIELDS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
COMMON_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "rms_norm_eps",
    "rope_parameters",
    "max_position_embeddings",
    "attention_dropout",
)


def family_of(config: PreTrainedConfig) -> Family:
    """Returns the family of a decoder-only model.

    Raises:
        ValueError: If our layers cannot hold the model exactly; says why.
    """
    reason = _reason_against(config)
    if reason is not None:
        raise ValueError(
            f"a model of the type {config.model_type!r} cannot be converted: {reason}. Supported are "
            f"{', '.join(FAMILIES)}"
        )
    return FAMILIES[config.model_type]


def _reason_against(config: PreTrainedConfig) -> str | None:
    fields = config.to_dict()
    if config.is_encoder_decoder:
        return "it is already an encoder-decoder"
    if fields.get("quantization_config") is not None:
        return (
            "its weights are quantised. Load it, call `model.dequantize()`, and give that model, or give the folder "
            "or the GGUF file that it was made from"
        )
    if config.model_type in REFUSED:
        return REFUSED[config.model_type]
    if fields.get("vision_config") is not None:
        return "it reads images: convert the language model in it, if it has a configuration of its own"
    if any(fields.get(name) for name in EXPERT_FIELDS):
        return "it is a mixture of experts"
    if config.model_type not in FAMILIES:
        return "it is not of the Llama family as far as this converter knows"
    if switched_on := [name for name in FAMILIES[config.model_type].unsupported if fields[name]]:
        return f"its configuration has {switched_on[0]}={fields[switched_on[0]]}"
    rope_type = fields["rope_parameters"]["rope_type"]
    if rope_type not in SUPPORTED_ROPE_TYPES:
        return f"its rotary embeddings are of the type {rope_type!r}, not of {', '.join(SUPPORTED_ROPE_TYPES)}"
    return None


def stack_options(config: PreTrainedConfig, family: Family) -> tuple[dict[str, Any], list[str]]:
    """Returns what both our stacks take from the source's configuration, and notes on what differs.

    The numbers of layers are left out.
    """
    fields = config.to_dict()
    options = {name: fields[name] for name in (*COMMON_FIELDS, *family.carried)}
    # not all families have `head_dim` as a field, but the code of all looks for it
    options |= {"gated_mlp": True, "dropout": 0.0, "head_dim": fields.get("head_dim"), **family.constants}
    notes = []
    window = _narrower_window(fields) if family.has_window else None
    if window is not None:
        options["max_position_embeddings"] = window
        notes.append(
            f"The source attends to the last {window} tokens only (`sliding_window`), our layers to all. Up to that "
            f"length both compute the same, so max_position_embeddings is {window} and not "
            f"{fields['max_position_embeddings']}."
        )
    if family.scales_embeddings:
        notes.append(
            "The source multiplies its embeddings before the first layer but not in the head: the new model has the "
            "product in its tables and a head of its own, so tie_word_embeddings is False."
        )
    if family.norm_offset:
        notes.append(
            "The source stores the weights of its norms without the 1 that it adds: the new model has the sums, which "
            "float16 and bfloat16 round. dtype='float32' keeps them."
        )
    return options, notes


def _narrower_window(fields: Mapping[str, Any]) -> int | None:
    window = fields["sliding_window"]
    slides = window is not None and "sliding_attention" in fields.get("layer_types", ["sliding_attention"])
    return window if slides and window < fields["max_position_embeddings"] else None
