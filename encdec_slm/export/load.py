"""A folder that was exported, as a model with `generate`, whatever the engine."""

from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any


# patterns of files that only this format has -> module and class with `from_pretrained(folder, **options)`
RUNTIMES = {
    # before the others, of which it has files too
    ("vision_encoder*.onnx", "embed_tokens*.onnx"): ("encdec_slm.export.onnx_vision_model", "ORTEncDecSLMVision"),
    ("encoder_model*.onnx", "decoder_*model*.onnx"): ("encdec_slm.export.onnx_model", "ORTEncDecSLM"),
    ("model.bin",): ("encdec_slm.export.ctranslate2_model", "CT2EncDecSLM"),
}


def _runtime(folder: Path) -> tuple[str, str] | None:
    for patterns, place in RUNTIMES.items():
        if any(True for pattern in patterns for _ in folder.glob(pattern)):
            return place
    return None


def is_exported(folder: str | PathLike[str]) -> bool:
    """Whether `load_exported` is what loads a folder: it holds an export, or a part of one."""
    return _runtime(Path(folder)) is not None


def load_exported(folder: str | PathLike[str], **options: Any) -> Any:
    """Returns a model whose `generate(input_ids=, attention_mask=, **generation_arguments)` runs in another engine.

    Args:
        folder: What `encdec-slm export` wrote; its files say which engine runs it.
        options: Of the engine's `from_pretrained`, such as `threads`.

    Raises:
        ValueError: If there is no such folder, or no export in it, or one that is not complete.
        ImportError: If the engine is not installed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"the folder {folder} does not exist")
    place = _runtime(folder)
    if place is None:
        formats = ", ".join(pattern for patterns in RUNTIMES for pattern in patterns)
        raise ValueError(f"{folder} holds no export (none of {formats}): write one with `encdec-slm export`")
    module, name = place
    return getattr(import_module(module), name).from_pretrained(folder, **options)
