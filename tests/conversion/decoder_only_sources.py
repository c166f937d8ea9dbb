"""Tiny decoder-only models with random weights, one for each way in which a source can differ."""

import numpy as np
import torch
from transformers import (
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto import AutoModelForCausalLM


LAYERS = 5
VOCAB_SIZE = 60
# heads wider than their share of the width, and shared keys: what is mixed up here shows
SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 16}
SOURCES = {
    "llama": LlamaConfig(**SIZES, head_dim=12, tie_word_embeddings=True),
    "llama_with_biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True, tie_word_embeddings=False),
    "llama3": LlamaConfig(**SIZES, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=False),
    "llama_dynamic": LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    ),
    "mistral": MistralConfig(**SIZES, head_dim=12, sliding_window=24, tie_word_embeddings=False),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2_untied": Qwen2Config(**SIZES, rope_parameters=YARN, tie_word_embeddings=False),
    "qwen3": Qwen3Config(**SIZES, head_dim=12, tie_word_embeddings=True),
    "qwen3_with_biases": Qwen3Config(**SIZES, head_dim=12, attention_bias=True, tie_word_embeddings=False),
    "gemma": GemmaConfig(**SIZES, head_dim=12, tie_word_embeddings=True),
    "gemma_untied": GemmaConfig(**SIZES, head_dim=12, attention_bias=True, tie_word_embeddings=False),
}


def make_source(name: str = "llama", **changes) -> PreTrainedModel:
    """Returns a random model in evaluation mode. Its biases and norms are random too: none of them is forgotten."""
    config = type(SOURCES[name]).from_dict({**SOURCES[name].to_dict(), **changes})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.copy_(0.4 * torch.randn_like(parameter))
    return model


def tokens(*shape: int) -> torch.Tensor:
    """Returns random words."""
    return torch.randint(3, VOCAB_SIZE, shape)


def assert_same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal but for rounding in float32, relative to the largest value."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


def write_gguf(path, model: PreTrainedModel, vocabulary=None, extra_tensors=None, extra_fields=None):
    """Writes a Llama or Qwen2 model as llama.cpp does, in float32, with a tokenizer of `vocabulary` if given."""
    from gguf import GGUFWriter

    config = model.config
    writer = GGUFWriter(path, config.model_type)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(model.model.layers[0].self_attn.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    for name, value in (extra_fields or {}).items():
        writer.add_string(name, value)
    if vocabulary is not None:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(vocabulary)
        writer.add_token_merges(["a b"])
        # 3 is how llama.cpp marks special tokens
        writer.add_token_types([3 if token.startswith("<") else 1 for token in vocabulary])
    for name, tensor in {**_gguf_tensors(model), **(extra_tensors or {})}.items():
        writer.add_tensor(name, np.ascontiguousarray(tensor.detach().numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_tensors(model):
    tensors = {"token_embd.weight": model.model.embed_tokens.weight, "output_norm.weight": model.model.norm.weight}
    if not model.config.tie_word_embeddings:
        tensors["output.weight"] = model.lm_head.weight
    for i, layer in enumerate(model.model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        tensors |= {
            f"blk.{i}.attn_norm.weight": layer.input_layernorm.weight,
            f"blk.{i}.attn_v.weight": attention.v_proj.weight,
            f"blk.{i}.attn_output.weight": attention.o_proj.weight,
            f"blk.{i}.ffn_norm.weight": layer.post_attention_layernorm.weight,
            f"blk.{i}.ffn_gate.weight": mlp.gate_proj.weight,
            f"blk.{i}.ffn_up.weight": mlp.up_proj.weight,
            f"blk.{i}.ffn_down.weight": mlp.down_proj.weight,
        }
        heads = {"q": model.config.num_attention_heads, "k": model.config.num_key_value_heads}
        for name, count in heads.items():
            weight = getattr(attention, f"{name}_proj").weight
            is_llama = model.config.model_type == "llama"
            tensors[f"blk.{i}.attn_{name}.weight"] = _pair_neighbours(weight, count) if is_llama else weight
        for name in "qkv":
            if getattr(attention, f"{name}_proj").bias is not None:
                tensors[f"blk.{i}.attn_{name}.bias"] = getattr(attention, f"{name}_proj").bias
    return tensors


def _pair_neighbours(weight, heads):
    # llama.cpp rotates neighbouring dimensions of a Llama's heads together
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
