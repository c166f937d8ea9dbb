"""Writing a model folder whole or not at all."""

import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path

from transformers.utils import logging


logger = logging.get_logger(__name__)

# what `save_pretrained` of a model or a tokenizer and the exporters write; all else belongs to somebody else
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model*.safetensors.index.json",
    "configuration_*.py",
    "image_*_encdec_slm.py",
    "modeling_*.py",
    "pipeline_*.py",
    "processing_*.py",
    "*processor_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template.*",
    "*.onnx",
    "*.onnx_data",
    "model.bin",
    "shared_vocabulary.*",
    "export.json",
)


@contextmanager
def output_folder(
    path: str | PathLike[str], *, overwrite: bool = False, inputs: Iterable[str | PathLike[str]] = ()
) -> Iterator[Path]:
    """Gives a temporary folder to write a model to, and moves it to `path` when the block ends without an error.

    An error leaves `path` as it was, and nothing beside it. With `overwrite` the model files in `path`
    (`MODEL_FILES`: configuration, weights, tokenizer, shipped code) are replaced, those that the new model does not
    have included; all other files stay. The old folder is not touched before the new one is complete.

    Args:
        path: The folder to be. Missing parents are made.
        overwrite: Whether `path` may already hold something.
        inputs: Files and folders that the block reads; they must not be among the files it would replace.

    Yields:
        An empty folder on the same file system.

    Raises:
        ValueError: If `path` is a file, if it holds something and `overwrite` was not given, or if an input lies in
            it. Also at the end, if another process has put something there meanwhile.
    """
    path = Path(path).resolve()
    inputs = list(inputs)
    _refuse(path, overwrite, inputs)
    missing_parents = [parent for parent in path.parents if not parent.exists()]
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        _refuse(path, overwrite, inputs)
        _move_into_place(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in missing_parents:
            with suppress(OSError):
                parent.rmdir()
        raise


def _refuse(path: Path, overwrite: bool, inputs: Iterable[str | PathLike[str]]) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise ValueError(f"the output {path} is a file: name a folder")
    entries = sorted(entry.name for entry in path.iterdir())
    if entries and not overwrite:
        shown = ", ".join(entries[:5]) + (", ..." if len(entries) > 5 else "")
        raise ValueError(
            f"the output folder {path} already holds something ({shown}): name another folder, or overwrite it "
            "(the model files in it are replaced, other files stay)"
        )
    for source in inputs:
        if Path(source).resolve().is_relative_to(path):
            raise ValueError(
                f"{source} lies in the output folder {path}, which would be overwritten: move one of them"
            )


def _move_into_place(partial: Path, path: Path) -> None:
    if not path.exists():
        partial.rename(path)
        return
    replaced = path.with_name(f".{path.name}.{uuid.uuid4().hex}.replaced")
    path.rename(replaced)
    try:
        partial.rename(path)
    except OSError:
        replaced.rename(path)
        raise
    for entry in [*replaced.iterdir()]:
        if not (path / entry.name).exists() and not any(entry.match(pattern) for pattern in MODEL_FILES):
            entry.rename(path / entry.name)
    removed = sorted(entry.name for entry in replaced.iterdir())
    shutil.rmtree(replaced)
    if removed:
        logger.warning(f"replaced in {path}: {', '.join(removed)}")
