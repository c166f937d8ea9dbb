"""The model that a student learns from: a frozen decoder-only model, or the student itself without its adapter."""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import logging

from encdec_slm.distillation.alignment import TeacherInputs, predictions_of_target
from encdec_slm.distillation.chunked_divergence import LazyLogits
from encdec_slm.distillation.columns import STUDENT_IMAGES
from encdec_slm.distillation.heads import (
    GivenLogits,
    check_lazy_logits,
    evaluation_mode,
    language_model,
    lazy_logits,
)
from encdec_slm.distillation.image_text import ImageTextReader, processor_of, tokenizer_of


logger = logging.get_logger(__name__)

# as a `teacher_index`: the model without any of its adapters
WITHOUT_ADAPTER = -1
# where a model or an adapter came from and how it was loaded; the weights themselves tell their dtype
NOT_OF_THE_PREDICTIONS = frozenset(
    {
        "_name_or_path",
        "architectures",
        "auto_mapping",
        "base_model_name_or_path",
        "dtype",
        "inference_mode",
        "init_lora_weights",
        "peft_version",
        "revision",
        "transformers_version",
        "use_cache",
    }
)


class Teacher:
    """A frozen decoder-only model in evaluation mode, and its tokenizer or processor.

    It is no `nn.Module`, so that it is never trained, saved or wrapped with a student that holds it.

    Args:
        model: A causal language model, or one that reads images too (`AutoModelForImageTextToText`). It is frozen and
            set to evaluation mode, this very object.
        tokenizer: Its own, or the processor of a model that reads images.
        adapters: Names of adapters of a `PeftModel` that rows choose from by `teacher_index`; none if all rows are
            read by the model as it is.
        exchange: Id by which the student ends an answer, and that by which the teacher does, if they differ but have
            one vocabulary: see `LazyLogits`.

    Raises:
        ValueError: If the model is not a decoder-only one with an LM head, or lacks an adapter.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase | ProcessorMixin,
        *,
        adapters: tuple[str, ...] = (),
        exchange: tuple[int, int] | None = None,
    ) -> None:
        self._below = language_model(model)
        check_is_causal(self._below)
        if adapters:
            _activate_first(model, adapters)
        self.model: Any = model.eval().requires_grad_(False)
        self.processing_class = tokenizer
        self.adapters = adapters
        self.exchange = exchange
        self._parameters = inspect.signature(self._below.forward).parameters
        # tokens of an image are in rows and columns (Qwen2-VL and its kin)
        self._has_own_positions = any(hasattr(module, "get_rope_index") for module in self._below.modules())
        # whether its head can be captured is found out with the first rows
        self._is_lazy: bool | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer, also where it has a processor."""
        return tokenizer_of(self.processing_class)

    @property
    def reader(self) -> ImageTextReader | None:
        """Reads prompts with images; None for a model that reads texts only."""
        processor = processor_of(self.processing_class)
        return None if processor is None else ImageTextReader(processor=processor, is_prompt=True)

    @property
    def vocab_size(self) -> int:
        """Number of its logits."""
        return self._below.config.get_text_config(decoder=True).vocab_size

    @property
    def device(self) -> torch.device:
        """Where it reads."""
        return self._below.device

    @property
    def pad_token_id(self) -> int:
        """Any id that it knows: padding is told by a mask."""
        ids = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return next(i for i in ids if i is not None)

    @property
    def is_placed(self) -> bool:
        """Whether its layers stay where they were loaded: by a `device_map`, or by a quantiser."""
        return hasattr(self._below, "hf_device_map") or is_quantized(self._below)

    def to(self, device: torch.device | str) -> Self:
        """Moves the model, unless it `is_placed` already; returns the teacher."""
        if not self.is_placed:
            self.model.to(device)
        return self

    @torch.no_grad()
    def predict(self, inputs: TeacherInputs, teacher_index: torch.Tensor | None = None) -> LazyLogits | GivenLogits:
        """Returns what the teacher says at the positions that predict the target.

        Its logits are not computed yet, unless it does more to them than is known, or its head is not at hand or on
        another device than the inputs.

        Args:
            inputs: What it reads.
            teacher_index: Which adapter reads each row, of shape (batch,): a place in `adapters`, or -1 for the model
                without an adapter. May be left out if there is at most one adapter.

        Raises:
            ValueError: If `teacher_index` and `adapters` do not fit.
        """
        self._check_index(teacher_index)
        # who calls `train()` on all that a trainer holds would switch dropout on, LoRA's too
        self.model.eval()
        if teacher_index is None:
            return self._predict(inputs)
        indices = teacher_index.to(inputs.input_ids.device)
        parts, places = [], []
        for index in indices.unique().tolist():
            rows = (indices == index).nonzero().flatten()
            with self.reading_with(index):
                parts.append(self._predict(inputs[rows]))
            places.append(rows)
        return _join(parts, torch.cat(places).argsort())

    @contextmanager
    def reading_with(self, index: int) -> Iterator[None]:
        """While active, the model has the adapter of that place in `adapters`, or none for -1."""
        active = self.model.active_adapter
        try:
            if index == WITHOUT_ADAPTER:
                with self.model.disable_adapter():
                    yield
            else:
                self.model.set_adapter(self.adapters[index])
                yield
        finally:
            self.model.set_adapter(active)
            # an adapter that becomes active would be trained
            self.model.requires_grad_(False)

    def _predict(self, inputs: TeacherInputs) -> LazyLogits | GivenLogits:
        device = inputs.input_ids.device
        if self._is_lazy is None:
            self._is_lazy = self._can_be_lazy(inputs)
        if self._is_lazy and self._below.get_output_embeddings().weight.device == device:
            lazy, _ = lazy_logits(self.model, self._calling(inputs))
            kept = predictions_of_target(lazy.hidden_states, inputs.target_length)
            return replace(lazy, hidden_states=kept, exchange=self.exchange)
        logits = predictions_of_target(self._calling(inputs)().logits, inputs.target_length)
        return GivenLogits(logits.to(device), exchange=self.exchange)

    def _calling(self, inputs: TeacherInputs) -> Callable[[], Any]:
        # a model in parts moves its inputs itself
        device = inputs.input_ids.device if hasattr(self._below, "hf_device_map") else self.device
        images = {} if inputs.images is None else inputs.images.joined(self._below, device)
        optional: dict[str, Any] = {"logits_to_keep": inputs.target_length + 1, "use_cache": False}
        if not (images and self._has_own_positions):
            optional["position_ids"] = inputs.position_ids.to(device)
        arguments = {
            "input_ids": inputs.input_ids.to(device),
            "attention_mask": inputs.attention_mask.to(device),
            **{name: value for name, value in optional.items() if name in self._parameters},
            **{name: types.to(device) for name, types in inputs.token_types.items()},
            **images,
        }
        return lambda: self.model(**arguments)

    def _can_be_lazy(self, inputs: TeacherInputs) -> bool:
        first = inputs[torch.zeros(1, dtype=torch.long, device=inputs.input_ids.device)]
        try:
            check_lazy_logits(self.model, self._calling(first))
        except ValueError as reason:
            logger.info("The teacher's logits are computed all at once, which takes more memory: %s", reason)
            return False
        return True

    def _check_index(self, teacher_index: torch.Tensor | None) -> None:
        number = len(self.adapters)
        if teacher_index is None:
            if number > 1:
                raise ValueError(f"the teacher has {number} adapters, but no teacher_index says which reads which row")
            return
        if not number:
            raise ValueError(
                "a teacher_index chooses among adapters, but the teacher has none: load it with `adapters`"
            )
        if bool(((teacher_index < WITHOUT_ADAPTER) | (teacher_index >= number)).any()):
            raise ValueError(f"teacher_index is {teacher_index.tolist()}, but the adapters are {self.adapters}, or -1")


class SelfTeacher:
    """What an encoder-decoder says without its adapter: a teacher that takes no memory.

    It keeps a student that learns something new from forgetting what it knew.

    Args:
        student: A `PeftModel` of an encoder-decoder.

    Raises:
        ValueError: If the student has no adapter, or weights are trained that belong to none.
    """

    def __init__(self, student: nn.Module) -> None:
        below = language_model(student)
        name = type(below).__name__
        if not below.config.is_encoder_decoder:
            raise ValueError(f"the student is a {name}, which is no encoder-decoder: its own teacher reads otherwise")
        if not hasattr(student, "disable_adapter"):
            raise ValueError(
                f"the student is a {type(student).__name__} without an adapter that could be left out: wrap it by "
                "peft's get_peft_model, or load a teacher apart from it"
            )
        _check_base_is_frozen(student)
        self.student: Any = student
        self._below: Any = below

    @property
    def vocab_size(self) -> int:
        """Number of its logits."""
        return self._below.config.get_text_config(decoder=True).vocab_size

    @torch.no_grad()
    def predict(self, inputs: Mapping[str, Any]) -> LazyLogits:
        """Returns what the student would say without its adapter and without dropout, at its decoder's positions.

        Its mode, its adapters and which weights are trained are afterwards as they were.

        Args:
            inputs: `input_ids` and `attention_mask` of the source, `labels` of shape (batch, target), and
                `student_images` if it has any.
        """
        source = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        if STUDENT_IMAGES in inputs:
            source |= inputs[STUDENT_IMAGES].joined(self._below)
        read = self._below.prepare_decoder_input_ids_from_labels(labels=inputs["labels"])
        with _without_adapter(self.student):
            lazy, _ = lazy_logits(
                self.student, lambda: self.student(**source, decoder_input_ids=read, use_cache=False)
            )
        return replace(lazy, weight=lazy.weight.detach(), bias=None if lazy.bias is None else lazy.bias.detach())


def is_quantized(model: PreTrainedModel) -> bool:
    """Returns whether a quantiser of Transformers has made a model's weights."""
    return hasattr(model, "hf_quantizer") and model.hf_quantizer is not None


def check_is_causal(model: PreTrainedModel) -> None:
    """Raises a ValueError unless a model is a decoder-only one with an LM head."""
    name = type(model).__name__
    if model.config.is_encoder_decoder:
        raise ValueError(
            f"the teacher is an encoder-decoder ({name}), but it reads [prompt ; target]: take a decoder-only model"
        )
    if model.get_output_embeddings() is None or not model.can_generate():
        raise ValueError(
            f"the teacher is a {name}, which predicts no next token: load it with AutoModelForCausalLM, or "
            "with AutoModelForImageTextToText if it reads images"
        )


def teacher_fingerprint(teacher: Teacher) -> str:
    """Returns a hash of all that the teacher's predictions depend on, in 64 hexadecimal digits.

    It is the same on every device and in every process: of the weights, those of adapters included, of what the
    configurations say about them, and of `exchange`; not of where they were loaded from, nor of the tokenizer.

    Raises:
        ValueError: If weights are not at hand.
    """
    below, model = language_model(teacher.model), teacher.model
    peft_config = model.peft_config if hasattr(model, "disable_adapter") else {}
    described = {
        "class": type(below).__name__,
        "config": below.config.to_dict(),
        "adapters": {name: config.to_dict() for name, config in peft_config.items()},
        "order": teacher.adapters or (model.active_adapters if peft_config else ()),
        "exchange": teacher.exchange,
    }
    digest = hashlib.sha256(json.dumps(_what_counts(described), sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        if value.is_meta:
            raise ValueError(
                f"the teacher's weight {name} is offloaded: load the teacher without offloading to hash it"
            )
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        # no copy on the CPU, and one weight at a time from elsewhere
        digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _what_counts(value: Any) -> Any:
    """Returns a configuration as JSON has it, without what says nothing about the predictions."""
    if isinstance(value, Mapping):
        return {str(key): _what_counts(kept) for key, kept in value.items() if key not in NOT_OF_THE_PREDICTIONS}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [_what_counts(item) for item in value]
    return value if isinstance(value, int | float | None) else str(value)


def _activate_first(model: Any, adapters: tuple[str, ...]) -> None:
    loaded = list(model.peft_config) if hasattr(model, "disable_adapter") else []
    missing = [name for name in adapters if name not in loaded]
    if missing:
        raise ValueError(
            f"the teacher has no adapter {missing[0]!r}, but {loaded}: give `load_teacher` the adapters by name, or "
            "load them with PEFT"
        )
    model.set_adapter(adapters[0])


def _join(parts: list[Any], order: torch.Tensor) -> LazyLogits | GivenLogits:
    """Returns the rows of all parts in that order."""
    if isinstance(parts[0], GivenLogits):
        return replace(parts[0], values=torch.cat([part.values for part in parts])[order])
    # no adapter is on the head: it is one
    return replace(parts[0], hidden_states=torch.cat([part.hidden_states for part in parts])[order])


@contextmanager
def _without_adapter(student: Any) -> Iterator[None]:
    # an adapter that is switched on again is trained, also where it was frozen
    trained = [(value, value.requires_grad) for value in student.parameters()]
    try:
        with evaluation_mode(student), student.disable_adapter():
            yield
    finally:
        for value, requires_grad in trained:
            value.requires_grad_(requires_grad)


def _check_base_is_frozen(student: Any) -> None:
    # the parts of an adapter bear its name
    trained = [
        name
        for name, value in student.get_base_model().named_parameters()
        if value.requires_grad and student.peft_config.keys().isdisjoint(name.split("."))
    ]
    if trained:
        raise ValueError(
            f"{len(trained)} trained weights of the student belong to no adapter ({trained[0]}, ...): without its "
            "adapter it would not stay what it was. Freeze them (`bias='none'` in LoRA), or load a teacher apart from "
            "it"
        )
