"""The parts of a layer: norm, feed-forward block, rotary positions and attention, for encoder and decoder alike."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .configuration_encdec_slm import EncDecSLMEncoderConfig


class EncDecSLMRMSNorm(nn.Module):
    """Root mean square normalisation (arXiv 1910.07467, equation 4), computed in float32 whatever the dtype."""

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        weight = self.weight
        return torch.rms_norm(hidden_states, weight.shape, weight, self.variance_epsilon)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self.variance_epsilon}"


def is_plain_linear(module: nn.Module, dtype: torch.dtype) -> bool:
    """Whether `module` is just `nn.Linear`: not wrapped by PEFT or a quantiser, hooked, or moved by Accelerate."""
    return (
        type(module) is nn.Linear
        and type(module.weight) is nn.Parameter
        and module.weight.dtype == dtype
        and not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
    )


def onednn_reads(x: torch.Tensor, *linears: nn.Module) -> bool:
    """Whether oneDNN may compute `linears` of a prompt `x`, shape `(batch, length, hidden)`: CPU and no gradients."""
    return (
        x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and (x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()))
        and all(is_plain_linear(linear, x.dtype) for linear in linears)
    )


def onednn_linear(linear: nn.Linear, x: torch.Tensor, activation: str = "none", algorithm: str = "") -> torch.Tensor:
    """Returns `activation(linear(x))`, bias and activation applied to the product as it comes out."""
    return torch.ops.mkldnn._linear_pointwise(x, linear.weight, linear.bias, activation, [], algorithm)


class EncDecSLMMLP(nn.Module):
    """Feed-forward block: two projections around an activation, or three if the activation is a gate."""

    def __init__(self, config: EncDecSLMEncoderConfig) -> None:
        super().__init__()
        self.is_gated = config.gated_mlp
        self.has_tanh_gelu = config.hidden_act == "gelu_pytorch_tanh"
        # CODEPATH: dense in the original's checkpoints, gated in students that start from a Llama-family model
        if config.gated_mlp:
            self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # CODEPATH: as above
        if self.is_gated:
            return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))
        # CODEPATH: the original's activation; PyTorch's CPU kernel for it takes as long as the product before it
        if (
            self.has_tanh_gelu
            and hidden_states.shape[1] > 1
            and onednn_reads(hidden_states, self.up_proj, self.down_proj)
        ):
            return onednn_linear(self.down_proj, onednn_linear(self.up_proj, hidden_states, "gelu", "tanh"))
        return self.down_proj(self.act_fn(self.up_proj(hidden_states)))


class EncDecSLMRotaryEmbedding(nn.Module):
    """Rotary position embeddings (arXiv 2104.09864): cosine and sine of the angle of every position and dimension.

    Dimension i is turned together with dimension i + head_dim / 2, by opposite angles: the sines of the first half are
    negative, so that `rotate` needs no sign of its own.

    `dynamic` NTK scaling takes its base from the length of the call alone. The library's own update also depends on
    the calls before, so that the same input could give two results.
    """

    def __init__(self, config: EncDecSLMEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.rope_type = config.rope_parameters["rope_type"]
        rope_init_fn: Callable[..., tuple[torch.Tensor, float]] = self.compute_default_rope_parameters
        if self.rope_type != "default":
            rope_init_fn = ROPE_INIT_FUNCTIONS[self.rope_type]
        inv_freq, self.attention_scaling = rope_init_fn(config)
        self.inv_freq = nn.Buffer(inv_freq, persistent=False)
        self.original_inv_freq = nn.Buffer(inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(
        config: EncDecSLMEncoderConfig, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, float]:
        """Returns the inverse frequencies, shape `(head_dim / 2,)`, and the scale of the embeddings, 1."""
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float) / config.head_dim
        return 1.0 / config.rope_parameters["rope_theta"] ** exponents, 1.0

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns cosines and sines, shape `(batch, length, head_dim)`, for positions of shape `(batch, length)`."""
        inv_freq = self.inv_freq
        # CODEPATH: checkpoints with `rope_factor` > 1, for inputs longer than those trained on
        if self.rope_type == "dynamic":
            seq_len = position_ids.max() + 1
            inv_freq, _ = ROPE_INIT_FUNCTIONS["dynamic"](self.config, device=x.device, seq_len=seq_len)
        inv_freq = inv_freq.to(device=x.device, dtype=torch.float)
        angles = position_ids[..., None] * torch.cat((-inv_freq, inv_freq))
        cos, sin = angles.cos(), angles.sin()
        if self.attention_scaling != 1.0:
            cos, sin = cos * self.attention_scaling, sin * self.attention_scaling
        return cos.to(x.dtype), sin.to(x.dtype)

    def for_heads(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns them as `rotate` reads them, shape `(batch, 1, length, head_dim)`."""
        cos, sin = self(x, position_ids)
        return cos.unsqueeze(1), sin.unsqueeze(1)


def rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turns the pairs of dimensions of `states`, shape `(batch, heads, length, head_dim)`, by their angles.

    Args:
        states: Queries or keys.
        cos: Cosines of the angles, shape `(batch, 1, length, head_dim)`.
        sin: Their sines, negative in the first half of the last dimension.
    """
    return torch.addcmul(states * cos, states.roll(states.shape[-1] // 2, dims=-1), sin)


def positions_of(
    states: torch.Tensor, attention_mask: torch.Tensor | None = None, past_length: int | torch.Tensor = 0
) -> torch.Tensor:
    """Returns the position of each token, shape `(batch, length)`, or `(1, length)` where all rows have the same.

    Args:
        states: The tokens or their states, shape `(batch, length, ...)`.
        attention_mask: Tells tokens from padding, which then does not count, shape `(batch, at least length)`. Its end
            is that of these tokens. One of another form tells no position.
        past_length: Tokens before these, unless a mask counts them.
    """
    length = states.shape[1]
    if isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 2:
        return ((attention_mask != 0).long().cumsum(dim=1) - 1).clamp(min=0)[:, -length:]
    return (torch.arange(length, device=states.device) + past_length).unsqueeze(0)


def repeat_kv(hidden_states: torch.Tensor, n_rep: int) -> torch.Tensor:
    """Repeats each key/value head for the `n_rep` consecutive query heads that share it."""
    return hidden_states if n_rep == 1 else hidden_states.repeat_interleave(n_rep, dim=1)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out, for those who want the weights: softmax(Q Kᵀ · scaling + mask) V.

    The softmax is taken in float32, or in double precision if that is the model's: what hides a token there is -inf in
    float32, so that a padded position, which sees none, would be NaN.
    """
    key = repeat_kv(key, module.num_key_value_groups)
    value = repeat_kv(value, module.num_key_value_groups)
    attn_weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        attn_weights = attn_weights + attention_mask
    softmax_dtype = torch.promote_types(query.dtype, torch.float32)
    attn_weights = nn.functional.softmax(attn_weights, dim=-1, dtype=softmax_dtype).to(query.dtype)
    attn_weights = nn.functional.dropout(attn_weights, p=dropout, training=module.training)
    attn_output = torch.matmul(attn_weights, value).transpose(1, 2).contiguous()
    return attn_output, attn_weights


def single_query_sdpa_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, None]:
    """SDPA of one query per row: the heads that share a key become its queries, so that no key is read twice."""
    batch, num_heads, _, head_dim = query.shape
    query = query.reshape(batch, key.shape[1], -1, head_dim)
    attn_output = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
    )
    return attn_output.reshape(batch, 1, num_heads, head_dim), None


def get_attention_interface(config: EncDecSLMEncoderConfig, query_length: int) -> Callable[..., Any]:
    """Returns the function that computes attention as the user chose: SDPA, eager, flash or flex."""
    interface = ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager_attention_forward)
    if interface is sdpa_attention_forward and query_length == 1:
        return single_query_sdpa_forward
    return interface


class EncDecSLMAttention(nn.Module):
    """Grouped-query attention: encoder self-, decoder self- and cross-attention differ only in what they are given.

    Query head `h` reads key/value head `h // num_key_value_groups`. One projection gives queries, keys and values,
    since three narrow ones take longer while decoding. Cross-attention has its queries from the decoder and its keys
    and values from the encoder states, which it projects once; afterwards the cache has them. It rotates them if it is
    given angles for both.
    """

    def __init__(
        self, config: EncDecSLMEncoderConfig, layer_idx: int, is_causal: bool, key_value_size: int | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = is_causal
        self.num_heads = config.num_attention_heads
        self.num_key_value_heads = config.num_key_value_heads
        self.num_key_value_groups = self.num_heads // self.num_key_value_heads
        self.head_dim = config.head_dim
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        query_size = self.num_heads * self.head_dim
        key_size = self.num_key_value_heads * self.head_dim
        if key_value_size is None:
            self.qkv_proj = nn.Linear(config.hidden_size, query_size + 2 * key_size, bias=config.attention_bias)
        else:
            self.q_proj = nn.Linear(config.hidden_size, query_size, bias=config.attention_bias)
            self.kv_proj = nn.Linear(key_value_size, 2 * key_size, bias=config.attention_bias)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=config.attention_bias)
        self.has_qk_norm = config.qk_norm
        # CODEPATH: students that start from Qwen3
        if config.qk_norm:
            self.q_norm = EncDecSLMRMSNorm(self.head_dim, eps=config.rms_norm_eps)
            self.k_norm = EncDecSLMRMSNorm(self.head_dim, eps=config.rms_norm_eps)

    def _split_heads(self, states: torch.Tensor) -> torch.Tensor:
        batch, length, _ = states.shape
        return states.view(batch, length, -1, self.head_dim).transpose(1, 2)

    def _self_attention_states(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        past_key_values: Cache | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        heads = (self.num_heads, self.num_key_value_heads)
        states = self._split_heads(self.qkv_proj(hidden_states))
        states, values = states.split_with_sizes((sum(heads), heads[1]), dim=1)
        # CODEPATH: students that start from Qwen3
        if self.has_qk_norm:
            queries, keys = states.split_with_sizes(heads, dim=1)
            states = torch.cat((self.q_norm(queries), self.k_norm(keys)), dim=1)
        queries, keys = rotate(states, *position_embeddings).split_with_sizes(heads, dim=1)
        if past_key_values is not None:
            if isinstance(past_key_values, EncoderDecoderCache):
                past_key_values = past_key_values.self_attention_cache
            keys, values = past_key_values.update(keys, values, self.layer_idx)
        return queries, keys, values

    def _cross_attention_states(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None,
        past_key_values: Cache | None,
        key_value_states: torch.Tensor,
        key_position_embeddings: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        queries = self._split_heads(self.q_proj(hidden_states))
        # CODEPATH: students that start from Qwen3
        if self.has_qk_norm:
            queries = self.q_norm(queries)
        # CODEPATH: models with `cross_attention_rope`
        if position_embeddings is not None:
            queries = rotate(queries, *position_embeddings)
        cache = past_key_values.cross_attention_cache if isinstance(past_key_values, EncoderDecoderCache) else None
        if cache is not None and past_key_values.is_updated.get(self.layer_idx):
            return queries, cache.layers[self.layer_idx].keys, cache.layers[self.layer_idx].values
        keys, values = self._split_heads(self.kv_proj(key_value_states)).chunk(2, dim=1)
        # CODEPATH: both as above; the cache holds normalised and rotated keys
        if self.has_qk_norm:
            keys = self.k_norm(keys)
        if key_position_embeddings is not None:
            keys = rotate(keys, *key_position_embeddings)
        if cache is not None:
            keys, values = cache.update(keys, values, self.layer_idx)
            past_key_values.is_updated[self.layer_idx] = True
        return queries, keys, values

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        key_value_states: torch.Tensor | None = None,
        key_position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        *,
        attention_interface: Callable[..., tuple[torch.Tensor, torch.Tensor | None]],
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if key_value_states is None:
            states = self._self_attention_states(hidden_states, position_embeddings, past_key_values)
        else:
            states = self._cross_attention_states(
                hidden_states, position_embeddings, past_key_values, key_value_states, key_position_embeddings
            )
        attn_output, attn_weights = attention_interface(
            self,
            *states,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(attn_output.flatten(2)), attn_weights
