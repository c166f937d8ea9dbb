"""Models by name or folder, as who answers: which class, whether it fits into memory, and which files it is of."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from encdec_slm.evaluation.respondents import Copy, ImageTextModel, Respondent, TextModel
from encdec_slm.evaluation.tasks import Task, refuse_without_source


# the name of the baseline that needs no model
COPY = "copy"
# returns the model of a folder if it knows its format, None if not
Loader = Callable[[str], Any | None]
GIB = 1024**3
WEIGHTS = (".safetensors", ".bin", ".onnx", ".data")
CONFIGURATIONS = (
    "adapter_config",
    "chat_template",
    "config",
    "generation_config",
    "preprocessor",
    "processor",
    "tokenizer",
)


def load_respondent(
    name: str,
    task: Task,
    *,
    template: str | None = None,
    max_input_tokens: int | None = None,
    device: str | torch.device | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    revision: str | None = None,
    loaders: Sequence[Loader] = (),
) -> Respondent:
    """Returns who answers a task.

    Args:
        name: Folder or Hub id of a model with its tokenizer or processor, or `copy`.
        task: Whether it has images decides the class; its instruction is what a decoder-only model is told.
        template: What a decoder-only model reads, with the prompt as `{source}`, instead of its chat template.
        max_input_tokens: Longer inputs are cut.
        device: Such as `cuda:0`; the first GPU, or else the CPU, if not given.
        dtype: Of the weights; `auto` for that of the checkpoint.
        trust_remote_code: Whether code that comes with the model may be run.
        revision: Branch, tag or commit on the Hub.
        loaders: Asked first, in turn: for models of other formats than that of Transformers.

    Raises:
        ValueError: If the weights do not fit into memory, or the task has images and the model takes none.
    """
    if name == COPY:
        return Copy()
    hub: dict[str, Any] = {"trust_remote_code": trust_remote_code, "revision": revision}
    for load in loaders if Path(name).is_dir() else ():
        if (exported := load(name)) is not None:
            processing_class = (AutoProcessor if task.images else AutoTokenizer).from_pretrained(name, **hub)
            return respondent_of(
                exported, processing_class, task, template=template, max_input_tokens=max_input_tokens
            )
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    config = AutoConfig.from_pretrained(_base_of(name), **hub)
    check_memory(name, where, dtype=dtype, config=config, revision=revision)
    auto_class: Any
    if task.images:
        auto_class, processing_class = AutoModelForImageTextToText, AutoProcessor.from_pretrained(name, **hub)
    else:
        auto_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        processing_class = AutoTokenizer.from_pretrained(name, **hub)
    try:
        model = auto_class.from_pretrained(name, dtype=dtype, **hub)
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        raise ValueError(
            f"{task.title} needs a model of {auto_class.__name__}, but {name} is a {type(config).__name__}"
        ) from error
    return respondent_of(
        model.to(where).eval(), processing_class, task, template=template, max_input_tokens=max_input_tokens
    )


def respondent_of(
    model: Any,
    processing_class: Any,
    task: Task,
    *,
    template: str | None = None,
    max_input_tokens: int | None = None,
) -> Respondent:
    """Returns who answers a task, of a model that is loaded.

    Args:
        model: Of Transformers, or anything with `generate(input_ids=, attention_mask=, ...)`; it is taken for an
            encoder-decoder where it has no configuration that says otherwise.
        processing_class: Its tokenizer, or its processor for a task with images.
        task: See `load_respondent`.
        template: See `load_respondent`.
        max_input_tokens: See `load_respondent`.

    Raises:
        ValueError: If the task has images, but what was given is a tokenizer, or the template lacks the prompt.
    """
    if template is not None:
        refuse_without_source("template", template)
    is_encoder_decoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", True))
    if task.images:
        if isinstance(processing_class, PreTrainedTokenizerBase):
            raise ValueError(f"{task.title} has images, but the model has a tokenizer alone: it needs a processor")
        told = None if is_encoder_decoder else template or task.instruction
        return ImageTextModel(model=model, processor=processing_class, template=told)
    return TextModel(
        model=model,
        tokenizer=processing_class,
        is_encoder_decoder=is_encoder_decoder,
        template=template,
        instruction=task.instruction,
        max_input_tokens=max_input_tokens,
    )


def _base_of(name: str) -> str:
    """Returns the model that a LoRA adapter is for; the name itself if it is no adapter."""
    from transformers.utils.peft_utils import find_adapter_config_file

    found = find_adapter_config_file(name) if not (Path(name) / "config.json").is_file() else None
    if found is None:
        return name
    from peft import PeftConfig

    return str(PeftConfig.from_pretrained(name).base_model_name_or_path)


def check_memory(
    name: str, device: torch.device, *, dtype: str = "auto", config: Any = None, revision: str | None = None
) -> None:
    """Checks that the weights of a model fit into memory that is free, before any of them is read.

    Raises:
        ValueError: If they do not; the message names both sizes.
    """
    needed, available = weight_bytes(name, dtype, config=config, revision=revision), free_bytes(device)
    if needed is None or available is None or needed <= available:
        return
    raise ValueError(
        f"the weights of {name} take {needed / GIB:.1f} GiB in {dtype} precision, but only {available / GIB:.1f} GiB "
        f"of memory are free on {device}: take a smaller model, another --device, or --dtype bfloat16"
    )


def weight_bytes(name: str, dtype: str = "auto", *, config: Any = None, revision: str | None = None) -> int | None:
    """Returns how many bytes the weights of a model take, from the headers of its files or its configuration.

    None if neither says it: where there is no safetensors file and no class of the library for the configuration.
    """
    from huggingface_hub import get_local_safetensors_metadata, get_safetensors_metadata
    from huggingface_hub.errors import NotASafetensorsRepoError

    counts: dict[Any, int] | None
    try:
        if Path(name).is_dir():
            counts = get_local_safetensors_metadata(name).parameter_count
        else:
            counts = get_safetensors_metadata(name, revision=revision).parameter_count
    except (NotASafetensorsRepoError, OSError):
        counts = _counted(config, dtype)
    if not counts:
        return None
    sizes = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2}
    wanted = {"float32": 4, "float16": 2, "bfloat16": 2}.get(dtype)
    return sum(number * (wanted or sizes.get(kind, 1)) for kind, number in counts.items())


def _counted(config: Any, dtype: str) -> dict[str, int] | None:
    """Returns how many parameters a configuration gives a model, without weights; None if no class is known."""
    if config is None:
        return None
    auto_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    try:
        with torch.device("meta"):
            model = auto_class.from_config(config)
    except ValueError:
        return None
    kinds = {torch.float16: "F16", torch.bfloat16: "BF16"}
    return {kinds.get(config.dtype, "F32"): sum(parameter.numel() for parameter in model.parameters())}


def free_bytes(device: torch.device) -> int | None:
    """Returns how many bytes of a device's memory are free; None if nobody can tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.virtual_memory().available)


def fingerprint(name: str) -> str:
    """Returns what changes when the files of a model's folder do: a hash of their names, sizes and times.

    Of a model on the Hub it is the name: its revision is a setting of its own.
    """
    folder = Path(name)
    if not folder.is_dir():
        return name
    # what an evaluation writes may lie beside them
    files = [
        path for path in sorted(folder.iterdir()) if path.suffix in WEIGHTS or path.name.startswith(CONFIGURATIONS)
    ]
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]
