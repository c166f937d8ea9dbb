"""Writes what `quantization_report.py` has found into the README, between its markers `quantization`.

    python examples/quantization_report.py
    python examples/quantization_table.py

Reads `quantization.json` out of examples/results.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from readme_blocks import RESULTS, write_report


QUANTIZATION = RESULTS / "quantization.json"
BLOCK = "quantization"
# what 4 bits may cost
MOST_POINTS = 1.0
HOW_TO_READ = """\
The demo's student; all are asked the same words, which no training has seen, greedily, in batches. Log-probabilities
are of all tokens of the first {forced} right answers, in nats, beside float32's; ROUGE-L and its difference are points
of 100. "End layers" are the first and the last of encoder and decoder. Embeddings stay in float32 in PyTorch, and have
8 bits in what is exported in 8 or 4. First token and time of a token are medians of turns, {input_length} tokens in,
{new_tokens} out.
CTranslate2 keeps no layers: it computes all in one type."""


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown; the first is what others are compared with."""
    lines = [
        "| weights | MiB | log-probability off by, mean | most | answers equal | phonemes wrong | words wrong "
        "| ROUGE-L | beside float32 | first token ms | ms/token |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        shares = " | ".join(f"{row[name]:.4f}" for name in ("answers_equal", "phonemes_wrong", "words_wrong"))
        times = " | ".join(
            "-" if row[name] is None else f"{row[name]:.2f}" for name in ("first_token_ms", "ms_per_token")
        )
        lines.append(
            f"| {row['name']} | {row['megabytes']:.2f} | {row['mean_error']:.2g} | {row['largest_error']:.2g} "
            f"| {shares} | {row['rouge_l']:.2f} | {points(row, rows):+.2f} | {times} |"
        )
    return "\n".join(lines)


def points(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> float:
    """Points of ROUGE-L over those of float32."""
    return row["rouge_l"] - rows[0]["rouge_l"]


def goal(rows: Sequence[dict[str, Any]]) -> str:
    """Which models in 4 bits lose no more than they may."""
    said = [
        f"{row['name']} {'yes' if points(row, rows) >= -MOST_POINTS else 'no'} ({points(row, rows):+.2f})"
        for row in rows
        if "int4" in row["name"]
    ]
    return f"At most {MOST_POINTS:g} point of ROUGE-L below float32 in 4 bits: {'; '.join(said) or 'none was asked'}."


def command(settings: dict[str, Any]) -> str:
    """What was run, of what is not a default there."""
    only = [f"--only {' '.join(repr(name) for name in settings['only'])}"] if settings["only"] else []
    flags = [f"--{name} {settings[name]}" for name in ("model", "test_words", "threads", "repeats")]
    return " ".join(["python examples/quantization_report.py", *flags, *only])


def report(results: Path = RESULTS) -> str:
    """The part of the README.

    Raises:
        ValueError: If nothing was measured yet.
    """
    path = results / QUANTIZATION.name
    if not path.exists():
        raise ValueError(f"there is no {path.name} in {results}: run examples/quantization_report.py first")
    record = json.loads(path.read_text(encoding="utf-8"))
    rows, settings = record["rows"], record["settings"]
    return "\n\n".join(
        [
            f"`{command(settings)}`: {record['words']:,} words, {record['machine']}.",
            HOW_TO_READ.format(forced=min(200, record["words"]), **settings),
            table(rows),
            goal(rows),
        ]
    )


main = partial(write_report, BLOCK, report)


if __name__ == "__main__":
    main()
