"""Data by a name or in files, as a command is told of it, and what of it is held out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    Rows = TypeVar("Rows", Dataset, IterableDataset)


# of files with rows, as `datasets` names them
ROW_BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


def dataset_source(
    *,
    name: str | None,
    config_name: str | None,
    train_files: Sequence[str] | None,
    validation_files: Sequence[str] | None,
    builders: Mapping[str, str],
) -> dict[str, Any]:
    """Returns the arguments of `datasets.load_dataset` for files, or for a name where there are none.

    Args:
        name: Of a dataset.
        config_name: Of its configuration.
        train_files: Paths, all of one kind.
        validation_files: Paths of the same kind; the result has no `validation` split if not given.
        builders: Suffixes of files that can be read, and what `datasets` calls their kind.

    Raises:
        ValueError: If a file is missing, empty, of a kind that cannot be read, or of another kind than the others.
    """
    if train_files is None:
        return {"path": name, "name": config_name}
    files = {"train": list(train_files), "validation": list(validation_files or [])}
    paths = [Path(file) for group in files.values() for file in group]
    for path in paths:
        if path.suffix not in builders:
            raise ValueError(f"{path} is of no kind that can be read: use {', '.join(builders)}")
        if not path.is_file():
            raise ValueError(f"the file {path} does not exist")
        if not path.stat().st_size:
            raise ValueError(f"the file {path} is empty: give one with rows")
    kinds = {builders[path.suffix] for path in paths}
    if len(kinds) > 1:
        raise ValueError(f"the files are of several kinds ({', '.join(sorted(kinds))}): give those of one kind")
    return {"path": kinds.pop(), "data_files": {split: group for split, group in files.items() if group}}


def load_splits(source: Mapping[str, Any], **options: Any) -> Any:
    """Returns what `datasets.load_dataset` makes of a source.

    Args:
        source: See `dataset_source`.
        options: Of `datasets.load_dataset`.

    Raises:
        ValueError: If what is there cannot be read as what it is said to be.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetBuildError

    try:
        return load_dataset(**source, **options)
    except DatasetBuildError as error:
        # it says that there was an error, and its cause which
        raise ValueError(_unreadable(source, error.__cause__ or error)) from error
    except ValueError as error:
        raise ValueError(_unreadable(source, error)) from error


def _unreadable(source: Mapping[str, Any], reason: BaseException) -> str:
    kind, groups = source["path"], source.get("data_files", {}).values()
    files = ", ".join(str(file) for group in groups for file in group)
    return f"{files} cannot be read as {kind}: {reason}" if files else f"{kind}: {reason}"


def hold_out(rows: "Dataset", percentage: int, *, what: str = "rows") -> "tuple[Dataset, Dataset]":
    """Returns all but the first rows, and the first ones: so many percent, at least one.

    Args:
        rows: Of which some are held out.
        percentage: How many of a hundred.
        what: What a message calls them.

    Raises:
        ValueError: If no row would be left to learn from.
    """
    held_out = max(len(rows) * percentage // 100, 1)
    if held_out >= len(rows):
        raise ValueError(f"of {len(rows)} {what} none can be held out to evaluate: give more, or a validation_file")
    return rows.select(range(held_out, len(rows))), rows.select(range(held_out))


def first_rows(rows: "Rows", number: int | None) -> "Rows":
    """Returns the first rows; all of them for None."""
    return rows if number is None else rows.take(number)
