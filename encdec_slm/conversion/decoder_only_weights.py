"""The tensors of a decoder-only model of the Llama family as those of an encoder-decoder of ours."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal, Self

import torch
from transformers import PreTrainedModel

from encdec_slm.conversion.decoder_only_families import Family
from encdec_slm.conversion.layer_choice import LayerChoice


CrossAttention = Literal["self", "zero"]
CROSS_ATTENTION: tuple[CrossAttention, ...] = ("self", "zero")
EMBEDDING = "model.embed_tokens.weight"
LM_HEAD = "lm_head.weight"
FINAL_NORM = "model.norm"


DEFAULT_CROSS_ATTENTION: CrossAttention = "zero"
LAYER_TENSORS = re.compile(
    r"model\.layers\.\d+\."
    r"(input_layernorm\.weight|post_attention_layernorm\.weight"
    r"|self_attn\.([qkvo]_proj\.(weight|bias)|[qk]_norm\.weight)|mlp\.(gate|up|down)_proj\.(weight|bias))"
)
OTHER_TENSORS = (EMBEDDING, LM_HEAD, f"{FINAL_NORM}.weight")


@dataclass(frozen=True, kw_only=True)
class DecoderOnlyTensors:
    """A decoder-only model's tensors, read by what they are for.

    Args:
        tensors: Its state dict, on the CPU and in one dtype.
        family: What its norms and embeddings mean.
        num_layers: Number of its layers.
    """

    tensors: Mapping[str, torch.Tensor]
    family: Family
    num_layers: int

    @classmethod
    def of_model(cls, model: PreTrainedModel, family: Family, dtype: torch.dtype | None) -> Self:
        """Returns the tensors of a loaded model in `dtype`, or else in the widest that it has.

        Raises:
            ValueError: If it has no head, tensors that have no place in our layers, or packed ones.
        """
        tensors = model.state_dict()
        _check(type(model).__name__, tensors)
        widest = reduce(torch.promote_types, (tensor.dtype for tensor in tensors.values()))
        return cls(
            tensors={name: tensor.to("cpu", widest if dtype is None else dtype) for name, tensor in tensors.items()},
            family=family,
            num_layers=model.config.num_hidden_layers,
        )

    @property
    def dtype(self) -> torch.dtype:
        """Type of every tensor."""
        return self.tensors[EMBEDDING].dtype

    @property
    def is_tied(self) -> bool:
        """Whether the head is the embedding."""
        return torch.equal(self.tensors[LM_HEAD], self.tensors[EMBEDDING])

    def to_encoder_decoder(self, layers: LayerChoice, cross_attention: CrossAttention) -> dict[str, torch.Tensor]:
        """Returns the state dict of an encoder-decoder that starts from `layers`; its tensors share no memory."""
        state_dict = self.embeddings()
        for i, number in enumerate(layers.encoder):
            state_dict |= self._shared_block(number, f"model.encoder.layers.{i}")
        state_dict |= self._norm(encoder_norm(layers.encoder, self.num_layers), "model.encoder.norm")
        for i, number in enumerate(layers.decoder):
            state_dict |= self._shared_block(number, f"model.decoder.layers.{i}")
            state_dict |= self._cross_attention(number, f"model.decoder.layers.{i}", cross_attention)
        return state_dict | self._norm(FINAL_NORM, "model.decoder.norm")

    def embeddings(self) -> dict[str, torch.Tensor]:
        """Returns one table for encoder, decoder and head, or three if the source's cannot be one."""
        table = self.tensors[EMBEDDING]
        if self.is_tied and not self.family.scales_embeddings:
            return {"model.encoder.embed_tokens.weight": table.clone()}
        head = self.tensors[LM_HEAD]
        if self.family.scales_embeddings:
            # the factor is rounded to the dtype of the weights first, as in the source
            table = table * torch.tensor(table.shape[1] ** 0.5).to(table)
        return {
            "model.encoder.embed_tokens.weight": table.clone(),
            "model.decoder.embed_tokens.weight": table.clone(),
            "lm_head.weight": head.clone(),
        }

    def _shared_block(self, number: int, target: str) -> dict[str, torch.Tensor]:
        source = f"model.layers.{number}"
        tensors = self._linear(
            source, f"{target}.self_attn.qkv_proj", "self_attn", ("q_proj", "k_proj", "v_proj")
        ) | self._linear(source, f"{target}.self_attn.o_proj", "self_attn", ("o_proj",))
        for name in ("gate_proj", "up_proj", "down_proj"):
            tensors |= self._linear(source, f"{target}.mlp.{name}", "mlp", (name,))
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors |= self._norm(f"{source}.{name}", f"{target}.{name}")
        return tensors | self._head_norms(source, f"{target}.self_attn")

    def _cross_attention(self, number: int, target: str, kind: CrossAttention) -> dict[str, torch.Tensor]:
        source, attention = f"model.layers.{number}", f"{target}.encoder_attn"
        output = self._linear(source, f"{attention}.o_proj", "self_attn", ("o_proj",))
        if kind == "zero":
            # not the other projections: gradients reach these at once, and through them the rest
            output = {name: torch.zeros_like(tensor) for name, tensor in output.items()}
        return (
            self._linear(source, f"{attention}.q_proj", "self_attn", ("q_proj",))
            | self._linear(source, f"{attention}.kv_proj", "self_attn", ("k_proj", "v_proj"))
            | output
            | self._head_norms(source, attention)
            | self._norm(f"{source}.input_layernorm", f"{target}.cross_attention_layernorm")
        )

    def _head_norms(self, source: str, target: str) -> dict[str, torch.Tensor]:
        tensors: dict[str, torch.Tensor] = {}
        for name in ("q_norm", "k_norm"):
            if f"{source}.self_attn.{name}.weight" in self.tensors:
                tensors |= self._norm(f"{source}.self_attn.{name}", f"{target}.{name}")
        return tensors

    def _norm(self, source: str, target: str) -> dict[str, torch.Tensor]:
        # a sum is a copy too
        return {f"{target}.weight": self.tensors[f"{source}.weight"] + self.family.norm_offset}

    def has_bias(self, module: str) -> bool:
        """Returns whether any linear layer of a module, `self_attn` or `mlp`, has a bias: ours then all have."""
        return any(f".{module}." in name and name.endswith(".bias") for name in self.tensors)

    def _linear(self, layer: str, target: str, module: str, names: Sequence[str]) -> dict[str, torch.Tensor]:
        stems = [f"{layer}.{module}.{name}" for name in names]
        tensors = {f"{target}.weight": torch.cat([self.tensors[f"{stem}.weight"] for stem in stems])}
        if self.has_bias(module):
            tensors[f"{target}.bias"] = torch.cat([*self._biases(stems)])
        return tensors

    def _biases(self, stems: Sequence[str]) -> Iterator[torch.Tensor]:
        for stem in stems:
            weight = self.tensors[f"{stem}.weight"]
            yield self.tensors.get(f"{stem}.bias", weight.new_zeros(weight.shape[0]))


def encoder_norm(layers: Sequence[int], num_layers: int) -> str:
    """Returns the name of the source's norm that the encoder ends with.

    What layer `n - 1` gives, the source reads through the input norm of layer `n`, whose weights fit the scale of the
    state at this depth. An encoder of the layers 0 to `n - 1` ends with that norm; one of all layers, or with a gap
    before its end, with the source's last norm.

    Args:
        layers: The source's layers that the encoder is made of.
        num_layers: Number of the source's layers.
    """
    depth = len(layers)
    if tuple(layers) == tuple(range(depth)) and depth < num_layers:
        return f"model.layers.{depth}.input_layernorm"
    return FINAL_NORM


def _check(name: str, tensors: Mapping[str, torch.Tensor]) -> None:
    if LM_HEAD not in tensors:
        raise ValueError(f"{name} has no {LM_HEAD}: load the model by AutoModelForCausalLM")
    unknown = [name for name in tensors if name not in OTHER_TENSORS and not LAYER_TENSORS.fullmatch(name)]
    if unknown:
        raise ValueError(
            f"{name} has {len(unknown)} tensors that our layers have no place for, {unknown[0]} among them: merge an "
            "adapter into the weights first, and dequantise what is quantised"
        )
    for key, tensor in tensors.items():
        if tensor.is_meta or not tensor.is_floating_point():
            raise ValueError(
                f"{key} of {name} is of the type {tensor.dtype} on {tensor.device}, not a weight in floating point in "
                "memory: load the model without quantisation and without offloading"
            )
