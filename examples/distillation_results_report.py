"""Draws what `distillation_results.py` has found, and writes its tables into the README, between its markers.

    python examples/distillation_results_report.py

Reads `distillation_*.json` in `examples/results`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from readme_blocks import README, RESULTS, write_report
from result_files import spread


mpl.use("Agg")
BLOCK = "distillation"
PLOT = "distillation_results.png"
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


def differences(records: Sequence[Record], quantity: str) -> dict[str, list[float]]:
    """What the teacher changes, by the label of a student: a number for each seed that has learnt in both ways."""
    by_seed = {
        (record["label"], record["objective"], record["seed"]): record[quantity]
        for record in records
        if record["objective"] != "teacher itself"
    }
    changes: dict[str, list[float]] = {}
    for (label, objective, seed), value in by_seed.items():
        if objective == "teacher" and (label, "labels", seed) in by_seed:
            changes.setdefault(label, []).append(value - by_seed[label, "labels", seed])
    return changes


def table(task: str, records: Sequence[Record]) -> str:
    """Loss and score of teacher and students as Markdown."""
    settings = records[0]["settings"]
    machines = "; ".join(sorted({record["machine"] for record in records}))
    metric = records[0]["metric"]
    lines = [
        f"{TASKS[task]}, `python examples/distillation_results.py {options(task, records)}`: "
        f"{settings['train_rows']:,} rows to learn from, {settings['score_rows']} held-out rows scored ({machines}):",
        "",
        f"| model | learnt from | steps of {settings['per_device_train_batch_size']} rows | parameters | seeds "
        f"| loss, nats a token | {metric} |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for (label, objective), of_group in grouped(records).items():
        losses = spread([record["loss"] for record in of_group], 3)
        scores = spread([record["score"] for record in of_group], 1)
        size = f"{of_group[0]['parameters'] / 1e6:.1f}M"
        steps = settings["teacher_steps" if objective == "teacher itself" else "max_steps"]
        lines.append(
            f"| {label} | {LEARNT_FROM[objective]} | {steps:,} | {size} | {len(of_group)} | {losses} | {scores} |"
        )
    changes = {quantity: differences(records, quantity) for quantity in ("loss", "score")}
    for label in changes["loss"]:
        loss, score = (signed(changes[quantity][label], digits) for quantity, digits in (("loss", 3), ("score", 1)))
        lines += ["", f"With the teacher, seed by seed, {label}: loss {loss}, {metric} {score}."]
    return "\n".join(lines)


def options(task: str, records: Sequence[Record]) -> str:
    """The command line's, of what changes how long it takes."""
    folder = " --data_dir FOLDER" if task == "codexglue" else ""
    settings = records[0]["settings"]
    numbers = " ".join(f"--{name} {settings[name]}" for name in ("teacher_steps", "train_rows", "max_steps"))
    students = " ".join(dict.fromkeys(record["student"] for record in records if "student" in record))
    return f"--task {task}{folder} {numbers} --students {students}"


def signed(changes: Sequence[float], digits: int) -> str:
    """All changes, each with its sign.

    Example:
        >>> signed([-0.25, 0.5], 2)
        '-0.25, +0.50'
    """
    return ", ".join(f"{change:+.{digits}f}" for change in changes)


def report(results: Path) -> str:
    """The part of the README: a table for each task, and the picture."""
    tables = [table(task, records) for task, records in read(results).items()]
    return "\n\n".join(
        [*tables, f"![Loss and score of each seed, with and without the teacher](examples/results/{PLOT})"]
    )


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
    """Draws and writes.

    Args:
        argv: Command line arguments; those of the process by default.
    """
    parser = argparse.ArgumentParser(description="Tables and plot of distillation_results.py.")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files and of the picture")
    parser.add_argument("--readme", type=Path, default=README, help="file with the markers")
    arguments = parser.parse_args(argv)
    draw(read(arguments.results), arguments.results / PLOT)
    write_report(BLOCK, report, arguments.results, arguments.readme)


if __name__ == "__main__":
    main()
