"""Writes what `encdec-slm benchmark` has measured into the README, between its markers `efficiency`.

    make bench
    python examples/efficiency_report.py

Reads `efficiency.json` out of examples/results, the comparison at one length, and, as far as they are there, those of
`FURTHER`: other precisions and a T5Gemma, no cache, over batch sizes and over input lengths.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from readme_blocks import RESULTS, write_report

from encdec_slm.benchmarks.efficiency_tables import (
    Run,
    busy,
    lengths_table,
    limit_table,
    measured_table,
    runs_from,
    title,
)


BLOCK = "efficiency"
# as printed in the paper's Table 2: platform; first token in ms and tokens/s of decoder-only and encoder-decoder
PAPER = (("GPU", 149, 9.7, 86, 37.4), ("CPU", 2242, 4.0, 1591, 15.3), ("NPU", 358, 26.5, 189, 123.8))
HOW_TO_READ = """\
All answer the same random input in turns, one row greedily through `generate`; medians, with the least and the
greatest in parentheses. "x" divides by the decoder-only model's: under 1 is a faster first token, over 1 are more
tokens per second. Memory is the highest of a process of its own while it answers, over the same process before it
had a model. Operations are counted while a model runs and must be those of a formula. The second table holds the
measurement to the machine: bytes that a token has to read over the bandwidth of its memory, operations over its rate
of matrix products, both measured in the same run. A model that beats this limit by more than a tenth fails the run.
bfloat16 is faster than float32 only where the processor multiplies it."""
ON_THE_PAPER = """\
The paper's own figures, at 330M parameters, are quoted for comparison; its devices, lengths and precisions are not
published. Its decoder-only model takes 149 ms for the first token and 103 ms (1 / 9.7 s) for each after it on one GPU,
as if it read the whole input again for each: it seems to have had no cache. Ours has one, which is what anybody would
use, so that less is to be gained."""


def measured(runs: Sequence[Run]) -> str:
    """The table of each input."""
    return "\n\n".join(f"{title(run)}\n\n{measured_table(run)}" for run in runs)


# record, what it is of, its table, and its picture if it has one
FURTHER = (
    ("efficiency_dtypes", "Beside a T5Gemma, and in bfloat16", measured, None),
    ("efficiency_uncached", "Without a cache, as the paper's baseline seems to have been", measured, None),
    ("efficiency_batches", "Over batch sizes", lengths_table, None),
    (
        "efficiency_lengths",
        "Over input lengths, the paper's Figure 1",
        lengths_table,
        "![Seconds by input length](examples/results/efficiency_lengths_by_length.png)",
    ),
)


def paper_table() -> str:
    """The paper's Table 2."""
    lines = [
        "| paper | decoder-only: first token, ms | tokens/s | encoder-decoder: first token, ms | x | tokens/s | x |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for platform, peer_first, peer_rate, first, rate in PAPER:
        lines.append(
            f"| {platform} | {peer_first:,} | {peer_rate} | {first:,} | {first / peer_first:.2f} | {rate} "
            f"| {rate / peer_rate:.2f} |"
        )
    return "\n".join(lines)


def source(record: dict[str, Any]) -> str:
    """Command and machine of a record, and what it could not measure."""
    found = record["conditions"]
    where = found["processor"] if found["device"] == "cpu" else found["device"]
    return (
        f"`{record['command']}`: {where}, {record['settings']['threads']} thread(s), torch {found['torch']}, "
        f"transformers {found['transformers']}. Energy: {found['energy']}."
    )


def report(results: Path = RESULTS) -> str:
    """The part of the README.

    Raises:
        ValueError: If nothing was measured yet.
    """
    if not (results / "efficiency.json").exists():
        raise ValueError(f"there is no efficiency.json in {results}: run `make bench` first")
    record = read(results / "efficiency.json")
    parts = [source(record), HOW_TO_READ]
    for run in runs_from(record):
        parts += [title(run), *filter(None, [busy(run)]), measured_table(run), limit_table(run)]
    parts.append("![First token and tokens per second](examples/results/efficiency.png)")
    parts += [ON_THE_PAPER, paper_table()]
    for name, subject, table, picture in FURTHER:
        path = results / f"{name}.json"
        if path.exists():
            record = read(path)
            parts += [f"{subject}: {source(record)}", table(runs_from(record))]
            parts += [picture] if picture else []
    return "\n\n".join(parts)


def read(path: Path) -> dict[str, Any]:
    """A record."""
    return json.loads(path.read_text(encoding="utf-8"))


main = partial(write_report, BLOCK, report)


if __name__ == "__main__":
    main()
