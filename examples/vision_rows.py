"""Questions about pictures: emoji and charts in one set, with their pictures or, for a blind model, without."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.charts import Charts
from data.emoji import EmojiPictures
from datasets import Dataset, DatasetBuilder, concatenate_datasets


IMAGE_TOKEN = "<image>"
COLUMNS = ("image", "source", "target", "references", "question_type", "data")
# Names of emoji are left out: those of the test are on no other picture, and cannot be known.
QUESTION_TYPES = {
    "emoji": ("group", "subgroup", "tag"),
    "charts": ("kind", "count", "maximum", "minimum", "value"),
}


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Rows to learn and rows to score.

    Attributes:
        train: Emoji and charts.
        test: Emoji of other families, and charts that are new.
        test_new_words: Charts whose words are on no chart of the training.
    """

    train: Dataset
    test: Dataset
    test_new_words: Dataset


def load_splits(
    charts: int,
    held_out: int,
    *,
    question_types: Mapping[str, Sequence[str]] = QUESTION_TYPES,
    processes: int = 1,
    **options: Any,
) -> Splits:
    """The rows of both data sets, with columns `COLUMNS`: `references` are the right answers, `target` one of them.

    Args:
        charts: Number of charts to learn.
        held_out: Number of charts in each of the test splits.
        question_types: What is asked of each data set.
        processes: How many draw charts.
        options: For both builders, such as `cache_dir`.
    """
    emoji = _built(EmojiPictures(**options))
    drawn = _built(Charts(charts=charts, held_out=held_out, **options), processes)

    def asked(rows: Dataset, data: str) -> Dataset:
        return _asked(rows, data, question_types[data])

    return Splits(
        train=concatenate_datasets([asked(emoji["train"], "emoji"), asked(drawn["train"], "charts")]),
        test=concatenate_datasets([asked(emoji["test"], "emoji"), asked(drawn["test"], "charts")]),
        test_new_words=asked(drawn["test_new_words"], "charts"),
    )


def _built(builder: DatasetBuilder, processes: int = 1) -> dict[str, Dataset]:
    builder.download_and_prepare(num_proc=processes if processes > 1 else None)
    return builder.as_dataset()


def _asked(rows: Dataset, data: str, question_types: Sequence[str]) -> Dataset:
    types = rows["question_type"]
    rows = rows.select([index for index, kind in enumerate(types) if kind in question_types])
    if "references" not in rows.column_names:
        rows = rows.add_column("references", [[target] for target in rows["target"]])
    return rows.add_column("data", [data] * len(rows)).select_columns(list(COLUMNS))


def seen(rows: Dataset) -> Dataset:
    """The rows as a model that sees is asked: the picture first, then the question."""

    def show(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {
            "images": [[picture] for picture in batch["image"]],
            "source": [prompt(question) for question in batch["source"]],
            "target": batch["target"],
        }

    return rows.with_transform(show)


def unseen(rows: Dataset) -> Dataset:
    """The rows without their pictures."""
    return rows.select_columns(["source", "target"])


def prompt(question: str) -> str:
    """The text of a question about a picture, as the processor's chat template writes it."""
    return f"{IMAGE_TOKEN}\n{question}"
