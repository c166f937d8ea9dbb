"""Writes what `engine_speed.py` has measured into the README, between its markers `engines`.

    python examples/engine_speed.py --preset 330m --input-lengths 512 64 1024 --memory --threads 1
    python examples/engine_speed_report.py

Reads the largest size of which there is a record in examples/results. The first table has the medians; the second
holds them to goals, each a quotient of two contestants that took turns, beside the errors of their logits.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from readme_blocks import RESULTS, write_report


RECORDS = ("engine_speed_330m.json", "engine_speed_small.json")
BLOCK = "engines"
HOW_TO_READ = """\
All answer the same random input in turns, one row greedily; medians, processor time in parentheses. Ratios are to
the T5 of Transformers, of the same shape, in float32. The error is the largest difference of a logit from the same
model in float32 (in CTranslate2 of a log-probability), for random inputs. Memory is the highest of a process of its
own while it answers, over the same process before it had a model. The decoder-only model has as many parameters."""
ON_BFLOAT16 = """\
This processor has no instructions for bfloat16: what is computed in it is slower than in float32 here, and quotients
of it say nothing of processors that have them."""
# the sizes and lengths that the goals are for
GOALS_PRESET, GOALS_LENGTH = "330m", 512

EXPORTED = ("ONNX Runtime", "CTranslate2")
EXPORTED_INT8 = tuple(f"{engine} int8" for engine in EXPORTED)
PYTORCH_INT8 = ("PyTorch int8", "PyTorch bfloat16-int8")
INT4 = ("ONNX Runtime int4", "ONNX Runtime int4, head int4", "PyTorch int4")
PYTORCH_BFLOAT16 = ("PyTorch bfloat16", "PyTorch bfloat16-mv")

Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Goal:
    """A quotient and what it should be.

    Attributes:
        text: What it is of.
        quantity: Field of a measurement.
        ours: Names; the one that decodes fastest counts.
        beside: Names, the same way.
        at_most: Whether it should be small, else large.
        bound: How small, or how large.
    """

    text: str
    quantity: str
    ours: tuple[str, ...]
    beside: tuple[str, ...]
    at_most: bool
    bound: float


DECODE, FIRST, MEMORY = "tokens_per_second", "first_token_ms", "peak_bytes"
GOALS = (
    Goal("int8, best export: tokens/s", DECODE, EXPORTED_INT8, ("T5 float32",), False, 4.0),
    Goal("int8, best export: first token", FIRST, EXPORTED_INT8, ("T5 bfloat16",), True, 0.7),
    Goal("int4: tokens/s", DECODE, INT4, (*EXPORTED_INT8, *PYTORCH_INT8), False, 1.3),
    Goal("int4: first token", FIRST, INT4, (*EXPORTED_INT8, *PYTORCH_INT8), True, 1.0),
    Goal("bfloat16 in PyTorch: tokens/s", DECODE, PYTORCH_BFLOAT16, ("T5 bfloat16",), False, 1.5),
    Goal("int8 in PyTorch: tokens/s", DECODE, PYTORCH_INT8, ("CTranslate2 int8",), False, 0.9),
    *(
        Goal(f"beside decoder-only: {text}", quantity, (name,), (f"decoder-only, {name}",), at_most, bound)
        for name in ("ONNX Runtime fp32", "ONNX Runtime int8", "ONNX Runtime int4")
        for text, quantity, at_most, bound in (("tokens/s", DECODE, False, 2.5), ("first token", FIRST, True, 0.65))
    ),
    Goal("int8, best export: memory", MEMORY, EXPORTED_INT8, ("PyTorch bfloat16",), True, 0.6),
)
GROWTH_LENGTHS, GROWTH_BOUND = (1024, 64), 1.15
FLOAT32_ERROR = 1e-4


def table(rows: Rows) -> str:
    """The measurements as Markdown, one table; ratios are to the first row of a length with a float32 T5, if any."""
    lines = [
        "| contestant | input | turns | first token ms (processor) | x | tokens/s | x | ms/token (processor) "
        "| logit error | memory, MiB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        base = next((one for one in at_length(rows, row["input_length"]) if one["name"] == "T5 float32"), None)
        first, decode = (
            "-" if base is None else f"{row[quantity] / base[quantity]:.2f}" for quantity in (FIRST, DECODE)
        )
        lines.append(
            f"| {row['name']} | {row['input_length']} | {len(row['calls']['wall'])} "
            f"| {row['first_token_ms']:,.0f} ({row['first_token_cpu_ms']:,.0f}) | {first} "
            f"| {row['tokens_per_second']:.1f} | {decode} | {row['ms_per_token']:.2f} ({row['cpu_ms_per_token']:.2f}) "
            f"| {error(row)} | {'-' if row['peak_bytes'] is None else f'{row[MEMORY] / 2**20:,.0f}'} |"
        )
    return "\n".join(lines)


def at_length(rows: Rows, length: int) -> Rows:
    """The measurements at one length."""
    return [row for row in rows if row["input_length"] == length]


def error(row: dict[str, Any]) -> str:
    """How far the logits of a contestant are off."""
    return f"{row['logit_error']:.2g}"


def fastest(rows: Rows, names: Sequence[str]) -> dict[str, Any] | None:
    """The row of the contestant that decodes fastest, of those named; None if none of them took part."""
    return max((row for row in rows if row["name"] in names), key=lambda row: row[DECODE], default=None)


def goals_table(rows: Rows) -> str:
    """The goals that the measurements tell something about, as Markdown; all but the growth at the first length.

    They are for the preset `330m` and an input of 512 tokens.
    """
    lines = [
        "| goal | ours | logit error | beside | logit error | quotient | wanted | met |",
        "|---|---|---:|---|---:|---:|---:|---|",
    ]
    first = at_length(rows, rows[0]["input_length"])
    for goal in GOALS:
        ours, beside = fastest(first, goal.ours), fastest(first, goal.beside)
        if ours and beside and None not in (ours[goal.quantity], beside[goal.quantity]):
            lines.append(line(goal.text, ours, beside, goal.quantity, goal.at_most, goal.bound))
    lines += growth_lines(rows)
    lines += [
        f"| float32 in ONNX Runtime: logits | {row['name']} | {error(row)} | - | - | - | at most {FLOAT32_ERROR:g} "
        f"| {said(row['logit_error'] <= FLOAT32_ERROR)} |"
        for row in first
        if row["name"] == "ONNX Runtime fp32"
    ]
    return "\n".join(lines)


def line(text: str, ours: dict[str, Any], beside: dict[str, Any], quantity: str, at_most: bool, bound: float) -> str:
    """A goal as a line of the table."""
    quotient = ours[quantity] / beside[quantity]
    met = quotient <= bound if at_most else quotient >= bound
    return (
        f"| {text} | {ours['name']} | {error(ours)} | {beside['name']} | {error(beside)} | {quotient:.3f} "
        f"| {'at most' if at_most else 'at least'} {bound} | {said(met)} |"
    )


def said(met: bool) -> str:
    """Yes or no."""
    return "yes" if met else "no"


def growth_lines(rows: Rows) -> list[str]:
    """How the time of a token grows with the input, for the contestant of ours where it grows most."""
    many, few = ({row["name"]: row for row in at_length(rows, length)} for length in GROWTH_LENGTHS)
    names = [name for name in many if name in few and not name.startswith(("T5 ", "decoder-only"))]
    if not names:
        return []
    worst = max(names, key=lambda name: many[name]["ms_per_token"] / few[name]["ms_per_token"])
    text = f"time of a token, {GROWTH_LENGTHS[0]:,} tokens beside {GROWTH_LENGTHS[1]}: the worst of {len(names)}"
    return [line(text, many[worst], few[worst], "ms_per_token", True, GROWTH_BOUND)]


def command(settings: dict[str, Any]) -> str:
    """What was run, of what is not a default there."""
    parts = ["python", "examples/engine_speed.py", "--preset", settings["preset"]]
    for name in ("input_lengths", "new_tokens", "repeats", "seconds", "threads", "only"):
        value = settings.get(name)
        if value is not None:
            values = value if isinstance(value, list) else [f"{value:g}" if isinstance(value, float) else value]
            parts += [f"--{name.replace('_', '-')}", *map(str, values)]
    return shlex.join([*parts, *(["--memory"] if settings["memory"] else [])])


def report(results: Path = RESULTS) -> str:
    """The part of the README.

    Raises:
        ValueError: If nothing was measured yet.
    """
    path = next((results / name for name in RECORDS if (results / name).exists()), None)
    if path is None:
        raise ValueError(f"there is none of {', '.join(RECORDS)} in {results}: run examples/engine_speed.py first")
    record = json.loads(path.read_text(encoding="utf-8"))
    rows, found = record["measurements"], record["conditions"]
    where = f"{found['processor']}, {found['threads']} thread(s)"
    parts = [
        f"`{command(record['settings'])}`: {where}, torch {found['torch']}, transformers {found['transformers']}.",
        HOW_TO_READ,
    ]
    if not found.get("fast_bfloat16", True) and any("bfloat16" in row["name"] for row in rows):
        parts.append(ON_BFLOAT16)
    parts.append(table(rows))
    if (record["settings"]["preset"], rows[0]["input_length"]) == (GOALS_PRESET, GOALS_LENGTH):
        parts.append(goals_table(rows))
    return "\n\n".join(parts)


main = partial(write_report, BLOCK, report)


if __name__ == "__main__":
    main()
