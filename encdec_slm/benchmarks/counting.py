"""What a token takes, counted and not timed: floating-point operations, and the bytes of the weights that are read."""

from dataclasses import dataclass
from math import prod
from typing import Any, Self

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode
from transformers.generation.streamers import BaseStreamer


def linear_flops(x: tuple[int, ...], weight: tuple[int, ...], *args: Any, **kwargs: Any) -> int:
    """Returns the operations of a product of `x`, shape `(..., in)`, with `weight`, shape `(out, in)`."""
    return 2 * prod(x) * weight[0]


# an operator of oneDNN that PyTorch's table has no formula for; builds without oneDNN have no such operator
MORE_FORMULAS = {torch.ops.mkldnn._linear_pointwise: linear_flops} if torch.backends.mkldnn.is_available() else {}


@dataclass(frozen=True)
class TokenCost:
    """What one token takes.

    Attributes:
        flops: Floating-point operations; a multiplication and an addition are two. Causal attention counts whole,
            though kernels leave out what is masked, about half of it for a long prompt.
        weight_bytes: Bytes of the weights of all modules that were called, each once. Of an embedding one row is read:
            it counts only if the head, which reads all of it, is tied to it.
    """

    flops: int
    weight_bytes: int


class TokenCounter(BaseStreamer):
    """Counts what every token of an unmodified `generate` takes, while it is entered and passed as `streamer`."""

    def __init__(self) -> None:
        self._flops = FlopCounterMode(display=False, custom_mapping=MORE_FORMULAS)
        self._totals = [0]
        self._weights: list[dict[int, int]] = [{}]

    def __enter__(self) -> Self:
        self._hook = register_module_forward_pre_hook(self._see)
        self._flops.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._flops.__exit__(*error)
        self._hook.remove()

    def _see(self, module: nn.Module, args: Any) -> None:
        if not isinstance(module, nn.Embedding):
            self._weights[-1].update({id(weight): weight.nbytes for weight in module.parameters(recurse=False)})

    def put(self, value: torch.Tensor) -> None:
        """Called by `generate`: first with the tokens that it begins with, then token by token."""
        self._totals.append(self._flops.get_total_flops())
        self._weights.append({})

    def end(self) -> None:
        """Called by `generate` after the last token, which has been counted."""

    @property
    def costs(self) -> list[TokenCost]:
        """What each token took; the first one includes the reading of the prompt."""
        # the first part ends when `generate` hands over what it was given, which an encoder has read by then
        flops = [self._totals[2], *(b - a for a, b in zip(self._totals[2:], self._totals[3:], strict=False))]
        weights = [{**self._weights[0], **self._weights[1]}, *self._weights[2:-1]]
        return [
            TokenCost(flops=one, weight_bytes=sum(read.values())) for one, read in zip(flops, weights, strict=True)
        ]
