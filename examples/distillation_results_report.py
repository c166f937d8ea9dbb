"""The tables and the plot of `distillation_results.py`.

    python examples/distillation_results_report.py

Reads `distillation_*.json` in `examples/results`, prints a Markdown table for each task and draws all scores.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from result_files import spread


mpl.use("Agg")
RESULTS = Path(__file__).parent / "results"
TASKS = {"codexglue": "Java to C#", "docstrings": "function to docstring"}
LEARNT_FROM = {"labels": "labels", "teacher": "labels and teacher", "teacher itself": "labels"}

Record = dict[str, Any]


def read(folder: Path) -> dict[str, list[Record]]:
    """The records of each task.

    Raises:
        ValueError: If there are none.
    """
    files = {task: folder / f"distillation_{task}.json" for task in TASKS}
    records = {task: json.loads(file.read_text(encoding="utf-8")) for task, file in files.items() if file.exists()}
    if not records:
        raise ValueError(f"{folder} has no results: run distillation_results.py first")
    return records


def grouped(records: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    """The records of all seeds by label and objective, those of the teacher first."""
    groups: dict[tuple[str, str], list[Record]] = {}
    order = [*LEARNT_FROM]
    for record in sorted(
        records, key=lambda record: (-record["parameters"], record["label"], order.index(record["objective"]))
    ):
        groups.setdefault((record["label"], record["objective"]), []).append(record)
    return dict(sorted(groups.items(), key=lambda group: group[0][1] != "teacher itself"))


def table(task: str, records: Sequence[Record]) -> str:
    """Loss and score of teacher and students as Markdown."""
    settings = records[0]["settings"]
    lines = [
        f"{TASKS[task]}: {settings['score_rows']} held-out rows, students trained for {settings['max_steps']} steps",
        "",
        f"| model | learnt from | parameters | seeds | loss, nats a token | {records[0]['metric']} |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for (label, objective), of_group in grouped(records).items():
        losses = spread([record["loss"] for record in of_group], 3)
        scores = spread([record["score"] for record in of_group], 1)
        size = f"{of_group[0]['parameters'] / 1e6:.1f}M"
        lines.append(f"| {label} | {LEARNT_FROM[objective]} | {size} | {len(of_group)} | {losses} | {scores} |")
    return "\n".join(lines)


def draw(records: dict[str, list[Record]], path: Path) -> None:
    """Draws losses and scores, a row of two axes for each task: a point for each seed, a line for the teacher."""
    figure, axes = plt.subplots(
        len(records), 2, figsize=(10, 0.8 + 2.2 * len(records)), squeeze=False, layout="constrained"
    )
    for row, (task, of_task) in zip(axes, records.items(), strict=True):
        students = [record for record in of_task if record["objective"] != "teacher itself"]
        labels = list(dict.fromkeys(record["label"] for record in students))
        for axis, quantity, title in ((row[0], "loss", "loss, nats a token"), (row[1], "score", of_task[0]["metric"])):
            for offset, objective, color in ((-0.12, "labels", "C0"), (0.12, "teacher", "C1")):
                points = [record for record in students if record["objective"] == objective]
                axis.plot(
                    [record[quantity] for record in points],
                    [labels.index(record["label"]) + offset for record in points],
                    "o",
                    color=color,
                    label=LEARNT_FROM[objective],
                )
            for record in of_task:
                if record["objective"] == "teacher itself":
                    axis.axvline(record[quantity], color="gray", linestyle="--", label=record["label"])
            axis.set_yticks(range(len(labels)), labels)
            axis.set_ylim(len(labels) - 0.5, -0.5)
            axis.set_xlabel(title)
            axis.grid(alpha=0.3, axis="x")
        row[0].set_title(f"{TASKS[task]}, held out", loc="left")
        row[1].set_yticklabels([])
    axes[0][1].legend(fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints and draws.

    Args:
        argv: Command line arguments; those of the process by default.
    """
    parser = argparse.ArgumentParser(description="Tables and plot of distillation_results.py.")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    parser.add_argument("--plot", type=Path, default=RESULTS / "distillation_results.png", help="picture to write")
    arguments = parser.parse_args(argv)
    records = read(arguments.results)
    for task, of_task in records.items():
        print(table(task, of_task), end="\n\n")
    draw(records, arguments.plot)
    print(f"drawn: {arguments.plot}")


if __name__ == "__main__":
    main()
