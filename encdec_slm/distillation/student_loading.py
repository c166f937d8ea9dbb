"""The student and its tokenizer or processor, from a model or a name."""

import inspect
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from encdec_slm.distillation.arguments import DistillationArguments
from encdec_slm.distillation.heads import language_model
from encdec_slm.distillation.teacher_loading import ProcessingClass, load_processing_class, tokenizer_options
from encdec_slm.parameter_groups import freeze


if TYPE_CHECKING:
    from peft import PeftConfig


def load_student(
    model: nn.Module | str,
    processing_class: ProcessingClass | None,
    args: DistillationArguments,
    peft_config: "PeftConfig | None" = None,
) -> tuple[nn.Module, ProcessingClass]:
    """Returns an encoder-decoder, whose parameters learn but for `args.freeze`, and its tokenizer or processor.

    Args:
        model: An encoder-decoder, a `PeftModel` of one, or its name, which `args.model_init_kwargs` goes with.
        processing_class: Loaded by the model's name if not given: the processor of a model that reads images.
        args: Arguments of the training.
        peft_config: Of an adapter to put around the model.

    Raises:
        ValueError: If the model is no encoder-decoder, has an adapter already, or its tokenizer is not known.
    """
    options = args.student_options()
    if isinstance(model, str):
        student, name = AutoModelForSeq2SeqLM.from_pretrained(model, **options), model
    elif options:
        raise ValueError(f"model_init_kwargs ({', '.join(options)}) load a student by name, but a model was given")
    else:
        student, name = model, str(language_model(model).config.name_or_path)
    _check(student)
    if processing_class is None:
        processing_class = _processing_class_of(name, type(student).__name__, options)
    if peft_config is not None:
        student = _with_adapter(student, peft_config)
    freeze(student, args.freeze or [])
    return student, processing_class


def reads_images(student: PreTrainedModel) -> bool:
    """Returns whether images go into the student's encoder."""
    return "pixel_values" in inspect.signature(student.get_encoder().forward).parameters


def _processing_class_of(name: str, kind: str, options: dict[str, object]) -> ProcessingClass:
    if not name:
        raise ValueError(f"the student is a {kind} without a name: pass its tokenizer as processing_class")
    return load_processing_class(name, tokenizer_options(options))


def _check(model: Any) -> None:
    below = language_model(model)
    if not below.config.is_encoder_decoder or below.get_output_embeddings() is None:
        raise ValueError(
            f"the student is a {type(below).__name__}, but it has to be an encoder-decoder with an LM head: load one "
            "with AutoModelForSeq2SeqLM. For a decoder-only student take TRL's DistillationTrainer"
        )
    if hasattr(model, "active_peft_config") and model.active_peft_config.is_prompt_learning:
        raise ValueError(
            f"the student has an adapter of type {model.active_peft_config.peft_type.value}, which changes what the "
            "model reads: take one that changes its layers, such as LoRA"
        )


def _with_adapter(model: Any, config: Any) -> nn.Module:
    from peft import PeftModel, get_peft_model

    if isinstance(model, PeftModel):
        raise ValueError("the student has an adapter already, and peft_config is another: give one of them")
    if config.is_prompt_learning:
        raise ValueError(
            f"peft_config is of type {config.peft_type.value}, which changes what the model reads: take one that "
            "changes its layers, such as LoRA"
        )
    return get_peft_model(model, config)
