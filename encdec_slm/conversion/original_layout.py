"""What the tensors of the original's text checkpoint are called, how large they are, and what we call them.

The original is the repository microsoft/encoder-decoder-slm. A dimension has the name of the field of its `MuConfig`
that says how large it is, so that tensors and configuration can be compared: `vocab_size`, `n_embd`, `qkv_embd`,
`hidden_dim`. Keys and values have no field for their width: `kv_embd`.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Slot:
    """Where a tensor goes in our model, and the names of its dimensions.

    Tensors of one target are its rows, one after the other.
    """

    target: str
    dimensions: tuple[str, ...]


SELF_ATTENTION = {
    "q_linear": Slot("qkv_proj", ("qkv_embd", "n_embd")),
    "k_linear": Slot("qkv_proj", ("kv_embd", "n_embd")),
    "v_linear": Slot("qkv_proj", ("kv_embd", "n_embd")),
    "out_linear": Slot("o_proj", ("n_embd", "qkv_embd")),
}
CROSS_ATTENTION = {
    "q_linear": Slot("q_proj", ("qkv_embd", "n_embd")),
    "k_linear": Slot("kv_proj", ("kv_embd", "n_embd")),
    "v_linear": Slot("kv_proj", ("kv_embd", "n_embd")),
    "out_linear": Slot("o_proj", ("n_embd", "qkv_embd")),
}
FEED_FORWARD = {
    "fc1": Slot("up_proj", ("hidden_dim", "n_embd")),
    "fc2": Slot("down_proj", ("n_embd", "hidden_dim")),
}
# the linear layers of a module, by our name of it
LINEAR_LAYERS = {"self_attn": SELF_ATTENTION, "encoder_attn": CROSS_ATTENTION, "mlp": FEED_FORWARD}
ENCODER_BLOCK = {
    "ln1": "input_layernorm",
    "attn": "self_attn",
    "ln2": "post_attention_layernorm",
    "mlp": "mlp",
}
DECODER_BLOCK = {
    "ln1": "input_layernorm",
    "causal_attn": "self_attn",
    "ln2": "cross_attention_layernorm",
    "cross_attn": "encoder_attn",
    "ln3": "post_attention_layernorm",
    "mlp": "mlp",
}
EMBEDDING = "transformer.wte.weight"
# the embedding once more: it may be left out and has no slot of its own
LM_HEAD = "lm_head.weight"
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def original_layout(n_encoder_layer: int, n_decoder_layer: int) -> dict[str, Slot]:
    """Returns the slot of every tensor of a checkpoint with these numbers of layers, by its name there."""
    layout = {
        EMBEDDING: Slot("model.encoder.embed_tokens.weight", ("vocab_size", "n_embd")),
        "transformer.ln_e.weight": Slot("model.encoder.norm.weight", ("n_embd",)),
        "transformer.ln_f.weight": Slot("model.decoder.norm.weight", ("n_embd",)),
    }
    for i in range(n_encoder_layer):
        layout |= _block(f"transformer.e.{i}", f"model.encoder.layers.{i}", ENCODER_BLOCK)
    for i in range(n_decoder_layer):
        layout |= _block(f"transformer.h.{i}", f"model.decoder.layers.{i}", DECODER_BLOCK)
    return layout


def _block(source: str, target: str, modules: Mapping[str, str]) -> Iterator[tuple[str, Slot]]:
    for name, our_name in modules.items():
        if our_name not in LINEAR_LAYERS:
            yield f"{source}.{name}.weight", Slot(f"{target}.{our_name}.weight", ("n_embd",))
            continue
        for linear, slot in LINEAR_LAYERS[our_name].items():
            stem = f"{target}.{our_name}.{slot.target}"
            yield f"{source}.{name}.{linear}.weight", Slot(f"{stem}.weight", slot.dimensions)
            yield f"{source}.{name}.{linear}.bias", Slot(f"{stem}.bias", slot.dimensions[:1])


def measure(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Returns the sizes that the tensors tell: both numbers of layers, and every named dimension.

    Args:
        tensors: The state dict of the original's text model.

    Raises:
        ValueError: If tensors are missing, unknown, of the wrong shape, or not floating point; names all of them.
    """
    depths = {f"n_{stack}_layer": _count_layers(tensors, key) for stack, key in (("encoder", "e"), ("decoder", "h"))}
    layout = original_layout(**depths)
    sizes = _vote_on_sizes(tensors, layout)
    head = {LM_HEAD: layout[EMBEDDING]} if LM_HEAD in tensors else {}
    problems = _problems(tensors, layout | head, sizes)
    problems += [f"{name} is 0" for name, size in {**depths, **sizes}.items() if not size]
    if problems:
        raise ValueError("the checkpoint is not a text model of the original: " + "; ".join(problems))
    if head and not torch.equal(tensors[LM_HEAD], tensors[EMBEDDING]):
        raise ValueError(
            f"{LM_HEAD} differs from {EMBEDDING}, but in the original they are one tensor: leave out the one that was "
            "not trained"
        )
    return depths | sizes


def _count_layers(tensors: Mapping[str, torch.Tensor], key: str) -> int:
    matches = (re.match(rf"transformer\.{key}\.(\d{{1,4}})\.", name) for name in tensors)
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def _vote_on_sizes(tensors: Mapping[str, torch.Tensor], layout: Mapping[str, Slot]) -> dict[str, int]:
    # the majority decides, so that one tensor of a wrong shape is named and not all the others
    votes: dict[str, Counter[int]] = {}
    for name, slot in layout.items():
        if name in tensors and tensors[name].dim() == len(slot.dimensions):
            for dimension, size in zip(slot.dimensions, tensors[name].shape, strict=True):
                votes.setdefault(dimension, Counter())[size] += 1
    return {dimension: sizes.most_common(1)[0][0] for dimension, sizes in votes.items()}


def _problems(tensors: Mapping[str, torch.Tensor], layout: Mapping[str, Slot], sizes: Mapping[str, int]) -> list[str]:
    problems = []
    if missing := [name for name in layout if name not in tensors]:
        problems.append(f"missing {', '.join(missing)}")
    if unknown := [name for name in tensors if name not in layout]:
        problems.append(f"unknown {', '.join(unknown)}")
    for name, slot in layout.items():
        if name not in tensors:
            continue
        found = tuple(tensors[name].shape)
        needed = tuple(sizes.get(dimension, "?") for dimension in slot.dimensions)
        if found != needed:
            problems.append(f"{name} has the shape {found} instead of {needed} {slot.dimensions}")
        if tensors[name].dtype not in FLOATING:
            problems.append(f"{name} has the dtype {tensors[name].dtype}, which is not a floating point type")
    return problems


def group_query_heads(tensor: torch.Tensor, dim: int, *, num_heads: int, num_key_value_heads: int) -> torch.Tensor:
    """Returns the tensor with the query heads along `dim` ordered by the key/value head that they read.

    The original pairs query head `h` with key/value head `h % num_key_value_heads`, Transformers pairs it with
    `h // (num_heads // num_key_value_heads)`.

    Args:
        tensor: Weight or bias; `dim` has the size `num_heads * head_dim`.
        dim: Rows (0) of the query projection, columns (1) of the output projection.
        num_heads: Number of query heads.
        num_key_value_heads: Number of key/value heads, a divisor of `num_heads`.
    """
    heads = tensor.unflatten(dim, (num_heads // num_key_value_heads, num_key_value_heads, -1))
    return heads.transpose(dim, dim + 1).flatten(dim, dim + 2)
