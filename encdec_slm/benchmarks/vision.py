"""What an image costs: first token, memory and every token after it, beside a decoder-only model of equal size.

    python -m encdec_slm.benchmarks.vision
    python -m encdec_slm.benchmarks.vision --preset 330m

Both read the same views through one vision tower and get the same number of tokens from it: all patches, or a quarter
of them by pixel shuffle. The encoder-decoder is asked a third time with all tokens, of whose states its decoder reads
the averages of four. Weights and pixels are random: speed and memory need no others, and answers mean nothing here.

The second table holds what is counted against what is timed. A decoder on one thread has to read its weights and its
cache for every token, so that a token should take longer by as much as there are more bytes to read.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging

from encdec_slm.benchmarks.counting import TokenCost, TokenCounter
from encdec_slm.benchmarks.decoding import Measurement, answer, take_turns
from encdec_slm.benchmarks.memory import cache_bytes, peak_bytes, weight_bytes
from encdec_slm.benchmarks.report import record
from encdec_slm.benchmarks.timing import ModuleClock
from encdec_slm.benchmarks.vision_models import FACTOR, OURS, Case, Question, cases, part


MODEL_TYPE = "encdec_slm_vision"
# of about the size of the text model; larger presets have the default, CLIP ViT-L/14 at 336 pixels
TOWERS = {
    "tiny": {
        "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 56, "patch_size": 14,
    },
    # ViT-S
    "small": {
        "model_type": "clip_vision_model", "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12,
        "num_attention_heads": 6, "image_size": 336, "patch_size": 14,
    },
}  # fmt: skip
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What was counted of one case, and is the same in every run.

    Attributes:
        weight_bytes: All weights of the model.
        peak_bytes: What is allocated on top of them while it answers, at most.
        cache_bytes: Keys and values after the first two tokens, the second of which is not in it yet.
        first_token: What the first token took.
        next_token: What the one after it took.
    """

    weight_bytes: int
    peak_bytes: int
    cache_bytes: int
    first_token: TokenCost
    next_token: TokenCost

    @property
    def token_bytes(self) -> int:
        """Bytes that have to be read for a token after the first: weights, keys and values."""
        return self.next_token.weight_bytes + self.cache_bytes


@dataclass(frozen=True, kw_only=True)
class ImageMeasurement:
    """What was counted and timed of one case.

    Attributes:
        family: Which of the two architectures.
        image_tokens: Tokens of all images in the input.
        image_states: How many states of them a decoder reads for every token that it writes.
        counts: Bytes and operations.
        answers: Times of the whole answer, call by call.
        tower_seconds: Of these the vision tower's, call by call, by the wall clock and by processor time; zero
            without images.
    """

    family: str
    image_tokens: int
    image_states: int
    counts: Counts
    answers: Measurement
    tower_seconds: tuple[tuple[float, ...], ...]

    @property
    def tower_median(self) -> float:
        """Median of the tower's seconds, by processor time."""
        return statistics.median(processor for _, processor in self.tower_seconds)

    @property
    def rest_median(self) -> float:
        """Median of the seconds until the first token without the tower's, by processor time."""
        calls = zip(self.answers.processor, self.tower_seconds, strict=True)
        return statistics.median(whole.first_token_seconds - tower for whole, (_, tower) in calls)


def configurations(preset: str) -> dict[str, Any]:
    """Returns the configurations of a named size: `plain`, `compressed` by pixel shuffle, and `pooled`."""
    text: Any = CONFIG_MAPPING["encdec_slm"]
    text_config = text.from_preset(preset)
    # every image is one view, so that the peer can be given exactly the same
    fields = {
        "vision_config": TOWERS.get(preset),
        "image_token_id": text_config.vocab_size - 1,
        "image_grid_pinpoints": [],
    }
    changes: dict[str, dict[str, Any]] = {
        "plain": {},
        "compressed": {"image_token_compression": "pixel_shuffle", "pixel_shuffle_factor": FACTOR},
        "pooled": {"image_state_pooling": FACTOR**2},
    }
    vision: Any = CONFIG_MAPPING[MODEL_TYPE]
    return {name: vision.from_text_config(text_config, **fields, **changed) for name, changed in changes.items()}


def measure(
    asked: list[Case], *, new_tokens: int, repeats: int, report: Callable[[str], None]
) -> list[ImageMeasurement]:
    """Counts what the cases take, which warms them up, and times them in turns.

    Args:
        asked: The cases; those with images have a model each, since calls of its tower are told apart by it.
        new_tokens: Tokens that are written, at least 2.
        repeats: Turns. The medians of so many calls are compared.
        report: Called with a line for each case that is counted, and for each turn.
    """
    counts = []
    for case in asked:
        counts.append(count(case))
        report(f"counted: {case.contestant.name}")
    with ExitStack() as entered:
        clocks = [
            entered.enter_context(ModuleClock(part(case.contestant.model, "vision_tower")))
            if case.image_tokens
            else None
            for case in asked
        ]
        contestants = [case.contestant for case in asked]
        answers = take_turns(contestants, new_tokens=new_tokens, repeats=repeats, report=report)
    return [
        ImageMeasurement(
            family=case.family,
            image_tokens=case.image_tokens,
            image_states=case.image_states,
            counts=counted,
            answers=times,
            tower_seconds=tuple(clock.seconds) if clock else ((0.0, 0.0),) * repeats,
        )
        for case, counted, times, clock in zip(asked, counts, answers, clocks, strict=True)
    ]


def count(case: Case) -> Counts:
    """Counts bytes and operations of one case while it writes two tokens."""
    model, counter = case.contestant.model, TokenCounter()
    cached: list[int] = []

    def run() -> None:
        with counter:
            output = answer(case.contestant, 2, streamer=counter, return_dict_in_generate=True)
        cached.append(cache_bytes(output.past_key_values))

    peak = peak_bytes(run, model.device)
    first_token, next_token = counter.costs
    return Counts(
        weight_bytes=weight_bytes(model),
        peak_bytes=peak,
        cache_bytes=cached[0],
        first_token=first_token,
        next_token=next_token,
    )


def first_token_table(measurements: Sequence[ImageMeasurement]) -> str:
    """Returns the Markdown table of the first token and of memory.

    The ratio is the time of the encoder-decoder with as many image tokens, none of its states averaged, divided by
    this row's: under 1 the encoder-decoder is faster. Like all but the time in front of the parentheses it is of
    processor time, which other work on the machine lengthens less.
    """
    lines = [
        "| model | parameters | image tokens | tower ms | rest ms | first token ms (processor) | ratio | GFLOP "
        "| memory MiB | of it weights | cache MiB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in measurements:
        times, seconds = row.answers, row.answers.processor_first_token_seconds
        ours = _ours(measurements, row.image_tokens).answers.processor_first_token_seconds
        lines.append(
            f"| {_name(row)} | {times.parameters:,} | {row.image_tokens:,} | {row.tower_median * 1e3:,.0f} "
            f"| {row.rest_median * 1e3:,.0f} | {times.first_token_seconds * 1e3:,.0f} ({seconds * 1e3:,.0f}) "
            f"| {ours / seconds:.3f} | {row.counts.first_token.flops / 1e9:,.1f} "
            f"| {(row.counts.weight_bytes + row.counts.peak_bytes) / MIB:,.0f} | {row.counts.weight_bytes / MIB:,.0f} "
            f"| {row.counts.cache_bytes / MIB:,.1f} |"
        )
    return "\n".join(lines)


def next_token_table(measurements: Sequence[ImageMeasurement]) -> str:
    """Returns the Markdown table of a token after the first: what is timed, and what bytes and operations explain.

    Growth is over the same architecture without images, of processor time, of bytes and of operations; the ratio is
    that of the first table.
    """
    lines = [
        "| model | image tokens | states read | ms/token (processor) | ratio | growth | MiB read | growth | MFLOP "
        "| growth |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in measurements:
        text = next(one for one in measurements if one.family == row.family and not one.image_tokens)
        seconds = row.answers.processor_seconds_per_token
        ours = _ours(measurements, row.image_tokens).answers.processor_seconds_per_token
        lines.append(
            f"| {_name(row)} | {row.image_tokens:,} | {row.image_states:,} "
            f"| {row.answers.seconds_per_token * 1e3:.2f} ({seconds * 1e3:.2f}) | {ours / seconds:.3f} "
            f"| {_growth(seconds, text.answers.processor_seconds_per_token)} | {row.counts.token_bytes / MIB:,.1f} "
            f"| {_growth(row.counts.token_bytes, text.counts.token_bytes)} | {row.counts.next_token.flops / 1e6:,.1f} "
            f"| {_growth(row.counts.next_token.flops, text.counts.next_token.flops)} |"
        )
    return "\n".join(lines)


def _name(row: ImageMeasurement) -> str:
    return f"{row.family}, states averaged" if row.image_states < row.image_tokens else row.family


def _ours(measurements: Sequence[ImageMeasurement], image_tokens: int) -> ImageMeasurement:
    return next(row for row in measurements if row.family == OURS and row.image_tokens == image_tokens)


def _growth(value: float, base: float) -> str:
    return f"{100 * (value / base - 1):+.1f} %"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m encdec_slm.benchmarks.vision",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", default="small", help="named size of the text model (default: %(default)s)")
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=1, help="threads of one operation (default: %(default)s)")
    parser.add_argument("--views", type=int, default=4, help="square views of the image (default: %(default)s)")
    parser.add_argument("--text-tokens", type=int, default=64, help="tokens of the question (default: %(default)s)")
    parser.add_argument("--new-tokens", type=int, default=32, help="tokens written (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="turns, of which the medians count")
    parser.add_argument("--output", type=Path, help="file for everything measured, as JSON")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints the tables, and writes the record.

    Args:
        argv: Command line arguments; those of the process by default.
    """
    options = parse(argv)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    logging.set_verbosity_error()
    configs = configurations(options.preset)
    question = Question(views=options.views, text_tokens=options.text_tokens)
    records = []
    for dtype in options.dtype:
        measurements = measure(
            cases(configs, question, dtype),
            new_tokens=options.new_tokens,
            repeats=options.repeats,
            report=lambda line: print(line, file=sys.stderr),
        )
        title = f"{options.preset}, {dtype}"
        print(
            f"\n{title}: {options.views} views, {options.text_tokens} tokens of text, {options.new_tokens} out, "
            f"{options.threads} thread(s)\n\n{first_token_table(measurements)}\n\n{next_token_table(measurements)}"
        )
        settings = {**vars(options), "dtype": dtype, "title": title}
        # where the record goes is no condition of it
        del settings["output"]
        records.append(record(measurements, settings))
    if options.output:
        options.output.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
