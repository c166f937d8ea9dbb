"""Where the texts of an adaptation come from: a named dataset or files, and what of it is held out."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from encdec_slm.adaptation.arguments import AdaptationArguments


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

BUILDERS = {".txt": "text", ".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


def load_texts(arguments: AdaptationArguments) -> "tuple[Dataset | IterableDataset, Dataset | IterableDataset]":
    """Returns documents to learn from and documents that are held out.

    These are the `validation` split or the validation files, or else the first documents: by percentage, or by
    number where a stream has no length. They are the same for every seed.

    Raises:
        ValueError: If there is no `train` split, a file is missing or of a kind that cannot be read, or too few
            documents are left on either side.
    """
    from datasets import load_dataset

    splits = load_dataset(**_source(arguments), cache_dir=arguments.cache_dir, streaming=arguments.streaming)
    if "train" not in splits:
        raise ValueError(f"{arguments.dataset_name} has no split named train, only {', '.join(splits)}")
    train = splits["train"]
    if "validation" in splits:
        validation = splits["validation"]
    elif arguments.streaming:
        train, validation = _hold_out_of_stream(train, arguments.max_eval_samples)
    else:
        train, validation = _hold_out(train, arguments.validation_split_percentage)
    return _first(train, arguments.max_train_samples), _first(validation, arguments.max_eval_samples)


def _source(arguments: AdaptationArguments) -> dict[str, Any]:
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
    builder = builders.pop()
    options = {"sample_by": arguments.sample_by} if builder == "text" else {}
    return {"path": builder, "data_files": {split: group for split, group in files.items() if group}, **options}


def _hold_out(documents: "Dataset", percentage: int) -> "tuple[Dataset, Dataset]":
    held_out = max(len(documents) * percentage // 100, 1)
    if held_out >= len(documents):
        raise ValueError(
            f"of {len(documents)} documents none can be held out to evaluate: give more, or a validation_file"
        )
    return documents.select(range(held_out, len(documents))), documents.select(range(held_out))


def _hold_out_of_stream(
    documents: "IterableDataset", held_out: int | None
) -> "tuple[IterableDataset, IterableDataset]":
    if held_out is None:
        raise ValueError(
            "a stream has no length to hold a percentage out of: give a validation_file, or as max_eval_samples how "
            "many of its first documents to hold out"
        )
    return documents.skip(held_out), documents.take(held_out)


def _first(documents: "Dataset | IterableDataset", number: int | None) -> "Dataset | IterableDataset":
    return documents if number is None else documents.take(number)
