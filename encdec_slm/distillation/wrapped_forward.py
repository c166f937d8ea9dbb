"""One call of a wrapped model in which anything may be computed.

`DistributedDataParallel` and its kin see to gradients in their own `forward`: it must be called once per backward
pass, and its output must depend on all that is trained. A distillation step runs the encoder once, the decoder once
or twice and the loss over chunks of the head, which is no call of the model's `forward`. So that `forward` is replaced
for one call.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def call_inside(wrapped: nn.Module, model: nn.Module, compute: Callable[[], Any], **inputs: torch.Tensor) -> Any:
    """Returns what `compute` returns, called within the `forward` of all modules around a model.

    Args:
        wrapped: The model, or wrappers around it (DDP, a PeftModel) that hand through what its `forward` returns.
        model: The model at the core.
        compute: May call the model as usual.
        inputs: What the wrappers are called with, and `compute` is not.
    """
    original = vars(model).get("forward")

    def restore() -> None:
        if original is None:
            vars(model).pop("forward", None)
        else:
            model.forward = original

    def forward(*_: Any, **__: Any) -> Any:
        restore()
        return compute()

    model.forward = forward
    try:
        return wrapped(**inputs)
    finally:
        restore()
