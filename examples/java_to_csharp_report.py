"""Writes what the translators of `java_to_csharp.py` and `small_translator.py` can do into the README.

    make results-translation CODEXGLUE=FOLDER
    python examples/java_to_csharp_report.py outputs/copy outputs/java_to_csharp/scores

The arguments are output folders of `encdec-slm evaluate --task codexglue_java_cs`. Where one lies in the folder of a
model that says what its training was (`training.json`), so does the table. All of it is kept in examples/results;
without arguments that is read.
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


def scores(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The metrics of an evaluation by their types."""
    return {metric["type"]: metric for metric in record["metrics"]}


def described(record: dict[str, Any]) -> list[str]:
    """A model's name and beams, parameters, minutes and pairs, with a dash for what is not known."""
    training = record["training"] or {"label": record["model"]}
    numbers = (training.get(name) for name in ("parameters", "minutes", "pairs"))
    searched = f", {record['num_beams']} beams" if record["num_beams"] > 1 else ""
    return [training["label"] + searched, *("-" if number is None else f"{number:,.0f}" for number in numbers)]


def report(records: Sequence[dict[str, Any]]) -> str:
    """The part of the README."""
    lines = [
        f"`make results-translation CODEXGLUE=FOLDER`: {records[0]['examples']} pairs for validation, greedy "
        "where no beams are named; in parentheses 95 % of the bootstrap. Pairs are those of the training, of which "
        "there are 10,295.",
        "",
        "| | parameters | minutes | pairs | BLEU | exact match, % |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for record in records:
        found = scores(record)
        cells = [
            "{value:.2f} ({0:.2f} to {1:.2f})".format(*metric["args"]["confidence_interval_95"], value=metric["value"])
            for metric in (found[name] for name in METRICS)
        ]
        lines.append(f"| {' | '.join([*described(record), *cells])} |")
    by_the_clock = (record["training"] for record in records if "minutes" in (record["training"] or {}))
    machines = dict.fromkeys(training["machine"] for training in by_the_clock)
    lines += ["", f"Trained by the clock on: {'; '.join(machines)}."]
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
        write_json(arguments.results, collect(arguments.folders))
    write(BLOCK, report(json.loads(arguments.results.read_text(encoding="utf-8"))), arguments.readme)
    print(f"wrote the part `{BLOCK}` of {arguments.readme}")


if __name__ == "__main__":
    main()
