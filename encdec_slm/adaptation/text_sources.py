"""Where the texts of an adaptation come from: a named dataset or files, and what of it is held out."""

from typing import TYPE_CHECKING, Any

from encdec_slm.adaptation.arguments import AdaptationArguments
from encdec_slm.data_files import ROW_BUILDERS, dataset_source, first_rows, hold_out, load_splits


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

BUILDERS = {".txt": "text", **ROW_BUILDERS}


def load_texts(arguments: AdaptationArguments) -> "tuple[Dataset | IterableDataset, Dataset | IterableDataset]":
    """Returns documents to learn from and documents that are held out.

    These are the `validation` split or the validation files, or else the first documents: by percentage, or by
    number where a stream has no length. They are the same for every seed.

    Raises:
        ValueError: If there is no `train` split, a file is missing or cannot be read, or too few documents are left
            on either side.
    """
    splits = load_splits(_source(arguments), cache_dir=arguments.cache_dir, streaming=arguments.streaming)
    if "train" not in splits:
        raise ValueError(f"{arguments.dataset_name} has no split named train, only {', '.join(splits)}")
    train = splits["train"]
    if "validation" in splits:
        validation = splits["validation"]
    elif arguments.streaming:
        train, validation = _hold_out_of_stream(train, arguments.max_eval_samples)
    else:
        train, validation = hold_out(train, arguments.validation_split_percentage, what="documents")
    return first_rows(train, arguments.max_train_samples), first_rows(validation, arguments.max_eval_samples)


def _source(arguments: AdaptationArguments) -> dict[str, Any]:
    source = dataset_source(
        name=arguments.dataset_name,
        config_name=arguments.dataset_config_name,
        train_files=arguments.train_file,
        validation_files=arguments.validation_file,
        builders=BUILDERS,
    )
    return source | ({"sample_by": arguments.sample_by} if source["path"] == "text" else {})


def _hold_out_of_stream(
    documents: "IterableDataset", held_out: int | None
) -> "tuple[IterableDataset, IterableDataset]":
    if held_out is None:
        raise ValueError(
            "a stream has no length to hold a percentage out of: give a validation_file, or as max_eval_samples how "
            "many of its first documents to hold out"
        )
    return documents.skip(held_out), documents.take(held_out)
