"""Where the rows of a distillation come from: a named dataset or files, and what of it is held out."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encdec_slm.data_files import ROW_BUILDERS, dataset_source, first_rows, hold_out, load_splits
from encdec_slm.distillation.images import IMAGES


if TYPE_CHECKING:
    from datasets import Dataset


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
    image_column: str = field(
        default=IMAGES,
        metadata={"help": "Column of a row's images, if it has any: an image, a list of them, or their paths."},
    )
    image_folder: str | None = field(
        default=None, metadata={"help": "What paths of images start from; by default the folder of the first file."}
    )
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
        ValueError: If there is no `train` split, a file is missing or cannot be read, a column is not there, an image
            is not where its path says, or no rows are left on either side.
    """
    source = dataset_source(
        name=arguments.dataset_name,
        config_name=arguments.dataset_config_name,
        train_files=arguments.train_file,
        validation_files=arguments.validation_file,
        builders=ROW_BUILDERS,
    )
    splits = load_splits(source)
    if "train" not in splits:
        raise ValueError(f"{arguments.dataset_name} has no split named train, only {', '.join(splits)}")
    names = {arguments.source_column: "source", arguments.target_column: "target", arguments.image_column: IMAGES}
    for column, name in names.items():
        if column != name:
            splits = splits.rename_column(column, name)
    if "validation" in splits:
        train, validation = splits["train"], splits["validation"]
    else:
        train, validation = hold_out(splits["train"], arguments.validation_split_percentage)
    folder = Path(arguments.image_folder or Path((arguments.train_file or [""])[0]).parent)
    train, validation = (
        _with_image_paths(first_rows(rows, number), folder)
        for rows, number in ((train, arguments.max_train_samples), (validation, arguments.max_eval_samples))
    )
    return train, validation


def _with_image_paths(rows: "Dataset", folder: Path) -> "Dataset":
    """Returns rows whose images, where they are paths, start from a folder; other rows as they are.

    Raises:
        ValueError: If there is no such file.
    """
    if IMAGES not in rows.column_names or not _are_paths(rows.features[IMAGES]):
        return rows

    def found(value: Any) -> Any:
        return [_found(path, folder) for path in value] if isinstance(value, list) else _found(value, folder)

    return rows.map(
        lambda batch: {IMAGES: [found(value) for value in batch[IMAGES]]}, batched=True, desc="Finding images"
    )


def _are_paths(feature: Any) -> bool:
    inner = feature.feature if hasattr(feature, "feature") else feature
    return hasattr(inner, "dtype") and inner.dtype in ("string", "large_string")


def _found(path: str | None, folder: Path) -> str | None:
    if path is None or path.startswith(("http://", "https://", "data:")):
        return path
    if not (folder / path).is_file():
        raise ValueError(
            f"the image {path} of a row is not in {folder}: say with image_folder what paths of images start from"
        )
    return str(folder / path)


def _listed(files: list[str] | str | None) -> list[str] | None:
    return [files] if isinstance(files, str) else files
