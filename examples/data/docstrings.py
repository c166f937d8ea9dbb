r"""Python function to the first paragraph of its docstring, from installed packages, as in CodeXGLUE's summarisation.

One row: `{"source": "def sigmoid(x):\n    return 1 / (1 + exp(-x))", "target": "The logistic function of `x`.",
"name": "package/module.py:12:sigmoid", "package": "package", "license": "MIT"}`

    python examples/data/docstrings.py

The splits are by package, so that a validation or test function comes from a code base that training never saw.
"""

import ast
import glob
import hashlib
import re
import textwrap
import tokenize
import warnings
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import datasets
from datasets.utils import tqdm


TRAIN_PACKAGES = ("torch", "transformers", "numpy", "torchvision", "timm", "trl", "huggingface_hub")
VALIDATION_PACKAGES = ("accelerate",)
TEST_PACKAGES = ("datasets", "peft")

SOURCE_CHARACTERS = range(60, 2_501)
TARGET_WORDS = range(3, 41)

_FOLDERS_LEFT_OUT = {"test", "tests", "testing", "_vendor"}
_SECTION = (
    r"(?:(?:Args|Arguments|Parameters|Attributes|Returns?|Yields|Raises|Examples?|Notes?|Shape)\s*(?::|\n\s*--)"
    r"|:param|:return|>>>|@|\w+ \(`)"
)
_END_OF_PARAGRAPH = re.compile(rf"^{_SECTION}|\n\s*(?:\n|{_SECTION})")


class Docstrings(datasets.GeneratorBasedBuilder):
    """Source of a function or method without its docstring (`source`) to the docstring's first paragraph (`target`).

    `name` says where the function is, `package` and `license` what its package says of itself. Kept are functions of
    `SOURCE_CHARACTERS` characters with a first paragraph of `TARGET_WORDS` words in ASCII, outside of test folders.
    Copies, that is functions equal up to blanks, are one row; the row of the test split is kept before that of the
    validation split and that before the one of the train split, so no function is in two splits.

    Args:
        train: Names of the installed distributions to train on.
        validation: Those of the validation split.
        test: Those of the test split.

    Raises:
        ImportError: A package is not installed.
        ValueError: A package is in two splits or does not list its files.
    """

    VERSION = datasets.Version("1.0.0")

    def __init__(
        self,
        train: Sequence[str] = TRAIN_PACKAGES,
        validation: Sequence[str] = VALIDATION_PACKAGES,
        test: Sequence[str] = TEST_PACKAGES,
        **kwargs: Any,
    ) -> None:
        names = [*train, *validation, *test]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} would be in the splits more than once; name each package once")
        # a record holds the digests of all files of a package: as part of the name of the cache it stands for them
        records = {
            split: [glob.escape(str(record_path(name))) for name in packages]
            for split, packages in (("train", train), ("validation", validation), ("test", test))
        }
        super().__init__(dataset_name="docstrings", data_files=records, **kwargs)

    def _info(self) -> datasets.DatasetInfo:
        columns = ("source", "target", "name", "package", "license")
        return datasets.DatasetInfo(
            description="Functions and methods of installed Python packages and what their docstrings say first.",
            license="each row is under the licence of its package, see the column `license`; do not redistribute",
            features=datasets.Features({name: datasets.Value("string") for name in columns}),
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        splits: dict[str, tuple[dict[str, str], ...]] = dict.fromkeys(self.config.data_files, ())
        seen: set[bytes] = set()
        for split in ("test", "validation", "train"):
            packages = [Distribution.at(Path(record).parent) for record in self.config.data_files[split]]
            rows = (row for package in packages for row in package_rows(package))
            splits[split] = tuple(unseen(rows, seen))
        return [datasets.SplitGenerator(name=split, gen_kwargs={"rows": rows}) for split, rows in splits.items()]

    def _generate_examples(self, rows: tuple[dict[str, str], ...]) -> Iterator[tuple[int, dict[str, str]]]:
        yield from enumerate(rows)


def record_path(name: str) -> Path:
    """The file in which an installed distribution lists its files.

    Raises:
        ImportError: It is not installed.
        ValueError: It has no such list, as after `setup.py install`.
    """
    try:
        files = distribution(name).files or []
    except PackageNotFoundError as error:
        raise ImportError(f"{name} is not installed; pip install {name}, or name other packages") from error
    records = [file for file in files if file.name == "RECORD"]
    if not records:
        raise ValueError(f"{name} does not list its files in a RECORD; reinstall it with pip, or name another package")
    return Path(str(records[0].locate()))


def package_rows(package: Distribution) -> Iterator[dict[str, str]]:
    """Rows of a distribution, in the order of its file names and of the lines in a file."""
    license_name = license_of(package)
    modules = (file for file in package.files or [] if file.suffix == ".py" and not _FOLDERS_LEFT_OUT & {*file.parts})
    for module in tqdm(sorted(modules), desc=f"Reading {package.name}", unit="file"):
        for name, source, target in functions(Path(str(module.locate()))):
            yield {
                "source": source,
                "target": target,
                "name": f"{module.as_posix()}:{name}",
                "package": package.name,
                "license": license_name,
            }


def license_of(package: Distribution) -> str:
    """The licence in the metadata of a distribution: an SPDX expression, else classifiers, else free text."""
    expressions, classifiers, texts = (
        package.metadata.get_all(name) or [] for name in ("License-Expression", "Classifier", "License")
    )
    named = [entry.rpartition(" :: ")[2] for entry in classifiers if entry.startswith("License :: ")]
    candidates = [*expressions, ", ".join(named), *(text.partition("\n")[0] for text in texts)]
    return next(filter(None, candidates), "unknown")


def functions(path: Path) -> Iterator[tuple[str, str, str]]:
    """Line and name, source without docstring, first paragraph of the docstring, for the functions worth keeping."""
    try:
        with tokenize.open(path) as file, warnings.catch_warnings(action="ignore"):
            text = file.read()
            tree = ast.parse(text)
    except (SyntaxError, UnicodeDecodeError):
        # templates, and files that are meant to be wrong
        return
    lines = text.split("\n")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            target = first_paragraph(ast.get_docstring(node) or "")
            source = source_without_docstring(lines, node) if len(target.split()) in TARGET_WORDS else ""
            if len(source) in SOURCE_CHARACTERS and target.isascii():
                yield f"{node.lineno}:{node.name}", source, target


def first_paragraph(docstring: str) -> str:
    """The text of a docstring up to an empty line, a section such as `Args:` or an example, on one line."""
    return " ".join(_END_OF_PARAGRAPH.split(docstring, maxsplit=1)[0].split())


def source_without_docstring(lines: list[str], node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """The lines of a function with its decorators and comments, not indented; empty if that cannot be had.

    That is so if nothing but the docstring is there, if the docstring shares a line with code, or if a string goes
    further to the left than the function.
    """
    docstring, *body = node.body
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    before_docstring = lines[docstring.lineno - 1].encode()[: docstring.col_offset]
    if not body or body[0].lineno == docstring.end_lineno or before_docstring.strip():
        return ""
    kept = lines[first : docstring.lineno - 1] + lines[docstring.end_lineno : node.end_lineno]
    source = textwrap.dedent("\n".join(kept))
    return "" if source.startswith((" ", "\t")) else source


def unseen(rows: Iterable[dict[str, str]], seen: set[bytes]) -> Iterator[dict[str, str]]:
    """Rows whose source is not in `seen`, blanks aside; it is added there."""
    for row in rows:
        digest = hashlib.sha256("".join(row["source"].split()).encode()).digest()
        if digest not in seen:
            seen.add(digest)
            yield row


if __name__ == "__main__":
    from preview import preview

    preview(Docstrings())
