"""Writes what the translators of `java_to_csharp.py` and `small_translator.py` can do into the README.

    make results-translation CODEXGLUE=FOLDER
    python examples/java_to_csharp_report.py outputs/copy outputs/java_to_csharp/scores

The arguments are output folders of `encdec-slm evaluate --task codexglue_java_cs`. Where one lies in the folder of a
model that says what its training was (`training.json`), so does the table. All of it is kept in examples/results: an
evaluation takes the place of an earlier one of the same model by as many beams. Without arguments that is read.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from readme_blocks import README, write
from result_files import write_json
from timed_training import TRAINING


RESULTS = Path(__file__).parent / "results" / "java_to_csharp.json"
BLOCK = "java_to_csharp"
METRICS = ("bleu", "exact_match")
# Java to C#, BLEU and exact match: the table of CodeXGLUE's repository, and CodeT5's paper for its own (rounded)
PUBLISHED = (
    ("copy of the input", 18.54, 0.0),
    ("PBSMT", 43.53, 12.5),
    ("Transformer from scratch", 55.84, 33.0),
    ("RoBERTa (code)", 77.46, 56.1),
    ("CodeBERT", 79.92, 59.0),
    ("CodeT5-base, 220M", 84.0, 65.9),
)


def collect(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """What evaluations say, each with what the training of its model says, or nothing.

    Args:
        folders: Outputs of `encdec-slm evaluate`.

    Raises:
        ValueError: If one of the folders does not have what is expected of it.
    """
    records = []
    for path in (folder / "results.json" for folder in folders):
        if not path.exists():
            raise ValueError(f"{path} does not exist: run `encdec-slm evaluate ... --output {path.parent}` to its end")
        (record,) = json.loads(path.read_text(encoding="utf-8"))
        if missing := set(METRICS) - scores(record).keys():
            raise ValueError(f"{path} has no {', '.join(sorted(missing))}: use `--task codexglue_java_cs`")
        training = path.parents[1] / TRAINING
        said = json.loads(training.read_text(encoding="utf-8")) if training.exists() else None
        settings = json.loads(path.with_name("settings.json").read_text(encoding="utf-8"))
        # how it was called names folders of a machine
        kept = {name: value for name, value in record.items() if name != "source"}
        records.append(kept | {"training": said, "num_beams": settings["generation"]["num_beams"]})
    return records


def updated(earlier: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Earlier records, with new evaluations in their places or at the end."""

    def key(record: dict[str, Any]) -> tuple[str, int]:
        return record["model"], record["num_beams"]

    return list({key(record): record for record in [*earlier, *evaluations]}.values())


def scores(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The metrics of an evaluation by their types."""
    return {metric["type"]: metric for metric in record["metrics"]}


def described(record: dict[str, Any], machines: Sequence[str]) -> list[str]:
    """A model's name and beams, parameters, minutes, machine and pairs, with a dash for what is not known."""
    training = record["training"] or {"label": record["model"]}
    parameters, minutes, pairs = (
        "-" if (number := training.get(name)) is None else f"{number:,.0f}"
        for name in ("parameters", "minutes", "pairs")
    )
    searched = f", {record['num_beams']} beams" if record["num_beams"] > 1 else ""
    machine = machine_of(record)
    where = "-" if machine is None else str(1 + machines.index(machine))
    return [training["label"] + searched, parameters, minutes, where, pairs]


def machine_of(record: dict[str, Any]) -> str | None:
    """On what a model was trained, if the clock ended its training."""
    training = record["training"] or {}
    return training["machine"] if "minutes" in training else None


def report(records: Sequence[dict[str, Any]]) -> str:
    """The part of the README."""
    machines = list(dict.fromkeys(machine for record in records if (machine := machine_of(record))))
    lines = [
        f"`make results-translation CODEXGLUE=FOLDER`: {records[0]['examples']} pairs for validation, greedy "
        "where no beams are named; in parentheses 95 % of the bootstrap. Pairs are those of the training, of which "
        "there are 10,295.",
        "",
        "| | parameters | minutes | machine | pairs | BLEU | exact match, % |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for record in records:
        found = scores(record)
        cells = [
            "{value:.2f} ({0:.2f} to {1:.2f})".format(*metric["args"]["confidence_interval_95"], value=metric["value"])
            for metric in (found[name] for name in METRICS)
        ]
        lines.append(f"| {' | '.join([*described(record, machines), *cells])} |")
    named = "; ".join(f"({number}) {machine}" for number, machine in enumerate(machines, start=1))
    lines += ["", f"Machines: {named}."]
    lines += [
        "",
        "Published, on the test split, which is another:",
        "",
        "| | BLEU | exact match, % |",
        "|---|---:|---:|",
        *(f"| {name} | {bleu:.2f} | {exact:.1f} |" for name, bleu, exact in PUBLISHED),
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the part.

    Args:
        argv: Command line arguments; those of the process by default.
    """
    parser = argparse.ArgumentParser(description="Write the scores of the translator into the README.")
    parser.add_argument("folders", nargs="*", type=Path, help="outputs of `encdec-slm evaluate`")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the record")
    parser.add_argument("--readme", type=Path, default=README, help="file with the markers")
    arguments = parser.parse_args(argv)
    if arguments.folders:
        kept = json.loads(arguments.results.read_text(encoding="utf-8")) if arguments.results.exists() else []
        write_json(arguments.results, updated(kept, collect(arguments.folders)))
    write(BLOCK, report(json.loads(arguments.results.read_text(encoding="utf-8"))), arguments.readme)
    print(f"wrote the part `{BLOCK}` of {arguments.readme}")


if __name__ == "__main__":
    main()
