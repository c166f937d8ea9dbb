"""Loading a model from the Hub or from a folder: one commit, checked files, installed classes before remote code."""

from dataclasses import dataclass
from os import PathLike
from typing import Any

from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoProcessor, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.processing_auto import processor_class_from_name
from transformers.utils import logging

from encdec_slm.hub.checkpoint import CONFIG, Checkpoint, fetch_checkpoint
from encdec_slm.hub.checkpoint_files import MAX_FILE_BYTES
from encdec_slm.hub.code_files import CodeReference, refuse_unverified
from encdec_slm.hub.config_checks import check_model_size


logger = logging.get_logger(__name__)

# arguments of `from_pretrained` that read other files than those that were checked, or in another way
UNCHECKED = {
    "adapter_kwargs",
    "cache_dir",
    "config",
    "force_download",
    "gguf_file",
    "proxies",
    "state_dict",
    "subfolder",
    "use_safetensors",
    "variant",
    "weights_only",
}
# arguments of `from_pretrained` that are no fields of a configuration, though some have such a field
OF_THE_WEIGHTS = {"dtype", "quantization_config", "torch_dtype"}
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "spiece.model")


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model, and where it comes from.

    Attributes:
        model: Of the installed class of its type, or of one that came with it; a `PeftModel` for an adapter.
        processing_class: Its tokenizer or processor; `None` if it has none.
        checkpoint: The files that it was loaded from, with their commit and the code that lies beside them.
    """

    model: Any
    processing_class: Any
    checkpoint: Checkpoint


def load(
    name: str | PathLike[str],
    *,
    revision: str | None = None,
    code_revision: str | None = None,
    verify: bool = False,
    trust_remote_code: bool = False,
    token: str | bool | None = None,
    local_files_only: bool = False,
    max_file_bytes: int = MAX_FILE_BYTES,
    auto_class: Any = AutoModelForSeq2SeqLM,
    **model_kwargs: Any,
) -> LoadedModel:
    """Loads a model with its tokenizer or processor after checking its files (see `fetch_checkpoint`).

    The classes that are installed are preferred: of a model of theirs no code is run, whatever lies beside it.

    Args:
        name: Folder or Hub id of a model, or of a LoRA adapter, whose base is then loaded too.
        revision: Branch, tag or commit of the repository, by default its main branch.
        code_revision: Branch, tag or commit from which the code files are read, of the repository that holds them.
        verify: Whether to refuse a checkpoint with code that is not byte for byte the installed one, also where it
            would not be run here.
        trust_remote_code: Whether code may be run where no class is installed.
        token: Of the Hub; by default the one that is logged in.
        local_files_only: Whether to look into the cache only.
        max_file_bytes: Largest size of a file that is no weights.
        auto_class: What to load the model with.
        model_kwargs: Further arguments of its `from_pretrained`, such as `dtype` or `device_map`.

    Raises:
        ImportError: If it is an adapter, but there is no PEFT.
        OSError: If the repository cannot be reached, and the cache does not hold it.
        ValueError: If a file, the code or an argument is refused.
    """
    checkpoint = fetch_checkpoint(
        name,
        revision=revision,
        code_revision=code_revision,
        token=token,
        local_files_only=local_files_only,
        max_file_bytes=max_file_bytes,
    )
    return load_checkpoint(
        checkpoint, verify=verify, trust_remote_code=trust_remote_code, auto_class=auto_class, **model_kwargs
    )


def load_checkpoint(
    checkpoint: Checkpoint,
    *,
    verify: bool = False,
    trust_remote_code: bool = False,
    auto_class: Any = AutoModelForSeq2SeqLM,
    **model_kwargs: Any,
) -> LoadedModel:
    """Loads what was fetched and looked at; arguments and errors are those of `load`."""
    unchecked = sorted(UNCHECKED & model_kwargs.keys())
    if unchecked:
        raise ValueError(f"load checks the files that it reads and cannot take {', '.join(unchecked)}: leave it out")
    for part in checkpoint.with_base:
        if verify:
            refuse_unverified(part.name, part.code_files)
        _refuse_code_to_run(part, trust_remote_code)
    model = _load_model(checkpoint.base or checkpoint, auto_class, model_kwargs)
    if checkpoint.base is not None:
        model = _with_adapter(model, checkpoint)
    for part in checkpoint.with_base:
        logger.info(f"loaded {part.name} at {part.revision or part.folder}")
    return LoadedModel(model=model, processing_class=_processing_class(checkpoint, model), checkpoint=checkpoint)


def _is_installed(checkpoint: Checkpoint) -> bool:
    return checkpoint.config.get("model_type") in CONFIG_MAPPING


def _code_to_run(checkpoint: Checkpoint, *, of_model: bool) -> list[CodeReference]:
    """Returns what there is no installed class for, of the model or of its tokenizer and processor."""
    if of_model and _is_installed(checkpoint):
        return []
    return [
        reference
        for reference in checkpoint.code_references
        if reference.key != "custom_pipelines"
        and _is_of_model(reference) is of_model
        and not _is_installed_processor(reference)
    ]


def _is_of_model(reference: CodeReference) -> bool:
    return reference.named_by == CONFIG and reference.key.startswith(("AutoConfig", "AutoModel"))


def _is_installed_processor(reference: CodeReference) -> bool:
    # so the library looks for it too
    return reference.key == "AutoProcessor" and processor_class_from_name(reference.class_name) is not None


def _refuse_code_to_run(checkpoint: Checkpoint, trust_remote_code: bool) -> None:
    references = [reference for of_model in (True, False) for reference in _code_to_run(checkpoint, of_model=of_model)]
    if not references:
        return
    if not trust_remote_code:
        files = ", ".join(str(file) for file in checkpoint.code_files)
        pin = "" if checkpoint.revision is None else f" and revision={checkpoint.revision!r}, the commit of this code"
        raise ValueError(
            f"there is no installed class for {references[0].key} of {checkpoint.name}, and its code ({files}) is not "
            f"trusted: read it, and pass trust_remote_code=True{pin}"
        )
    foreign = next((reference.repository for reference in references if reference.repository is not None), None)
    if foreign is not None and checkpoint.code_revision is None:
        raise ValueError(
            f"the code of {checkpoint.name} lies in another repository, {foreign}, which can change at any time: read "
            "it, and pass the commit that you have read as code_revision"
        )


def _place(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns the arguments with which the library reads what was checked, and asks no Hub for more."""
    place: dict[str, Any] = {} if checkpoint.revision is None else {"revision": checkpoint.revision}
    if checkpoint.code_revision is not None:
        place["code_revision"] = checkpoint.code_revision
    return {**place, "local_files_only": True}


def _load_model(checkpoint: Checkpoint, auto_class: Any, model_kwargs: dict[str, Any]) -> Any:
    place = _place(checkpoint)
    if _is_installed(checkpoint):
        # as the Auto class does, which need not read it again
        of_the_weights = {name: model_kwargs[name] for name in OF_THE_WEIGHTS & model_kwargs.keys()}
        others = {name: value for name, value in model_kwargs.items() if name not in OF_THE_WEIGHTS}
        config, others = AutoConfig.from_pretrained(
            checkpoint.name, return_unused_kwargs=True, trust_remote_code=False, **place, **others
        )
        check_model_size(config, auto_class, checkpoint.shapes)
        model_kwargs = {"config": config, **of_the_weights, **others}
    return auto_class.from_pretrained(
        checkpoint.name,
        trust_remote_code=bool(_code_to_run(checkpoint, of_model=True)),
        use_safetensors=True,
        # by itself the library would ask the Hub whether there is an adapter
        adapter_kwargs={"local_files_only": True},
        **place,
        **model_kwargs,
    )


def _with_adapter(model: Any, adapter: Checkpoint) -> Any:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ImportError(f"{adapter.name} is an adapter, which takes PEFT: pip install peft") from error
    return PeftModel.from_pretrained(model, str(adapter.folder))


def _processing_class(checkpoint: Checkpoint, model: Any) -> Any:
    """Returns the processor or tokenizer of a checkpoint, or of its base if it has none."""
    for part in checkpoint.with_base:
        trusted = bool(_code_to_run(part, of_model=False))
        # by the name the library would miss the templates of a snapshot from which it misses any other file
        place = {"pretrained_model_name_or_path": str(part.folder)}
        if trusted:
            place = {"pretrained_model_name_or_path": part.name, **_place(part)}
        if any((part.folder / file).is_file() for file in PROCESSOR_FILES):
            return AutoProcessor.from_pretrained(trust_remote_code=trusted, **place)
        if any((part.folder / file).is_file() for file in TOKENIZER_FILES):
            return AutoTokenizer.from_pretrained(config=model.config, trust_remote_code=trusted, **place)
    return None
