"""The plots and the tables of `start_from_decoder_only.py`.

    python examples/start_from_decoder_only_report.py

Reads the JSON files in `examples/results`, of each the longest run of every student, and makes a Markdown table of
each task. Those of the file that is named after the script go into the README, those of the others into the README of
the folder. The curves of the longest runs, and of those of six minutes, are drawn into a picture each.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from readme_blocks import README, write


mpl.use("Agg")
RESULTS = Path(__file__).parent / "results"
# the files whose curves are drawn; the first must be there
DRAWN = ("start_from_decoder_only", "start_six_minutes")
TASKS = {"codexglue": "Java to C#", "docstrings": "function to docstring"}


def read(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The records of all JSON files in a folder, by the names of the files.

    Raises:
        ValueError: If the file that is drawn is not there.
    """
    files = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("start_*.json"))}
    if DRAWN[0] not in files:
        raise ValueError(f"{folder} has no {DRAWN[0]}.json: run start_from_decoder_only.py first")
    return {DRAWN[0]: files.pop(DRAWN[0]), **files}


def longest(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each student and task the record with the most time."""
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records:
        key = record["task"], record["student"]["name"]
        if key not in best or record["minutes"] > best[key]["minutes"]:
            best[key] = record
    return list(best.values())


def draw(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws loss and score against seconds, a row of two axes for each task."""
    tasks = [task for task in TASKS if any(record["task"] == task for record in records)]
    figure, axes = plt.subplots(len(tasks), 2, figsize=(10, 3.6 * len(tasks)), squeeze=False, layout="constrained")
    names = list(dict.fromkeys(record["student"]["name"] for record in records))
    for row, task in zip(axes, tasks, strict=True):
        of_task = [record for record in records if record["task"] == task]
        # of one record alone: marks of others may lie so close that their numbers overlap
        ticks = [60 * point["minutes"] for point in max(of_task, key=lambda record: record["minutes"])["points"][1:]]
        for record in of_task:
            points = record["points"][1:]
            seconds = [point["seconds"] for point in points]
            style = {
                "color": f"C{names.index(record['student']['name'])}",
                "linestyle": "--" if record["student"]["is_random"] else "-",
                "marker": "o",
                "markersize": 4,
                "label": f"{record['student']['label']} ({record['student']['parameters'] / 1e6:.0f}M)",
            }
            row[0].plot(seconds, [point["loss"] for point in points], **style)
            row[1].plot(seconds, [point["score"] for point in points], **style)
            row[1].set_ylabel(record["metric"])
        row[0].set_ylabel("loss, nats a token")
        row[0].set_title(f"{TASKS[task]}, held out", loc="left")
        for axis in row:
            axis.set_xscale("log", base=2)
            axis.set_xlabel("seconds of training")
            axis.set_xticks(ticks, minor=False)
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
            axis.grid(alpha=0.3)
    axes[0][1].legend(fontsize=8)
    figure.savefig(path, dpi=150)


def table(records: Sequence[dict[str, Any]]) -> str:
    """Loss and score of each student of a task at each mark, as Markdown."""
    # those at the start differ where an adaptation went before
    marks = sorted({point["minutes"] for record in records for point in record["points"][1:]})
    first, last = records[0]["scored_rows"]
    machines = "; ".join(dict.fromkeys(record["machine"] for record in records))
    lines = [
        f"{TASKS[records[0]['task']]}: loss in nats a token / {records[0]['metric']} on the held-out rows {first} to "
        f"{last}, after minutes of training ({machines})",
        "",
        "| student | parameters | examples seen | start | " + " | ".join(f"{mark:g}" for mark in marks) + " |",
        "|---|---:|---:|---:|" + "---:|" * len(marks),
    ]
    for record in records:
        student = record["student"]
        start, *points = record["points"]
        cells = {point["minutes"]: loss_and_score(point) for point in points}
        values = " | ".join([loss_and_score(start), *(cells.get(mark, "") for mark in marks)])
        examples = record["points"][-1]["examples"]
        lines.append(f"| {student['label']} | {student['parameters'] / 1e6:.1f}M | {examples:,} | {values} |")
    return "\n".join(lines)


def loss_and_score(point: dict[str, float]) -> str:
    """A cell of the table; nobody is asked for answers before it has learnt anything."""
    loss = f"{point['loss']:.2f}"
    return f"{loss} / {point['score']:.1f}" if "score" in point else loss


def tables(records: Sequence[dict[str, Any]]) -> str:
    """A table of each task, the best student first."""
    by_task = [[record for record in records if record["task"] == task] for task in TASKS]
    by_loss = (sorted(of_task, key=lambda record: record["points"][-1]["loss"]) for of_task in by_task if of_task)
    return "\n\n".join(map(table, by_loss))


def page_of(name: str, results: Path, readme: Path) -> Path:
    """The file that has the tables of a file of records."""
    return readme if name == DRAWN[0] else results / "README.md"


def main(argv: Sequence[str] | None = None) -> None:
    """Draws, prints and writes.

    Args:
        argv: Command line arguments; those of the process by default.
    """
    parser = argparse.ArgumentParser(description="Plots and tables of start_from_decoder_only.py.")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files, with a README.md")
    parser.add_argument("--plots", type=Path, default=RESULTS, help="folder to write the pictures to")
    parser.add_argument("--readme", type=Path, default=README, help="file with the markers of the longest runs")
    arguments = parser.parse_args(argv)
    for name, records in read(arguments.results).items():
        if name in DRAWN:
            draw(longest(records), arguments.plots / f"{name}.png")
        page = page_of(name, arguments.results, arguments.readme)
        text = tables(longest(records))
        print(f"{name}, to {page}\n\n{text}\n")
        write(name, text, page)


if __name__ == "__main__":
    main()
