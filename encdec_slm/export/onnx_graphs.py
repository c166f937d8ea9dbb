"""The graphs of encoder and decoder as modules that `torch.onnx.export` traces, and what their tensors are called.

They call the layers of the model itself, with an attention that is written for a graph: heads that share keys are rows
of one product, so that no key is repeated, and masks are added. The encoder's graph also projects the keys and values
of cross-attention, which the decoder's therefore does not hold. Names are those of Optimum and transformers.js.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from encdec_slm.export.onnx_names import ENCODER_MASK, FILLED_MASK, cache_names
from encdec_slm.models.modeling_encdec_slm_layers import positions_of


def graph_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of the heads that share a key as one product: softmax(Q Kᵀ · scaling + mask) V.

    Args:
        module: The attention.
        query: Shape `(batch, heads, target, head_dim)`.
        key: Shape `(batch, key_value_heads, source, head_dim)`.
        value: Shape of `key`.
        attention_mask: Added to the scores, shape `(batch or 1, 1, 1 or groups * target, source)`.
        scaling: Factor of the scores.
        dropout: None in a graph.
        kwargs: Nothing that a graph knows of.
    """
    batch, heads, target, head_dim = query.shape
    # query heads h, h + 1, ... that share a key lie side by side
    query = (query * scaling).reshape(batch, key.shape[1], -1, head_dim)
    scores = query @ key.transpose(2, 3) + attention_mask
    states = (torch.softmax(scores, dim=-1) @ value).reshape(batch, heads, target, head_dim)
    return states.transpose(1, 2), None


def masked(keep: torch.Tensor) -> torch.Tensor:
    """Returns what is added to scores: 0 where `keep` is true, a large negative number elsewhere."""
    # half of the least number: a row that keeps nothing stays finite
    return torch.where(keep, 0.0, torch.finfo(torch.float32).min / 2)


class EncoderGraph(nn.Module):
    """Tokens to encoder states and the keys and values of every layer of cross-attention.

    Args:
        model: A text model for conditional generation.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model.get_encoder()
        self.cross_attentions = nn.ModuleList([layer.encoder_attn for layer in model.get_decoder().layers])
        has_places = model.config.decoder.cross_attention_rope
        self.rotary_emb = model.get_decoder().rotary_emb if has_places else None
        layers = len(self.cross_attentions)
        self.input_names = ["input_ids", "attention_mask"]
        self.output_names = ["last_hidden_state", *cache_names("present", "encoder", layers)]

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the states, shape `(batch, source, hidden)`, then keys and values of each layer."""
        states = self.read(self.encoder.embed_tokens(input_ids), attention_mask)
        return (states, *self.keys_and_values(states, attention_mask))

    def read(self, states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Returns the encoder states of embeddings; both have the shape `(batch, source, hidden)`."""
        encoder = self.encoder
        position_embeddings = encoder.rotary_emb.for_heads(states, positions_of(states))
        mask = masked(attention_mask[:, None, None] != 0)
        for layer in encoder.layers:
            states = layer(
                states,
                mask,
                position_embeddings=position_embeddings,
                attention_interface=graph_attention,
            )
        return encoder.norm(states)

    def keys_and_values(
        self, states: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Returns what cross-attention reads of encoder states, layer by layer; the mask is of `(batch, source)`."""
        attentions: Any = self.cross_attentions
        rotated = self.rotary_emb.for_heads(states, positions_of(states, attention_mask)) if self.rotary_emb else None
        # the query is of no interest: what projects it is left out of the graph
        nothing = states.new_zeros(1, 1, attentions[0].q_proj.in_features)
        heads = [
            attention._cross_attention_states(nothing, None, None, states, rotated)[1:] for attention in attentions
        ]
        return tuple(tensor for pair in heads for tensor in pair)


class StaticCache(DynamicCache):
    """A cache of fixed length, of which a mask says what is filled: the last filled place takes the new token.

    Args:
        past: Keys and values of each layer, shape `(1, key_value_heads, length, head_dim)`.
        is_new: Which place is the last filled one, shape `(length,)`.
    """

    def __init__(self, past: Any, is_new: torch.Tensor) -> None:
        super().__init__(past)
        self.is_new = is_new[:, None]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the keys and values of one token and returns those of all places."""
        layer: Any = self.layers[layer_idx]
        layer.keys = torch.where(self.is_new, key_states, layer.keys)
        layer.values = torch.where(self.is_new, value_states, layer.values)
        return layer.keys, layer.values


class DecoderGraph(nn.Module):
    """Tokens and both caches to logits and the longer cache of self-attention: of a prompt or of one token.

    Args:
        model: A text model for conditional generation.
        is_static: Whether the cache of self-attention has a fixed length, and one token comes at a time. A mask then
            says which of its places hold a token, the new one included.
    """

    def __init__(self, model: Any, is_static: bool = False) -> None:
        super().__init__()
        self.decoder = model.get_decoder()
        self.lm_head = model.get_output_embeddings()
        layers = len(self.decoder.layers)
        self.input_names = [
            "input_ids",
            ENCODER_MASK,
            *cache_names("past_key_values", "decoder", layers),
            *cache_names("past_key_values", "encoder", layers),
            *([FILLED_MASK] if is_static else []),
        ]
        self.output_names = ["logits", *cache_names("present", "decoder", layers)]

    def forward(
        self,
        input_ids: torch.Tensor,
        encoder_attention_mask: torch.Tensor,
        past: Sequence[torch.Tensor],
        cross: Sequence[torch.Tensor],
        filled: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Returns the logits, shape `(batch, target, vocabulary)`, then keys and values of each layer."""
        decoder = self.decoder
        states = decoder.embed_tokens(input_ids)
        pairs = list(zip(past[::2], past[1::2], strict=True))
        if filled is None:
            position_ids = past[0].shape[2] + torch.arange(states.shape[1], device=states.device)[None]
            places = torch.arange(past[0].shape[2] + states.shape[1], device=states.device)
            cache = DynamicCache(pairs)
            readable = places <= position_ids[0, :, None]
        else:
            position_ids = filled.long().sum(dim=1, keepdim=True) - 1
            cache = StaticCache(pairs, torch.arange(past[0].shape[2], device=states.device) == position_ids[0])
            readable = filled
        position_embeddings = decoder.rotary_emb.for_heads(states, position_ids)
        # once for each of the heads that share a key
        groups = decoder.layers[0].self_attn.num_key_value_groups
        causal_mask = masked(readable).repeat(groups, 1)[None, None]
        cross_mask = masked(encoder_attention_mask[:, None, None] != 0)
        caches = EncoderDecoderCache(cache, DynamicCache(zip(cross[::2], cross[1::2], strict=True)))
        for layer in decoder.layers:
            states = layer(
                states,
                causal_mask,
                encoder_attention_mask=cross_mask,
                # only tells that this is cross-attention: its keys and values are in the cache
                encoder_hidden_states=states,
                past_key_values=caches,
                position_embeddings=position_embeddings,
                attention_interface=graph_attention,
            )
        logits = self.lm_head(decoder.norm(states))
        layers: Any = cache.layers
        return (logits, *(tensor for layer in layers for tensor in (layer.keys, layer.values)))
