"""Scores with the task, command, machine and versions that they come from: for model cards, and for a reader."""

import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from encdec_slm.evaluation.tasks import Task
from encdec_slm.processor_name import processor_name


# how a card names a score; others are named as they are
TITLES = {
    "answer_correctness": "answer correctness",
    "bleu": "BLEU",
    "chrf": "chrF",
    "code_bleu": "BLEU of code",
    "code_to_text_bleu": "BLEU-4, smoothed",
    "exact_match": "exact match",
    "f1": "F1",
    "relaxed_accuracy": "relaxed accuracy",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
    "vqa_accuracy": "VQA accuracy",
    "word_error_rate": "word error rate",
}
# what the Hub calls a score whose name is ours
TYPES = {"code_bleu": "bleu", "code_to_text_bleu": "bleu"}
PACKAGES = ("encdec-slm", "torch", "transformers", "datasets", "sacrebleu", "rouge-score")


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score from 0 to 100, and between which values it lies with 95 percent confidence."""

    name: str
    value: float
    interval: tuple[float, float]

    @property
    def title(self) -> str:
        """Its name for a reader."""
        return TITLES.get(self.name, self.name.replace("_", " "))


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        model: Its name.
        task: What was asked.
        dataset: Id on the Hub, or names of the local files.
        split: Of the data set; None for local files.
        examples: How many were scored.
        scores: In the order of the task's metrics, a judge's last.
        answered: How many of them in this run; the others before.
        seconds: Of this run, but for loading the model and the metrics' packages, and judging.
        generation_seconds: Of these within `generate`.
        truncated: Inputs of this run that were cut to the longest that the model takes.
        unjudged: Answers of which the judge said nothing that can be read.
        folder: With all files.
    """

    model: str
    task: Task
    dataset: str
    split: str | None
    examples: int
    answered: int
    scores: tuple[Score, ...]
    seconds: float
    generation_seconds: float
    truncated: int
    unjudged: int
    folder: Path

    @property
    def title(self) -> str:
        """The name of the data set."""
        return self.dataset if self.task.dataset is None else self.task.title

    @property
    def metrics(self) -> dict[str, float]:
        """The scores by name."""
        return {score.name: score.value for score in self.scores}

    def records(self, command: Sequence[str]) -> list[dict[str, Any]]:
        """Returns what `results.json` holds: records in the form of the Hub's `model-index`."""
        dataset: dict[str, Any] = {"type": self.dataset, "name": self.title}
        return [
            {
                "task": {"type": self.task.type},
                "dataset": dataset if self.split is None else {**dataset, "split": self.split},
                "metrics": [
                    {
                        "type": TYPES.get(score.name, score.name),
                        "value": round(score.value, 4),
                        "name": score.title,
                        "args": {"confidence_interval_95": [round(edge, 4) for edge in score.interval]},
                    }
                    for score in self.scores
                ],
                "source": {"name": shlex.join(command), "machine": machine()},
                "model": self.model,
                "examples": self.examples,
                "answered_in_this_run": self.answered,
                "truncated_inputs": self.truncated,
                "unjudged_answers": self.unjudged,
                "seconds": round(self.seconds, 3),
                "generation_seconds": round(self.generation_seconds, 3),
                "versions": versions(),
            }
        ]

    def table(self) -> str:
        """Returns the scores as a Markdown table."""
        rows = [
            f"{self.model} on {self.title}{f', {self.split}' if self.split else ''}: {self.examples:,} examples",
            "",
            "| metric | score | 95 % interval |",
            "|---|---:|---:|",
        ]
        rows += [
            f"| {score.title} | {score.value:.2f} | {score.interval[0]:.2f} to {score.interval[1]:.2f} |"
            for score in self.scores
        ]
        return "\n".join(rows)


def machine() -> str:
    """Returns the processor or GPU, and the threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{processor_name()}, {torch.get_num_threads()} thread(s)"


def versions() -> Mapping[str, str]:
    """Returns the versions of what the scores depend on; of what is not installed, none."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **found}
