"""Where the rows of a distillation come from: a named dataset or files, and what of it is held out."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from datasets import Dataset

BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass
class RowArguments:
    """A dataset by name or files, in the words of the library's example scripts."""

    dataset_name: str | None = field(default=None, metadata={"help": "A dataset of the `datasets` library."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    train_file: list[str] | None = field(
        default=None, metadata={"help": "Files instead: .json, .jsonl, .csv or .parquet."}
    )
    validation_file: list[str] | None = field(default=None, metadata={"help": "Files that are held out."})
    source_column: str = field(default="source", metadata={"help": "Column of what the student reads."})
    target_column: str = field(default="target", metadata={"help": "Column of what it is to write."})
    validation_split_percentage: int = field(
        default=5, metadata={"help": "Part of the rows, the first, that is held out if none are given."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on the first so many rows."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on the first so many rows."})

    def __post_init__(self) -> None:
        # a configuration file may have one name, where the command line makes a list
        self.train_file = _listed(self.train_file)
        self.validation_file = _listed(self.validation_file)
        if (self.dataset_name is None) == (self.train_file is None):
            raise ValueError("name the rows: either a dataset_name or files as train_file, one of the two")
        if self.validation_file is not None and self.train_file is None:
            raise ValueError("validation_file goes with train_file; a dataset_name has a validation split of its own")
        if not 0 < self.validation_split_percentage < 100:
            raise ValueError(
                f"validation_split_percentage is {self.validation_split_percentage}, but both sides need rows"
            )
        for name in ("max_train_samples", "max_eval_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, but at least 1 row is needed: leave it out for all")


def load_rows(arguments: RowArguments) -> "tuple[Dataset, Dataset]":
    """Returns rows to learn from and rows that are held out.

    These are the `validation` split or the validation files, or else the first rows. They are the same for every
    seed.

    Raises:
        ValueError: If there is no `train` split, a file is missing or of a kind that cannot be read, a column is not
            there, or no rows are left on either side.
    """
    from datasets import load_dataset

    splits = load_dataset(**_source(arguments))
    if "train" not in splits:
        raise ValueError(f"{arguments.dataset_name} has no split named train, only {', '.join(splits)}")
    for column, name in ((arguments.source_column, "source"), (arguments.target_column, "target")):
        if column != name:
            splits = splits.rename_column(column, name)
    if "validation" in splits:
        train, validation = splits["train"], splits["validation"]
    else:
        train, validation = _hold_out(splits["train"], arguments.validation_split_percentage)
    return _first(train, arguments.max_train_samples), _first(validation, arguments.max_eval_samples)


def _listed(files: list[str] | str | None) -> list[str] | None:
    return [files] if isinstance(files, str) else files


def _source(arguments: RowArguments) -> dict[str, Any]:
    if arguments.train_file is None:
        return {"path": arguments.dataset_name, "name": arguments.dataset_config_name}
    files = {"train": arguments.train_file, "validation": arguments.validation_file or []}
    paths = [Path(file) for group in files.values() for file in group]
    for path in paths:
        if path.suffix not in BUILDERS:
            raise ValueError(f"{path} is of no kind that can be read: use {', '.join(BUILDERS)}")
        if not path.is_file():
            raise ValueError(f"the file {path} does not exist")
    builders = {BUILDERS[path.suffix] for path in paths}
    if len(builders) > 1:
        raise ValueError(f"the files are of several kinds ({', '.join(sorted(builders))}): give those of one kind")
    return {"path": builders.pop(), "data_files": {split: group for split, group in files.items() if group}}


def _hold_out(rows: "Dataset", percentage: int) -> "tuple[Dataset, Dataset]":
    held_out = max(len(rows) * percentage // 100, 1)
    if held_out >= len(rows):
        raise ValueError(f"of {len(rows)} rows none can be held out to evaluate: give more, or a validation_file")
    return rows.select(range(held_out, len(rows))), rows.select(range(held_out))


def _first(rows: "Dataset", number: int | None) -> "Dataset":
    return rows if number is None else rows.take(number)
