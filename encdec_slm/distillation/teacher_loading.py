"""Teachers from checkpoints of decoder-only models, with or without images, and of adapters on top of them."""

from collections.abc import Mapping
from os import PathLike
from typing import Any

from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.utils.peft_utils import find_adapter_config_file

from encdec_slm.distillation.heads import language_model
from encdec_slm.distillation.teachers import Teacher, check_is_causal, is_quantized


# what says where files are, and not what is made of them
PLACE = ("cache_dir", "local_files_only", "revision", "subfolder", "token")
TOKENIZER_OPTIONS = (*PLACE, "trust_remote_code")
# a tokenizer, or the processor of a model that reads images
ProcessingClass = PreTrainedTokenizerBase | ProcessorMixin
# of an adapter that was given no name
DEFAULT_ADAPTER = "default"


def load_teacher(
    model: str | PathLike[str] | PreTrainedModel | nn.Module,
    *,
    tokenizer: ProcessingClass | None = None,
    init_kwargs: Mapping[str, Any] | None = None,
    adapters: Mapping[str, str | PathLike[str]] | str | PathLike[str] | None = None,
    merge_adapter: bool = False,
    exchange: tuple[int, int] | None = None,
) -> Teacher:
    """Returns a teacher, loaded by name or made of a model.

    Args:
        model: Folder or Hub id of a causal language model, of one that reads images too, or of an adapter, whose base
            is then loaded too; or a model, which is frozen, and changed in place by `adapters` and `merge_adapter`.
        tokenizer: Loaded with the model, or with the base of an adapter, if that is given by name. A model that reads
            images has a processor instead.
        init_kwargs: Arguments of `from_pretrained`, as `dtype` (by default that of the checkpoint),
            `quantization_config`, `device_map`, `revision`, `trust_remote_code` or `attn_implementation`.
        adapters: Folder or Hub id of an adapter, or several by name, among which each row chooses.
        merge_adapter: Adds the adapter to the weights of its base: faster, and the base alone is gone.
        exchange: See `Teacher`.

    Raises:
        ImportError: If there is an adapter, but no PEFT.
        ValueError: If the model is not a decoder-only one with an LM head, arguments do not fit together, or the
            adapter cannot be merged.
    """
    names: tuple[str, ...] = ()
    if isinstance(model, str | PathLike):
        model, tokenizer, names = _load_checkpoint(str(model), tokenizer, dict(init_kwargs or {}))
    elif init_kwargs:
        raise ValueError(f"init_kwargs ({', '.join(init_kwargs)}) load a model by name, but a model was given")
    if tokenizer is None:
        raise ValueError(f"the teacher is a {type(model).__name__}, not a name: pass its tokenizer too")
    check_is_causal(language_model(model))
    if adapters is not None:
        model, names = _load_adapters(model, adapters)
    if merge_adapter:
        model, names = _merge_adapter(model), ()
    return Teacher(model, tokenizer, adapters=names, exchange=exchange)


def _load_checkpoint(
    name: str, tokenizer: ProcessingClass | None, init_kwargs: Mapping[str, Any]
) -> tuple[nn.Module, ProcessingClass, tuple[str, ...]]:
    """Returns a model, its tokenizer or processor, and the names of its adapters.

    Args:
        name: Folder or Hub id of a causal language model, or of an adapter, whose base is then loaded too.
        tokenizer: Loaded with the model, or with the base of an adapter, if not given.
        init_kwargs: Arguments of `from_pretrained`. Where `name` is an adapter, what tells its place (`revision`,
            `subfolder`) does not tell that of its base.

    Raises:
        ValueError: If it is no decoder-only model, or an adapter does not name its base.
    """
    place = {key: init_kwargs[key] for key in PLACE if key in init_kwargs}
    if find_adapter_config_file(name, **place) is None:
        return *_load_model(name, tokenizer, init_kwargs), ()
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(name, **place)
    if config.base_model_name_or_path is None:
        raise ValueError(f"the adapter {name} does not name its base: pass the base as model, and it as `adapters`")
    of_base = {key: value for key, value in init_kwargs.items() if key not in ("revision", "subfolder")}
    if config.revision is not None:
        of_base["revision"] = config.revision
    base, tokenizer = _load_model(config.base_model_name_or_path, tokenizer, of_base)
    model = PeftModel.from_pretrained(base, name, adapter_name=DEFAULT_ADAPTER, **place)
    return model, tokenizer, (DEFAULT_ADAPTER,)


def _load_adapters(
    model: nn.Module, adapters: Mapping[str, str | PathLike[str]] | str | PathLike[str]
) -> tuple[nn.Module, tuple[str, ...]]:
    """Returns a model with adapters, of which the first is active, and their names.

    Args:
        model: Their base, which is changed in place.
        adapters: A folder or Hub id, or several by name.

    Raises:
        ValueError: If there are none to load, or the model has some already.
    """
    from peft import PeftModel

    named = {DEFAULT_ADAPTER: adapters} if isinstance(adapters, str | PathLike) else dict(adapters)
    if not named:
        raise ValueError("adapters is empty: name at least one, or leave it out")
    if isinstance(model, PeftModel):
        raise ValueError(
            f"the teacher has adapters already ({', '.join(model.peft_config)}), and adapters names others "
            f"({', '.join(named)}): give the base model, or load all of them with PEFT and make a Teacher of that"
        )
    (first, path), *others = named.items()
    model = PeftModel.from_pretrained(model, str(path), adapter_name=first)
    for name, path in others:
        model.load_adapter(str(path), adapter_name=name)
    return model, tuple(named)


def _merge_adapter(model: nn.Module) -> nn.Module:
    """Returns the model with its adapter added to its weights; the object itself is no longer of use.

    Raises:
        ValueError: If there is not exactly one adapter, or the weights are quantised.
    """
    from peft import PeftModel

    names = list(model.peft_config) if isinstance(model, PeftModel) else []
    if len(names) != 1:
        raise ValueError(f"merge_adapter takes one adapter, but the teacher has {len(names)} ({', '.join(names)})")
    if is_quantized(language_model(model)):
        raise ValueError(
            f"the base of the adapter {names[0]!r} is quantised, so that what is merged into it would be rounded: set "
            "merge_adapter=False, or load the base without quantization_config"
        )
    merged: nn.Module = model.merge_and_unload(safe_merge=True)  # type: ignore[operator]
    return merged


def tokenizer_options(init_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those arguments of a model's `from_pretrained` that are its tokenizer's and its configuration's too."""
    return {name: init_kwargs[name] for name in TOKENIZER_OPTIONS if name in init_kwargs}


def load_processing_class(name: str, options: Mapping[str, Any]) -> ProcessingClass:
    """Returns the processor of a checkpoint that reads images, or the tokenizer of another one.

    Args:
        name: Folder or Hub id.
        options: See `tokenizer_options`.
    """
    try:
        auto_class = AutoProcessor if _reads_images(AutoConfig.from_pretrained(name, **options)) else AutoTokenizer
    except (OSError, ValueError):
        # of a tokenizer alone, without a model; what else may be wrong, it says itself
        auto_class = AutoTokenizer
    return auto_class.from_pretrained(name, **options)


def _load_model(
    name: str, tokenizer: ProcessingClass | None, init_kwargs: Mapping[str, Any]
) -> tuple[nn.Module, ProcessingClass]:
    options = tokenizer_options(init_kwargs)
    # half of a BART would be loaded as a causal language model
    config = AutoConfig.from_pretrained(name, **options)
    if config.is_encoder_decoder:
        raise ValueError(
            f"the teacher {name} is an encoder-decoder ({(config.architectures or [config.model_type])[0]}), but a "
            "teacher reads [prompt ; target]: take a decoder-only model"
        )
    tokenizer = load_processing_class(name, options) if tokenizer is None else tokenizer
    auto_class = AutoModelForImageTextToText if _reads_images(config) else AutoModelForCausalLM
    return auto_class.from_pretrained(name, **init_kwargs), tokenizer


def _reads_images(config: PreTrainedConfig) -> bool:
    """Returns whether the library, or the code of the checkpoint, has a model of images and texts for it."""
    name = AutoModelForImageTextToText.__name__
    if hasattr(config, "auto_map") and name in config.auto_map:
        return True
    return type(config) in AutoModelForImageTextToText._model_mapping
