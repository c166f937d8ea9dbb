"""What of a model folder is published, and the temporary folder that holds just that.

A list of what may go, not of what may not: optimizer states, pickles, logs and checkpoints of a training stay behind,
and the plan of the push names them.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PreTrainedTokenizerBase, ProcessorMixin

from encdec_slm.hub.checkpoint import ADAPTER_CONFIG, CONFIG
from encdec_slm.hub.checkpoint_files import (
    ADAPTER_WEIGHTS,
    INDEX,
    MODEL_WEIGHTS,
    PICKLES,
    first_weight_file,
    read_json_object,
    tensor_shapes,
    weight_files,
)
from encdec_slm.hub.secrets import Finding, secret_names, secret_texts
from encdec_slm.hub.shipped_code import USUAL_AUTO_CLASS, add_code, complete_config, make_code_local


# beside the weights and the code; `*` matches in one folder only
ACCOMPANYING = (
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",  # of sentencepiece
    "*.spm",
    "*processor_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    ADAPTER_CONFIG,
    "README.md",
    "LICENSE*",
    "NOTICE*",
)
# of an image in the card, in Markdown
IMAGE_LINK = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")
# a text has no zero byte, and the binary formats of models have one soon
TEXT_SAMPLE_BYTES = 8192


@dataclass(frozen=True)
class Contents:
    """What is published of a model folder.

    Attributes:
        folder: Temporary folder that holds it whole and nothing else; links, where a file goes as it is.
        source: The model folder.
        auto_class: Name of the Auto class of the model, or of the adapter's base.
        base_model: Repository of the base model, if it is an adapter.
        base_revision: The revision of it that the adapter names.
        left_out: Files of the source that stay behind; a folder of which nothing goes is named once, with a slash.
    """

    folder: Path
    source: Path
    auto_class: str
    base_model: str | None
    base_revision: str | None
    left_out: tuple[str, ...]

    def files(self) -> list[str]:
        """Returns what is in the folder, as paths in the repository."""
        return _files_in(self.folder)[0]

    def written(self) -> list[str]:
        """Returns which of them the source does not have so: code of the installed package, what names it, a card."""
        return [path for path in self.files() if not _is_same(self.source / path, self.folder / path)]


@contextmanager
def staged(
    model: Any,
    *,
    processing_class: PreTrainedTokenizerBase | ProcessorMixin | None = None,
    include: Iterable[str] = (),
) -> Iterator[Contents]:
    """Gives what is published of a model, in a temporary folder that others could load.

    Weights are linked, not copied. For a model of this package the code is that of the installed version and
    `config.json` names all of it for the Auto classes and `pipeline`, whatever saved the folder; references to code in
    another repository are made local.

    Args:
        model: A model folder, or a model or adapter object, which is saved first.
        processing_class: Tokenizer or processor that is saved with a model object; a folder has its own.
        include: Patterns of further files, such as `onnx/*`; `*` also matches slashes.

    Yields:
        The contents. The folder is gone when the block ends.

    Raises:
        ValueError: If the folder is not complete, its weights are no safetensors, it needs code that is not of this
            package, a pattern matches nothing or a pickle, or there is a secret in it.
    """
    with TemporaryDirectory(prefix="encdec-slm-push-") as name:
        room = Path(name)
        source = _source(model, processing_class, room / "saved")
        yield _stage(source, room / "folder", tuple(include))


def _source(model: Any, processing_class: Any, room: Path) -> Path:
    if isinstance(model, str | os.PathLike):
        folder = Path(model).resolve()
        if not folder.is_dir():
            raise ValueError(f"there is no model folder {model}: name a folder that save_pretrained has written")
        if processing_class is not None:
            raise ValueError(f"a processing_class was given beside the folder {model}: save it there instead")
        return folder
    model.save_pretrained(room)
    if processing_class is not None:
        processing_class.save_pretrained(room)
    return room


def _stage(source: Path, folder: Path, include: tuple[str, ...]) -> Contents:
    files, linked_folders = _files_in(source)
    _refuse_secrets(source, secret_names(files))
    is_adapter = ADAPTER_CONFIG in files
    weights = _weight_files(source, files, is_adapter)
    chosen = weights | {path for path in files if _matches(path, ACCOMPANYING)} | _included(files, include)
    chosen |= _images_of_card(source, files)
    for path in sorted(chosen):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).symlink_to((source / path).resolve())
    base_model, base_revision = _base_of(folder) if is_adapter else (None, None)
    make_code_local(folder)
    auto_class = USUAL_AUTO_CLASS if is_adapter else complete_config(folder)
    add_code(folder)
    contents = Contents(
        folder=folder,
        source=source,
        auto_class=auto_class,
        base_model=base_model,
        base_revision=base_revision,
        left_out=_left_out(files, linked_folders, kept=set(_files_in(folder)[0])),
    )
    _refuse_secrets(source, [finding for path in contents.files() for finding in _secrets_in(folder, path)])
    return contents


def _files_in(folder: Path) -> tuple[list[str], list[str]]:
    """Returns all files as sorted relative paths, and the folders that were not entered."""
    files, not_entered = [], []
    for parent, folders, names in os.walk(folder):
        place = Path(parent).relative_to(folder)
        files += [(place / name).as_posix() for name in names]
        skipped = [name for name in folders if name == ".git" or (Path(parent) / name).is_symlink()]
        not_entered += [f"{(place / name).as_posix()}/" for name in skipped]
        folders[:] = [name for name in folders if name not in skipped]
    return sorted(files), not_entered


def _matches(path: str, patterns: Iterable[str]) -> bool:
    parts = PurePosixPath(path).parts
    return any(
        len(parts) == pattern.count("/") + 1 and all(map(fnmatchcase, parts, pattern.split("/")))
        for pattern in patterns
    )


def _images_of_card(source: Path, files: list[str]) -> set[str]:
    card = source / "README.md"
    return set(IMAGE_LINK.findall(card.read_text(encoding="utf-8"))) & set(files) if card.is_file() else set()


def _included(files: list[str], patterns: tuple[str, ...]) -> set[str]:
    included = set()
    for pattern in patterns:
        matches = {path for path in files if fnmatchcase(path, pattern)}
        if not matches:
            raise ValueError(f"no file of the model folder matches {pattern!r}: name what is there")
        included |= matches
    pickles = sorted(path for path in included if _matches(PurePosixPath(path).name, PICKLES))
    if pickles:
        raise ValueError(f"{', '.join(pickles)} would run code where it is read: pickles are never sent")
    return included


def _weight_files(source: Path, files: list[str], is_adapter: bool) -> set[str]:
    """Returns the files that `from_pretrained` reads the weights from, all of them there and whole."""
    if is_adapter and {MODEL_WEIGHTS, INDEX} & set(files):
        raise ValueError(f"{source} holds both a model and an adapter ({ADAPTER_CONFIG}): push them from two folders")
    if is_adapter:
        first = ADAPTER_WEIGHTS
    else:
        first = first_weight_file(source, read_json_object(source / CONFIG) if CONFIG in files else {})
    weights = weight_files(source, first, files)
    # reads the headers, and that the files are as long as they say
    tensor_shapes(weights)
    return {first, *(path.relative_to(source).as_posix() for path in weights)}


def _base_of(folder: Path) -> tuple[str, str | None]:
    adapter = read_json_object(folder / ADAPTER_CONFIG)
    base = adapter.get("base_model_name_or_path")
    if not base or Path(base).expanduser().is_dir() or base.startswith(("/", ".", "~")):
        raise ValueError(
            f"{ADAPTER_CONFIG} names {base or 'nothing'} as base model, where others find none: push the base first "
            "and put its repository into base_model_name_or_path"
        )
    return base, adapter.get("revision")


def _is_same(source: Path, path: Path) -> bool:
    return path.is_symlink() or (source.is_file() and source.read_bytes() == path.read_bytes())


def _left_out(files: list[str], linked_folders: list[str], *, kept: set[str]) -> tuple[str, ...]:
    entered = {path.partition("/")[0] for path in kept if "/" in path}
    names = set(linked_folders)
    for path in set(files) - kept:
        top, slash, _ = path.partition("/")
        names.add(f"{top}/" if slash and top not in entered else path)
    return tuple(sorted(names))


def _secrets_in(folder: Path, path: str) -> list[Finding]:
    with (folder / path).open("rb") as file:
        sample = file.read(TEXT_SAMPLE_BYTES)
        return [] if b"\0" in sample else secret_texts(path, (sample + file.read()).decode(errors="replace"))


def _refuse_secrets(source: Path, findings: list[Finding]) -> None:
    if findings:
        raise ValueError(
            f"there are secrets in {source}: {', '.join(map(str, findings))}. Take them out of the folder; what has "
            "been published before must be revoked"
        )
