"""The tasks that examples compare models on, and their rows as files for the commands.

python examples/tasks.py codexglue outputs/codexglue --data_dir FOLDER
encdec-slm distill --train_file outputs/codexglue/train.jsonl --validation_file outputs/codexglue/validation.jsonl ...
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.codexglue import CodeXGLUE
from data.docstrings import Docstrings
from datasets import Dataset, concatenate_datasets
from scoring import bleu, rouge_l


TASKS = ("codexglue", "docstrings")


@dataclass(frozen=True)
class Task:
    """Rows with `source` and `target`, and the score of answers, from 0 to 100."""

    train: Dataset
    held_out: Dataset
    metric: str
    score: Callable[[Sequence[str], Sequence[str]], float]


def load_task(name: str, data_dir: str | None) -> Task:
    """The rows of a task.

    Raises:
        ValueError: CodeXGLUE without its folder.
    """
    if name == "docstrings":
        builder = Docstrings()
        builder.download_and_prepare()
        splits = builder.as_dataset()
        # packages that training has not seen
        held_out = concatenate_datasets([splits["validation"], splits["test"]]).shuffle(seed=0)
        return Task(splits["train"], held_out, "ROUGE-L", rouge_l)
    if data_dir is None:
        raise ValueError("codexglue needs --data_dir, the folder that examples/data/codexglue.py describes")
    builder = CodeXGLUE(data_dir)
    builder.download_and_prepare()
    splits = builder.as_dataset()
    return Task(splits["train"], splits["validation"].shuffle(seed=0), "BLEU", bleu)


def begin_with_line_break(rows: Dataset) -> Dataset:
    """Rows whose targets begin with a line break, which students need that start as a language model.

    `encode_ids` in `start_from_decoder_only.py` says why.
    """
    return rows.map(lambda row: {"target": "\n" + row["target"]}, desc="Line breaks")


def write_files(task: Task, folder: Path) -> dict[str, Path]:
    """Writes `train.jsonl` and `validation.jsonl` with `source` and `target`, unless they are there; their names.

    Targets begin with a line break.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {"train": folder / "train.jsonl", "validation": folder / "validation.jsonl"}
    for file, rows in zip(files.values(), (task.train, task.held_out), strict=True):
        if not file.exists():
            partial = file.with_suffix(".partial")
            begin_with_line_break(rows.select_columns(["source", "target"])).to_json(partial)
            partial.replace(file)
    return files


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the files of a task.

    Args:
        argv: Command line arguments; those of the process by default.
    """
    parser = argparse.ArgumentParser(description="Write the rows of a task to train.jsonl and validation.jsonl.")
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("folder", type=Path, help="the folder to write")
    parser.add_argument("--data_dir", metavar="FOLDER", help="folder of the CodeXGLUE files")
    arguments = parser.parse_args(argv)
    for file in write_files(load_task(arguments.task, arguments.data_dir), arguments.folder).values():
        print(file)


if __name__ == "__main__":
    main()
