"""Which code a checkpoint would run for those who trust it, and whether it is the code that is installed here."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from transformers.dynamic_module_utils import get_relative_imports

import encdec_slm.models
from encdec_slm.hub.checkpoint_files import read_json_object


# what the Auto classes and `pipeline` read
CONFIG_FILES = ("config.json", "tokenizer_config.json", "*processor_config.json")
# `from_pretrained` runs it without being told of it
CUSTOM_GENERATE = "custom_generate/generate.py"
# Transformers looks for a class in one flat folder, its own or that of another repository
CLASS_REFERENCE = re.compile(
    r"(?!.*--.*--)(?:(?P<repository>[\w.-]+(?:/[\w.-]+)?)--)?(?P<module>[A-Za-z_]\w*)\.(?P<class_name>[A-Za-z_]\w*)"
)
INSTALLED = Path(encdec_slm.models.__file__).parent


class CodeStatus(StrEnum):
    """What is known about a code file.

    `SAME` has every byte of the installed file of its name, `DIFFERENT` has not; of `UNKNOWN` there is no installed
    file; `FOREIGN` lies in another repository than the checkpoint; `MISSING` is not there, as in a cache that was
    filled where no code was run.
    """

    SAME = "same"
    DIFFERENT = "different"
    UNKNOWN = "unknown"
    FOREIGN = "foreign"
    MISSING = "missing"


@dataclass(frozen=True)
class CodeReference:
    """A class that a configuration file names.

    Attributes:
        named_by: The configuration file.
        key: What it is loaded for: an Auto class, or `custom_pipelines`.
        module: Its file, without the suffix.
        class_name: Its name in that file.
        repository: Where the file lies, if not beside the configuration file.
    """

    named_by: str
    key: str
    module: str
    class_name: str
    repository: str | None = None


@dataclass(frozen=True)
class CodeFile:
    """A file that would run.

    Attributes:
        name: Path in its repository.
        sha256: Of its bytes; `None` for a file that is missing, or of another repository and not fetched.
        status: See `CodeStatus`.
        repository: The other repository, if it lies in one.
    """

    name: str
    sha256: str | None
    status: CodeStatus
    repository: str | None = None

    def __str__(self) -> str:
        """Returns the name, after the repository if that is another one."""
        return self.name if self.repository is None else f"{self.repository}/{self.name}"


def code_references(folder: Path) -> tuple[CodeReference, ...]:
    """Returns every class that the configuration files of a checkpoint name, for models, tokenizers and pipelines.

    Raises:
        ValueError: If a file is no JSON object, or what it names is not `module.Class` of this or another repository.
    """
    references: dict[CodeReference, None] = {}
    for path in sorted(path for pattern in CONFIG_FILES for path in folder.glob(pattern)):
        for key, name in _named_classes(read_json_object(path)):
            match = CLASS_REFERENCE.fullmatch(name)
            if match is None:
                raise ValueError(
                    f"{path} names the class {name!r} for {key}, which is not of the form module.Class or "
                    "owner/repository--module.Class: nothing else can be loaded safely"
                )
            references[CodeReference(path.name, key, match["module"], match["class_name"], match["repository"])] = None
    return tuple(references)


def code_files(
    references: Iterable[CodeReference], folder: Path, *, code_folders: Mapping[str | None, Path] | None = None
) -> tuple[CodeFile, ...]:
    """Returns the files that would run: those of the references, all that they import relatively, and `generate`.

    Args:
        references: As from `code_references`.
        folder: The checkpoint's.
        code_folders: Where the code of a repository lies, by its name; `None` is the checkpoint's own, in `folder` by
            default. A file of any other repository that is not named is listed unread.

    Raises:
        ValueError: If a file imports relatively what cannot be the name of one beside it.
    """
    places: dict[str | None, Path] = {None: folder, **(code_folders or {})}
    found: dict[tuple[str | None, str], CodeFile] = {}
    # several classes lie in one file
    for repository, module in dict.fromkeys((reference.repository, reference.module) for reference in references):
        place = places.get(repository)
        if place is None:
            name = f"{module}.py"
            found[repository, name] = CodeFile(name, None, CodeStatus.FOREIGN, repository)
        else:
            for name, sha256 in _with_imports(place, module).items():
                found[repository, name] = _code_file(name, sha256, repository)
    if (folder / CUSTOM_GENERATE).is_file():
        for name, sha256 in _with_imports(folder, CUSTOM_GENERATE.removesuffix(".py")).items():
            found[None, name] = _code_file(name, sha256, None)
    return tuple(sorted(found.values(), key=lambda file: (file.repository or "", file.name)))


def refuse_unverified(name: str, files: Iterable[CodeFile]) -> None:
    """Refuses a checkpoint that would run other code than the installed.

    Args:
        name: Of the checkpoint.
        files: All that it would run.

    Raises:
        ValueError: If one of them is not byte for byte an installed one.
    """
    refused = [file for file in files if file.status is not CodeStatus.SAME]
    if refused:
        listed = ", ".join(f"{file} ({file.status})" for file in refused)
        raise ValueError(
            f"{name} would run code that is not that of the installed package: {listed}. Install the version of "
            "encdec-slm that wrote the checkpoint, or read these files and load it without verify"
        )


def code_table(files: Iterable[CodeFile]) -> str:
    """Returns a table of code files, their SHA-256 and their status, a file a line."""
    rows = [("code file", "sha256", "status"), *((str(file), file.sha256 or "-", str(file.status)) for file in files)]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)


def _named_classes(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields what a configuration names, also deep inside, as that of an image processor in a processor's."""
    pending: list[Any] = [config]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending.extend(value)
        elif isinstance(value, dict):
            pending.extend(value.values())
            yield from _of_auto_map(value.get("auto_map"))
            yield from _of_pipelines(value.get("custom_pipelines"))


def _of_auto_map(auto_map: Any) -> Iterator[tuple[str, str]]:
    # a list is how tokenizers were written once: the slow and the fast class
    entries = auto_map if isinstance(auto_map, dict) else {"AutoTokenizer": auto_map}
    for key, names in entries.items():
        # one class, the slow and the fast one, or one by backend
        several = names.values() if isinstance(names, dict) else names if isinstance(names, list) else [names]
        yield from ((key, str(name)) for name in several if name is not None)


def _of_pipelines(pipelines: Any) -> Iterator[tuple[str, str]]:
    for pipeline in pipelines.values() if isinstance(pipelines, dict) else ():
        yield "custom_pipelines", str(pipeline.get("impl") if isinstance(pipeline, dict) else pipeline)


def _with_imports(folder: Path, module: str) -> dict[str, str | None]:
    """Returns a module's file and those that it needs, by the rules with which Transformers copies them.

    With each comes its SHA-256, `None` if there is no such file.
    """
    place = Path(module).parent
    found: dict[str, str | None] = {}
    pending = [Path(module).name]
    while pending:
        name = pending.pop()
        # the library reads the text, so that a comment can name a path too
        if not name.isidentifier():
            raise ValueError(f"{folder / module}.py imports {name!r} from its folder, which is no name of a module")
        path = folder / place / f"{name}.py"
        if (file := path.relative_to(folder).as_posix()) not in found:
            found[file] = sha256 = _sha256(path)
            pending += [] if sha256 is None else _relative_imports(path, sha256)
    return found


@cache
def _relative_imports(path: Path, sha256: str) -> list[str]:
    """Returns the modules that a file imports from beside it; the hash makes a changed file another argument."""
    return get_relative_imports(path)


def _code_file(name: str, sha256: str | None, repository: str | None) -> CodeFile:
    if sha256 is None:
        status = CodeStatus.MISSING
    elif repository is not None:
        status = CodeStatus.FOREIGN
    elif (installed := _sha256(INSTALLED / name)) is None:
        status = CodeStatus.UNKNOWN
    else:
        status = CodeStatus.SAME if sha256 == installed else CodeStatus.DIFFERENT
    return CodeFile(name, sha256, status, repository)


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
