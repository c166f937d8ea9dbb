"""Rows of a task, of the Hub or of local files, as examples to be answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encdec_slm.data_files import ROW_BUILDERS, dataset_source, load_splits
from encdec_slm.evaluation.tasks import IMAGE, IMAGES, SOURCE, TARGET, Task, fields_of


if TYPE_CHECKING:
    from datasets import Dataset

# how many examples a message names
NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Example:
    """What is asked, and what is right.

    Attributes:
        number: Its place among the rows, from 0.
        prompt: What a model reads, with `{image}` where an image is.
        references: Right answers.
        copied: What an answer would be copied from; the prompt where the task names nothing.
    """

    number: int
    prompt: str
    references: tuple[str, ...]
    copied: str


@dataclass(frozen=True, kw_only=True)
class Examples:
    """All examples of a task, and their images, which are opened when they are asked for.

    Attributes:
        task: As it was read: local files may have columns of their own.
        rows: As the data set has them.
        examples: One of each row.
    """

    task: Task
    rows: "Dataset"
    examples: tuple[Example, ...]

    def images(self, example: Example) -> list[Any]:
        """Returns the images of an example, in RGB."""
        from transformers.image_utils import load_image

        if self.task.images is None:
            return []
        value = self.rows[example.number][self.task.images]
        values = value if isinstance(value, list | tuple) else [] if value is None else [value]
        return [load_image(image) for image in values]


def read_examples(
    task: Task,
    *,
    files: Sequence[str] | None = None,
    config: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    prompt: str | None = None,
) -> Examples:
    """Returns the examples of a task.

    Args:
        task: What is asked of each row.
        files: Local JSON Lines, CSV or Parquet files; or two text files, of which line n of the second is the right
            answer to line n of the first. From the Hub if not given.
        config: Of the data set, if not the task's.
        split: Of the data set, if not the task's.
        limit: How many rows, from the first; all if not given.
        prompt: What is asked, instead of the task's, with columns of the rows in braces.

    Raises:
        ValueError: If the task has no data set, a file cannot be read, a column is missing or a reference is empty.
    """
    rows = _rows(task, files, config, split)
    task = _as_in_rows(task, rows.column_names)
    task = task if prompt is None else replace(task, prompt=prompt)
    missing = [name for name in task.columns if name not in rows.column_names]
    if missing:
        raise ValueError(
            f"{task.title} needs the columns {', '.join(task.columns)}, or source and target, but the rows have "
            f"{', '.join(rows.column_names)}: rename yours ({', '.join(missing)} missing)"
        )
    rows = rows if limit is None else rows.take(min(limit, len(rows)))
    if not len(rows):
        raise ValueError(f"there are no rows of {task.title} to evaluate")
    # images are not opened before they are read
    texts = rows.remove_columns([task.images]) if task.images else rows
    examples = tuple(_example(task, number, row) for number, row in enumerate(texts))
    empty = [example.number for example in examples if not any(text.strip() for text in example.references)]
    if empty:
        raise ValueError(
            f"{len(empty)} of {len(examples)} rows have an empty reference in {task.references} (rows "
            f"{', '.join(map(str, empty[:NAMED]))}{' and others' if len(empty) > NAMED else ''}, from 0): leave them "
            "out"
        )
    return Examples(task=task, rows=rows, examples=examples)


def _rows(task: Task, files: Sequence[str] | None, config: str | None, split: str | None) -> "Dataset":
    from datasets import Dataset

    if files is None:
        if task.dataset is None:
            raise ValueError(f"the task {task.title} has no data set of its own: give files with --data")
        source = {"path": task.dataset, "name": config or task.config}
        return load_splits(source, split=split or task.split, revision=task.revision)
    if len(files) == 2 and not any(Path(file).suffix in ROW_BUILDERS for file in files):
        return Dataset.from_dict(_aligned_lines(task, *files))
    source = dataset_source(
        name=None, config_name=None, train_files=files, validation_files=None, builders=ROW_BUILDERS
    )
    return load_splits(source, split="train")


def _aligned_lines(task: Task, sources: str, targets: str) -> dict[str, list[str]]:
    """Returns two columns, of files whose lines belong together."""
    if len(fields_of(task.prompt)) != 1 or task.images:
        raise ValueError(
            f"{task.title} needs more than a text and its answer ({', '.join(task.columns)}): give a file with rows, "
            "such as .jsonl"
        )
    lines = []
    for name in (sources, targets):
        path = Path(name)
        if not path.is_file():
            raise ValueError(f"the file {path} does not exist")
        # only a newline ends a line
        lines.append([line.strip() for line in path.read_text(encoding="utf-8").removesuffix("\n").split("\n")])
    if len(lines[0]) != len(lines[1]):
        raise ValueError(
            f"{sources} has {len(lines[0])} lines, but {targets} has {len(lines[1])}: line n of the second file has "
            "to be the answer to line n of the first"
        )
    return {SOURCE: lines[0], TARGET: lines[1]}


def _as_in_rows(task: Task, columns: Sequence[str]) -> Task:
    """Returns the task as its rows have it: rows with `source` and `target` are asked and answered with these."""
    if set(task.columns) <= set(columns) or not {SOURCE, TARGET} <= set(columns):
        return task
    images = IMAGES if task.images else None
    prompt = "{image}\n{source}" if images else "{source}"
    return replace(task, prompt=prompt, references=TARGET, copied=task.copied and SOURCE, images=images)


def _example(task: Task, number: int, row: Mapping[str, Any]) -> Example:
    values = {name: _text(row[name]) for name in dict.fromkeys([*fields_of(task.prompt), *fields_of(task.references)])}
    prompt = task.prompt.format(**values, image=f"{{{IMAGE}}}")
    if fields_of(task.references):
        references = [task.references.format(**values)]
    else:
        references = _texts_at(row, task.references.split("."))
    if task.no_answer is not None and not any(text.strip() for text in references):
        references = [task.no_answer]
    copied = prompt if task.copied is None else _text(row[task.copied])
    return Example(number=number, prompt=prompt, references=tuple(references), copied=copied)


def _text(value: Any) -> str:
    """Returns a column as a text: tokens joined by blanks, nothing as an empty one."""
    return "" if value is None else " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _texts_at(value: Any, path: Sequence[str]) -> list[str]:
    """Returns all texts at a path, through dictionaries by name and through lists element by element.

    >>> _texts_at({"answers": [{"answer": "a"}, {"answer": "b"}]}, ["answers", "answer"])
    ['a', 'b']
    """
    if isinstance(value, list | tuple):
        return [text for part in value for text in _texts_at(part, path)]
    if value is None:
        return []
    return _texts_at(value[path[0]], path[1:]) if path else [str(value)]
