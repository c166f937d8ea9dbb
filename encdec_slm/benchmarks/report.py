"""Measurements as a Markdown table and as JSON, with the conditions that they were made under."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
import transformers

from encdec_slm.benchmarks.decoding import Measurement
from encdec_slm.processor_name import processor_name


def conditions() -> dict[str, Any]:
    """Returns what a reader must know of the machine and the software to judge a speed."""
    return {
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def table(measurements: list[Measurement]) -> str:
    """Returns a Markdown table of medians; the last two columns divide the first row's time by this row's.

    A ratio under 1 means that the first model, the one under test, is faster. Processor time stands beside the wall
    clock: where it is much less, something else held the machine.
    """
    subject = measurements[0]
    rows = [
        "| model | parameters | first token ms (processor) | tokens/s | ms/token (processor) | first token ratio "
        "| ms/token ratio |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    rows += [
        f"| {row.name} | {row.parameters:,} "
        f"| {row.first_token_seconds * 1e3:.0f} ({row.processor_first_token_seconds * 1e3:.0f}) "
        f"| {row.tokens_per_second:.1f} "
        f"| {row.seconds_per_token * 1e3:.2f} ({row.processor_seconds_per_token * 1e3:.2f}) "
        f"| {subject.first_token_seconds / row.first_token_seconds:.3f} "
        f"| {subject.seconds_per_token / row.seconds_per_token:.3f} |"
        for row in measurements
    ]
    return "\n".join(rows)


def record(measurements: Sequence[Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Returns everything measured, call by call, with its settings and conditions, for JSON.

    Args:
        measurements: Dataclasses of numbers and texts.
        settings: What the measurement was asked for.
    """
    return {
        "settings": settings,
        "conditions": conditions(),
        "measurements": [asdict(measurement) for measurement in measurements],
    }
