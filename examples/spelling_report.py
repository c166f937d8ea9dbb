"""What the spelling-to-sound demo has found: speed, table and picture of the models that it compares."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from transformers import PreTrainedModel

from encdec_slm.benchmarks import decoding
from encdec_slm.benchmarks.report import conditions


mpl.use("Agg")

# a word of eight letters, and the token that ends it
INPUT_LENGTH = 9
NEW_TOKENS = 32
TURNS = 15
COLORS = ("C7", "C0", "C1")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A model of the comparison.

    Attributes:
        name: What table and picture call it.
        parameters: Their number.
        phoneme_error_rate: Edits per phone.
        word_error_rate: Share of words with another pronunciation than the first listed.
        any_error_rate: Share of words with another pronunciation than all listed.
        first_token_ms: Milliseconds until the first token, median.
        tokens_per_second: After the first token, median.
    """

    name: str
    parameters: int
    phoneme_error_rate: float
    word_error_rate: float
    any_error_rate: float
    first_token_ms: float
    tokens_per_second: float


@dataclass(frozen=True)
class Measure:
    """How a number of an `Entry` is shown.

    Attributes:
        attribute: Which number.
        heading: In the table.
        title: In the picture.
        style: Format of the number.
    """

    attribute: str
    heading: str
    title: str
    style: str

    def of(self, entry: Entry) -> float:
        """The number."""
        return getattr(entry, self.attribute)


MEASURES = (
    Measure("phoneme_error_rate", "phonemes wrong", "phoneme error rate", ".3f"),
    Measure("word_error_rate", "words wrong", "word error rate", ".3f"),
    Measure("first_token_ms", "first token, ms", "first token, milliseconds", ".1f"),
    Measure("tokens_per_second", "tokens/s", "tokens per second", ".0f"),
)


def compare(models: Mapping[str, PreTrainedModel], rates: Mapping[str, Mapping[str, float]]) -> list[Entry]:
    """Times the models and puts error rates and speeds together.

    Args:
        models: Models by name.
        rates: Error rates by name, see `error_rates`.
    """
    return [
        Entry(
            name=speed.name,
            parameters=speed.parameters,
            phoneme_error_rate=rates[speed.name]["phonemes"],
            word_error_rate=rates[speed.name]["words"],
            any_error_rate=rates[speed.name]["any"],
            first_token_ms=1e3 * speed.first_token_seconds,
            tokens_per_second=speed.tokens_per_second,
        )
        for speed in speeds(models)
    ]


def speeds(models: Mapping[str, PreTrainedModel]) -> list[decoding.Measurement]:
    """Lets models answer one word each in turns, greedily, with a cache, on one thread of the CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return decoding.measure(
            [decoding.Contestant(name, model.to("cpu").eval()) for name, model in models.items()],
            input_length=INPUT_LENGTH,
            new_tokens=NEW_TOKENS,
            repeats=TURNS,
            report=lambda _: None,
        )
    finally:
        torch.set_num_threads(threads)


def table(entries: Sequence[Entry]) -> str:
    """The comparison in Markdown."""
    lines = [
        "| model | parameters | " + " | ".join(measure.heading for measure in MEASURES) + " |",
        "|---|---:|" + "---:|" * len(MEASURES),
    ]
    for entry in entries:
        values = " | ".join(f"{measure.of(entry):{measure.style}}" for measure in MEASURES)
        lines.append(f"| {entry.name} | {entry.parameters:,} | {values} |")
    return "\n".join(lines)


def draw(entries: Sequence[Entry], path: Path) -> None:
    """Draws a group of bars for each measure, a bar for each model."""
    figure, axes = plt.subplots(1, len(MEASURES), figsize=(12, 3.2), layout="constrained")
    names = [f"{entry.name} {entry.parameters / 1e6:.1f}M".replace(" ", "\n") for entry in entries]
    for axis, measure in zip(axes, MEASURES, strict=True):
        bars = axis.bar(names, [measure.of(entry) for entry in entries], color=COLORS[: len(entries)])
        axis.bar_label(bars, fmt=f"{{:{measure.style}}}", padding=2)
        axis.set_title(measure.title, fontsize=10)
        axis.tick_params(axis="x", labelsize=8)
        axis.margins(y=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def write(entries: Sequence[Entry], seconds: Mapping[str, float], path: Path) -> None:
    """Writes the comparison as JSON, with the seconds of each part and what must be known of the machine."""
    record = {
        "models": [asdict(entry) for entry in entries],
        "seconds": {part: round(value, 1) for part, value in seconds.items()},
        "answers": {"input_length": INPUT_LENGTH, "new_tokens": NEW_TOKENS, "turns": TURNS, "threads": 1},
        "training": conditions(),
    }
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
