"""Writes what `assisted_speed.py` has measured into the README, between its markers `assisted`.

    python examples/assisted_speed.py
    python examples/assisted_speed_report.py

Reads `assisted_speed.json` out of examples/results.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from readme_blocks import RESULTS, write_report


ASSISTED = RESULTS / "assisted_speed.json"
BLOCK = "assisted"
HOW_TO_READ = """\
A model of the `tiny` size has learned to excerpt what stands between two marks of its input, and a draft of one layer
a stack the same. {inputs} inputs of {input_length} tokens, {excerpt_length} of them the answer, one at a time; medians
of {repeats} turns. A step is a call of the model's own decoder."""


def report_of(record: dict[str, Any]) -> str:
    """A record in Markdown."""
    settings = record["settings"]
    flags = " ".join(f"--{name} {value}" for name, value in settings.items())
    lines = [
        "| decoding | tokens a step | ms/token | times faster | greedy search's answers | right answers |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['name']} | {row['tokens_per_step']:.2f} | {row['ms_per_token']:.2f} | {row['ratio']:.2f} "
        f"| {row['equal']:.2f} | {row['right']:.2f} |"
        for row in record["ways"]
    ]
    said = f"`python examples/assisted_speed.py {flags}`: {record['machine']}."
    return "\n\n".join([said, HOW_TO_READ.format(**settings), "\n".join(lines)])


def report(results: Path = RESULTS) -> str:
    """The part of the README.

    Raises:
        ValueError: If nothing was measured yet.
    """
    path = results / ASSISTED.name
    if not path.exists():
        raise ValueError(f"there is no {path.name} in {results}: run examples/assisted_speed.py first")
    return report_of(json.loads(path.read_text(encoding="utf-8")))


main = partial(write_report, BLOCK, report)


if __name__ == "__main__":
    main()
