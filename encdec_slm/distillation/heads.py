"""The LM head of a model that is called as usual, but multiplies by none of its large matrix.

A head that is given no position makes logits of shape (0, target, vocab): what the model does to them next costs
nothing. The hidden states that the head would have read are kept, with the head, as `LazyLogits`. So all that a model
does before its head, such as the scale of a T5 with tied embeddings, is in them without being known here.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from encdec_slm.distillation.chunked_divergence import LazyLogits, exchange_logits
from encdec_slm.distillation.divergences import to_float32


@dataclass(frozen=True, eq=False)
class GivenLogits:
    """Logits of a teacher that had to be computed all at once, in the place of `LazyLogits`.

    Args:
        values: Of shape (batch, target, vocab).
        exchange: Two ids whose logits are swapped; see `LazyLogits`.
    """

    values: torch.Tensor
    exchange: tuple[int, int] | None = None

    @property
    def shape(self) -> torch.Size:
        """That of the positions: (batch, target)."""
        return self.values.shape[:-1]

    @property
    def device(self) -> torch.device:
        """Where the logits are."""
        return self.values.device

    @property
    def vocab_size(self) -> int:
        """Number of logits of a position."""
        return self.values.shape[-1]

    def __getitem__(self, index: slice | torch.Tensor) -> "GivenLogits":
        """Returns some positions: an index, slice or mask of all dimensions but the last."""
        return replace(self, values=self.values[index])

    def logits(self) -> torch.Tensor:
        """Returns the logits, of shape (batch, target, vocab), at least in float32."""
        return exchange_logits(to_float32(self.values), self.exchange)


class HeadInput:
    """What a model's LM head was last called with; see `capture_head`."""

    def __init__(self, model: PreTrainedModel, head: nn.Linear) -> None:
        self._model, self._head = model, head
        self._hidden_states: torch.Tensor | None = None
        self._thread = threading.get_ident()

    def read(self) -> LazyLogits:
        """Returns the logits of the newest call, with their gradient. Each call is read once.

        They are in the dtype in which the model computes its own: that of autocast if the model ran under it.

        Raises:
            ValueError: If the head was not called since the last time.
        """
        if self._hidden_states is None:
            raise ValueError(
                f"the LM head of {type(self._model).__name__} was not called: call the model once for each time the "
                "logits are read, in the same thread (so not within DataParallel) and not compiled"
            )
        hidden_states, self._hidden_states = self._hidden_states, None
        bias = _bias(self._model, self._head)
        return LazyLogits(
            hidden_states=hidden_states,
            weight=self._head.weight.to(hidden_states.dtype),
            bias=None if bias is None else bias.to(hidden_states.dtype),
            softcap=_softcap(self._model),
        )

    def record(self, head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Keeps the hidden states and returns none of their rows: the hook before the head's forward pass."""
        # another thread that calls the model meanwhile gets its logits
        if threading.get_ident() != self._thread:
            return None
        hidden_states, *others = inputs
        self._hidden_states = hidden_states.to(self._head.weight.device, self._dtype(hidden_states.device.type))
        return hidden_states[:0], *others

    def _dtype(self, device_type: str) -> torch.dtype:
        if torch.is_autocast_enabled(device_type):
            return torch.get_autocast_dtype(device_type)
        return self._head.weight.dtype


def language_model(model: nn.Module) -> PreTrainedModel:
    """Returns the model of Transformers that is inside a `PeftModel` or a wrapper for several devices, or `model`.

    Raises:
        ValueError: If there is none.
    """
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return module
    raise ValueError(f"{type(model).__name__} holds no model of Transformers: pass one, or a PeftModel around it")


@contextmanager
def capture_head(model: nn.Module) -> Iterator[HeadInput]:
    """While active, calls of the model make empty logits, and what its LM head would read can be read here.

    Do not pass labels meanwhile: the model has no logits to compute its own loss from.

    Args:
        model: A model with an LM head, or what is around it; what is called may be anything around it too.

    Raises:
        ValueError: If the head is more than a matrix and a bias that are at hand.

    Example:
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=10, n_embd=8, n_head=2, n_layer=1)).eval()
    >>> ids = torch.tensor([[1, 2, 3]])
    >>> with capture_head(model) as head:
    ...     print(model(ids).logits.shape)
    ...     logits = head.read()
    torch.Size([0, 3, 10])
    >>> torch.testing.assert_close(logits.logits(), model(ids).logits)
    """
    below = language_model(model)
    head = _linear_head(below)
    captured = HeadInput(below, head)
    handle = head.register_forward_pre_hook(captured.record)
    try:
        yield captured
    finally:
        handle.remove()


def lazy_logits(model: nn.Module, call: Callable[[], Any]) -> tuple[LazyLogits, Any]:
    """Returns the logits that one call of the model would give, and what it gave without them.

    Args:
        model: Whose head is captured; see `capture_head`.
        call: Calls the model, or what is around it.
    """
    with capture_head(model) as head:
        outputs = call()
        return head.read(), outputs


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """While active, all modules are in evaluation mode; then each is in the mode that it was in before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def check_lazy_logits(model: nn.Module, call: Callable[[], Any]) -> None:
    """Compares the logits that a call of the model gives with those made of its head's input.

    Args:
        model: It is called twice, in evaluation mode.
        call: Calls the model, or what is around it, and returns its outputs with `logits`.

    Raises:
        ValueError: If they differ, since the model does something to its logits that is not known here; or if the
            head cannot be captured.
    """
    with evaluation_mode(model):
        lazy, _ = lazy_logits(model, call)
        own = call().logits
    error = (lazy.logits() - own).abs().max() / own.abs().max()
    # of the rounding of one product; what is not known multiplies all logits, or caps them
    tolerance = max(1e-4, 4 * torch.finfo(own.dtype).eps, 4 * torch.finfo(lazy.weight.dtype).eps)
    # NaN is an error too
    if not error <= tolerance:
        name = type(language_model(model)).__name__
        raise ValueError(
            f"the logits of {name} are not what its LM head gives: they differ by {float(error):.2g} of the largest. "
            "Only a bias and `final_logit_softcapping` are known after a head; a factor (`logit_scale`, "
            "`logits_scaling`) can be multiplied into the weight of a head that is not tied, and set to 1"
        )


def _linear_head(model: PreTrainedModel) -> nn.Linear:
    name, head = type(model).__name__, model.get_output_embeddings()
    if head is None:
        raise ValueError(f"{name} has no LM head: load it with AutoModelForSeq2SeqLM or AutoModelForCausalLM")
    # exactly: a quantised layer and one sharded over processes are subclasses, in module or weight
    if type(head) is not nn.Linear or type(head.weight) is not nn.Parameter:
        raise ValueError(
            f"the LM head of {name} is a {type(head).__name__} with a {type(head.weight).__name__}, but only a plain "
            "nn.Linear can be multiplied a few positions at a time: leave the head out of what is quantised "
            "(`llm_int8_skip_modules`), adapted (`target_modules`, `modules_to_save`) or sharded"
        )
    if head.weight.is_meta:
        raise ValueError(f"the LM head of {name} is offloaded: choose a device_map that keeps it on a device")
    return head


def _bias(model: PreTrainedModel, head: nn.Linear) -> torch.Tensor | None:
    """Returns the head's bias and what BART's family adds to the logits, together, or None."""
    more = dict(model.named_buffers(recurse=False)).get("final_logits_bias")
    if more is None:
        return head.bias
    more = more.flatten().to(head.weight.device)
    return more if head.bias is None else head.bias + more


def _softcap(model: PreTrainedModel) -> float | None:
    config = model.config.get_text_config(decoder=True)
    return config.final_logit_softcapping if hasattr(config, "final_logit_softcapping") else None
