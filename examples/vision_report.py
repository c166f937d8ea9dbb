"""What the vision demo has found: a table, a picture with some of the pictures that were asked about, a record."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import matplotlib as mpl
from datasets import Dataset
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from vision_rows import QUESTION_TYPES
from vision_scores import right

from encdec_slm.benchmarks.report import conditions


mpl.use("Agg")

NEW_WORDS = "charts of new words"
# pictures of which one question is shown, of each data set
SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Questions of one kind.

    Attributes:
        questions: What table and picture call them.
        number: How many were asked.
        accuracy: Share of right answers of each model, by its name.
    """

    questions: str
    number: int
    accuracy: Mapping[str, float]


def entries(rows: Dataset, answers: Mapping[str, Sequence[str]], prefix: str | None = None) -> list[Entry]:
    """An entry for each data set and one for each of its questions that was asked.

    Args:
        rows: Rows of one split.
        answers: Those of each model, one per row.
        prefix: What to call the data set; its name by default.
    """
    data, types = list(rows["data"]), list(rows["question_type"])
    marks = {name: right(given, rows["references"], data) for name, given in answers.items()}

    def entry(name: str, chosen: Sequence[int]) -> Entry:
        accuracy = {model: sum(mark[index] for index in chosen) / len(chosen) for model, mark in marks.items()}
        return Entry(questions=name, number=len(chosen), accuracy=accuracy)

    found = []
    for name, question_types in QUESTION_TYPES.items():
        of_data = [index for index, of in enumerate(data) if of == name]
        if of_data:
            title = prefix or name
            found.append(entry(f"{title}: all", of_data))
            for question_type in question_types:
                if chosen := [index for index in of_data if types[index] == question_type]:
                    found.append(entry(f"{title}: {question_type}", chosen))
    return found


def table(found: Sequence[Entry]) -> str:
    """The accuracies in Markdown."""
    models = list(found[0].accuracy)
    lines = ["| questions | number | " + " | ".join(models) + " |", "|---|---:|" + "---:|" * len(models)]
    for entry in found:
        values = " | ".join(f"{entry.accuracy[model]:.3f}" for model in models)
        lines.append(f"| {entry.questions} | {entry.number:,} | {values} |")
    return "\n".join(lines)


def draw(found: Sequence[Entry], rows: Dataset, answers: Sequence[str], path: Path) -> None:
    """Draws bars of all accuracies, and beside them some pictures with a question, its answer and what is right.

    Args:
        found: What the bars show.
        rows: Rows with `image`.
        answers: One for each row.
        path: The file to write.
    """
    figure = plt.figure(figsize=(14, 7.5), layout="constrained")
    left, right_side = figure.subfigures(1, 2, width_ratios=(5, 9))
    _draw_bars(found, left.subplots())
    shown = [index for name in QUESTION_TYPES for index in sample(rows, name)]
    for axes, index in zip(right_side.subplots(2, SHOWN).flat, shown, strict=False):
        row = rows[index]
        axes.imshow(row["image"])
        is_right = right([answers[index]], [row["references"]], [row["data"]])[0]
        verdict = "right" if is_right else f"it is: {shorten(', '.join(row['references']), 24, placeholder='...')}"
        axes.set_title(row["source"], fontsize=8)
        says = shorten(answers[index], 24, placeholder="...") or "(nothing)"
        axes.set_xlabel(f"{says}\n{verdict}", fontsize=9, color="C2" if is_right else "C3")
        axes.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=75)
    plt.close(figure)


def sample(rows: Dataset, data: str) -> list[int]:
    """Rows of one data set, whose pictures are not the same: evenly spaced, one question after the other."""
    types = QUESTION_TYPES[data]
    of_type = [
        [
            index
            for index, (name, question_type) in enumerate(zip(rows["data"], rows["question_type"], strict=True))
            if (name, question_type) == (data, wanted)
        ]
        for wanted in types
    ]
    # few emoji have no tag, all else is asked of every picture
    pictures = min(map(len, of_type))
    number = min(SHOWN, pictures)
    return [of_type[turn % len(types)][turn * pictures // number] for turn in range(number)]


def _draw_bars(found: Sequence[Entry], axes: Axes) -> None:
    models = list(found[0].accuracy)
    width = 0.8 / len(models)
    for place, model in enumerate(models):
        heights = [index + (place - (len(models) - 1) / 2) * width for index in range(len(found))]
        bars = axes.barh(heights, [entry.accuracy[model] for entry in found], height=width, label=model)
        axes.bar_label(bars, fmt="{:.2f}", padding=2, fontsize=7)
    axes.set_yticks(range(len(found)), [entry.questions for entry in found], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1)
    axes.set_title("share of right answers, unseen pictures", fontsize=9)
    axes.legend(fontsize=8, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)


def write(found: Sequence[Entry], seconds: Mapping[str, float], settings: Mapping[str, Any], path: Path) -> None:
    """Writes the accuracies as JSON, with the seconds of each part and what must be known of the machine."""
    record = {
        "accuracy": [asdict(entry) for entry in found],
        "seconds": {part: round(value, 1) for part, value in seconds.items()},
        "settings": dict(settings),
        "training": conditions(),
    }
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
