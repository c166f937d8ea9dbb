"""Linear layers for a CPU that decodes one token at a time: what they read of their weights is what a step costs.

The kernels are PyTorch's own: fbgemm's of 8 bits, the weight-only one of 4 bits, and `torch.mv`.
"""

import warnings
from typing import Any

import torch
from torch import nn


INT4_GROUP = 32
# of the range of a group; the one with the smallest squared error is taken
INT4_CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
# what the kernel of 4 bits divides outputs by
INT4_OUTPUTS = 16


class SingleRowLinear(nn.Linear):
    """`nn.Linear` that reads its weights by `torch.mv` when there is one row, as in decoding one sequence.

    `nn.functional.linear` takes the path of matrix products then, which in bfloat16 reads the weights at half the
    speed of the memory on processors with AVX-512; on those without it the two take the same time.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Returns `input @ weight.T + bias`, shape `(..., out_features)`."""
        if input.numel() != self.in_features or torch.is_grad_enabled() or input.dtype != self.weight.dtype:
            return super().forward(input)
        output = torch.mv(self.weight, input.reshape(-1))
        if self.bias is not None:
            output = output + self.bias
        return output.view(*input.shape[:-1], self.out_features)


class Int8Linear(nn.Module):
    """Weights of 8 bits with a scale per output channel; inputs are rounded to 7 or 8 bits as they come, row by row.

    Without VNNI the kernel adds pairs of products in 16 bits, so that inputs have 7 bits: with 8, sums saturate.
    """

    weight: torch.Tensor | None
    weight_scale: torch.Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.register_buffer("weight", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(out_features))
        self.bias = nn.Parameter(torch.zeros(out_features), requires_grad=False) if bias else None
        self.packed: Any = None

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> "Int8Linear":
        """Rounds the weights of a layer, symmetrically, to the nearest of 255 levels."""
        layer = _like(cls, linear)
        weight = linear.weight.detach().float()
        # a channel of zeros has any scale
        scale = (weight.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        layer.weight = (weight / scale[:, None]).round().to(torch.int8)
        layer.weight_scale = scale
        return layer.pack()

    def pack(self) -> "Int8Linear":
        """Brings the weights into the order of this processor's kernel, in place of the plain ones."""
        weight, scale = self.weight, self.weight_scale
        if weight is None or scale is None:
            return self
        zeros = torch.zeros(len(scale), dtype=torch.long)
        with warnings.catch_warnings():
            # that such tensors will go one day: they are needed for the moment of packing
            warnings.simplefilter("ignore", UserWarning)
            quantized = torch._make_per_channel_quantized_tensor(weight, scale.double(), zeros, 0)
        bias = None if self.bias is None else self.bias.detach().float()
        self.packed = torch.ops.quantized.linear_prepack(quantized, bias)
        self.weight = self.weight_scale = None
        return self

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Returns `input @ weight.T + bias`, shape `(..., out_features)`, in the dtype of `input`."""
        states = input.float()
        if input.numel() == self.in_features:
            return torch.ops.quantized.linear_dynamic(states, self.packed, True).to(input.dtype)
        # the kernel has one scale for all rows: those with small values would be rounded away
        largest = states.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        output = torch.ops.quantized.linear_dynamic(states / largest, self.packed, True)
        # the bias, which the kernel has added, is not to be scaled
        output = output * largest if self.bias is None else torch.lerp(self.bias.float(), output, largest)
        return output.to(input.dtype)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.packed is not None:
            weight, _ = torch.ops.quantized.linear_unpack(self.packed)
            destination[prefix + "weight"] = weight.int_repr()
            destination[prefix + "weight_scale"] = weight.q_per_channel_scales().float()

    def extra_repr(self) -> str:
        """Says the shape."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Int4Linear(nn.Module):
    """Weights of 4 bits, with a scale and an offset for every 32 of an output channel; inputs stay as they are.

    The kernel computes in bfloat16, so that inputs of float32 are rounded to it.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        groups = in_features // INT4_GROUP
        # two levels a byte, in the order of the weights: a kernel's own order depends on the processor
        self.weight = nn.Buffer(torch.zeros(out_features, in_features // 2, dtype=torch.uint8))
        self.weight_scale = nn.Buffer(torch.ones(groups, out_features, 2, dtype=torch.bfloat16))
        self.bias = nn.Parameter(torch.zeros(out_features), requires_grad=False) if bias else None
        self.packed: Any = None

    @staticmethod
    def takes(linear: nn.Linear) -> bool:
        """Whether the kernel has the shape of a layer."""
        return not (linear.in_features % INT4_GROUP or linear.out_features % INT4_OUTPUTS)

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> "Int4Linear":
        """Rounds the weights of a layer to 16 levels a group, from end to end or, if that is more exact, within."""
        layer = _like(cls, linear)
        groups = linear.weight.detach().float().unflatten(1, (-1, INT4_GROUP))
        best_error = torch.full(groups.shape[:-1], torch.inf)
        levels = torch.zeros_like(groups)
        scale_and_middle = torch.zeros(*groups.shape[:-1], 2)
        for clip in INT4_CLIPS:
            low, high = clip * groups.amin(-1), clip * groups.amax(-1)
            # as the kernel will see them
            scale = ((high - low) / 15).clamp(min=1e-8).bfloat16().float()
            middle = (low + 8 * scale).bfloat16().float()
            rounded = ((groups - middle[..., None]) / scale[..., None] + 8).round().clamp(0, 15)
            error = ((rounded - 8) * scale[..., None] + middle[..., None] - groups).square().sum(-1)
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            levels = torch.where(better[..., None], rounded, levels)
            scale_and_middle = torch.where(better[..., None], torch.stack((scale, middle), -1), scale_and_middle)
        flat = levels.flatten(1).to(torch.uint8)
        layer.weight = flat[:, ::2] | flat[:, 1::2] << 4
        layer.weight_scale = scale_and_middle.transpose(0, 1).contiguous().bfloat16()
        return layer.pack()

    def pack(self) -> "Int4Linear":
        """Copies the weights into the order of this processor's kernel."""
        levels = torch.stack((self.weight & 15, self.weight >> 4), -1).flatten(1).to(torch.int32)
        # the second argument is for GPUs
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 2)
        return self

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Returns `input @ weight.T + bias`, shape `(..., out_features)`, in the dtype of `input`."""
        rows = input.reshape(-1, self.in_features).bfloat16()
        output = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.packed, INT4_GROUP, self.weight_scale)
        output = output.to(input.dtype).view(*input.shape[:-1], self.out_features)
        return output if self.bias is None else output + self.bias

    def extra_repr(self) -> str:
        """Says the shape."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def _like(layer_class: Any, linear: nn.Linear) -> Any:
    with torch.device("meta"):
        layer = layer_class(linear.in_features, linear.out_features, bias=linear.bias is not None)
    if linear.bias is not None:
        layer.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
    return layer
