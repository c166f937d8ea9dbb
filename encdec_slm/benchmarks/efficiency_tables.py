"""The efficiency comparison for readers: Markdown tables of what was measured, beside what the machine allows."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from encdec_slm.benchmarks.compare import Result, Shape, Work
from encdec_slm.benchmarks.cost_model import Limit, Rates
from encdec_slm.benchmarks.decoding import Measurement
from encdec_slm.benchmarks.model_choice import DECODER_ONLY
from encdec_slm.benchmarks.timing import Latency


MIB = 2**20
ABSENT = "-"
# one thread of a quiet machine: the clock on the wall and that of the processor agree
MOST_WALL_PER_PROCESSOR = 1.1


@dataclass(frozen=True, kw_only=True)
class Run:
    """All models with one input.

    Attributes:
        dtype: Of the weights.
        shape: The input.
        results: Of the models.
    """

    dtype: str
    shape: Shape
    results: tuple[Result, ...]

    @property
    def peer(self) -> Result:
        """What the others are compared with: the decoder-only model, or else the last one."""
        return next((one for one in self.results if one.answers.name == DECODER_ONLY), self.results[-1])

    def to_dict(self) -> dict[str, Any]:
        """Returns it for JSON."""
        return asdict(self)


def runs_from(record: dict[str, Any]) -> list[Run]:
    """Returns the runs of a record of `encdec-slm benchmark`."""
    return [run_from(one) for one in record["runs"]]


def run_from(record: dict[str, Any]) -> Run:
    """Returns what `Run.to_dict` made JSON of."""
    results = tuple(result_from(one) for one in record["results"])
    return Run(dtype=record["dtype"], shape=Shape(**record["shape"]), results=results)


def result_from(record: dict[str, Any]) -> Result:
    """Returns a result, read back from JSON."""
    answers, least = record["answers"], record["limit"]
    clocks = {clock: tuple(Latency(**call) for call in answers[clock]) for clock in ("wall", "processor")}
    return Result(
        source=record["source"],
        attention=record["attention"],
        answers=Measurement(**{**answers, **clocks, "joules": tuple(answers["joules"])}),
        work=Work(**record["work"]) if record["work"] else None,
        peak_bytes=record["peak_bytes"],
        limit=Limit(**{**least, "rates": Rates(**least["rates"])}) if least else None,
    )


def title(run: Run) -> str:
    """Returns what was asked, in words."""
    rows = "" if run.shape.batch_size == 1 else f"{run.shape.batch_size} rows, "
    return f"{run.dtype}: {rows}{run.shape.input_length:,} tokens in, {run.shape.new_tokens:,} out"


def all_rows(run: Run, rate: float) -> float:
    """Returns the tokens per second of all rows, from those of one: a step gives a token to each."""
    return run.shape.batch_size * rate


def busy(run: Run) -> str:
    """Returns a warning if something else held the processor while one thread was timed, and nothing if not."""
    shares = [one.answers.seconds_per_token / one.answers.processor_seconds_per_token for one in run.results]
    if max(shares) <= MOST_WALL_PER_PROCESSOR:
        return ""
    return (
        f"The machine was busy: a token took up to {max(shares):.1f} times as long as its processor worked for it. "
        "These times are not to be quoted."
    )


def measured_table(run: Run) -> str:
    """Returns the Markdown table of times, memory, operations and energy.

    Times are medians, with the least and the greatest in parentheses. "x" divides by the decoder-only model's: under 1
    is faster for the first token, over 1 for tokens per second, which are those of all rows.
    """
    lines = [
        "| model | parameters | first token, ms | x | tokens/s | x | whole answer, s | memory, MiB | cache, MiB "
        "| GFLOP | x | joules |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [_measured_row(one, run) for one in run.results]
    return "\n".join(lines)


def _measured_row(one: Result, run: Run) -> str:
    answers, peer = one.answers, run.peer.answers
    first = [1e3 * call.first_token_seconds for call in answers.wall]
    rates = [all_rows(run, 1 / call.seconds_per_token) for call in answers.wall]
    cells = [
        answers.name,
        f"{answers.parameters:,}" if answers.parameters is not None else ABSENT,
        f"{spread_of(first, 1e3 * answers.first_token_seconds)}",
        f"{answers.first_token_seconds / peer.first_token_seconds:.2f}",
        f"{spread_of(rates, all_rows(run, answers.tokens_per_second))}",
        f"{answers.tokens_per_second / peer.tokens_per_second:.2f}",
        f"{answers.answer_seconds(run.shape.new_tokens):.3g}",
        f"{one.peak_bytes / MIB:,.0f}",
        f"{one.work.cache_bytes / MIB:,.1f}" if one.work else ABSENT,
        f"{one.work.answer_flops / 1e9:,.4g}" if one.work else ABSENT,
        f"{one.work.answer_flops / run.peer.work.answer_flops:.3f}" if one.work and run.peer.work else ABSENT,
        f"{statistics.median(answers.joules):.3g}" if answers.joules else ABSENT,
    ]
    return f"| {' | '.join(cells)} |"


def spread_of(values: Sequence[float], median: float) -> str:
    """Returns a median, the least and the greatest, in three digits or as many as they have before the point.

    Example:
        >>> spread_of([1502.2, 1542.1, 9.876], 1502.2)
        '1,502 (9.88 to 1,542)'
    """
    return f"{_digits(median)} ({_digits(min(values))} to {_digits(max(values))})"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def limit_table(run: Run) -> str:
    """Returns the Markdown table of the cost model: what a token takes, what the machine allows, what was measured."""
    lines = [
        "| model | a token reads, MiB | memory, GB/s | possible, tokens/s | measured | of it | products, GFLOP/s "
        "| possible first token, ms | measured | of it |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in run.results:
        if one.limit is None:
            continue
        answers, least = one.answers, one.limit
        lines.append(
            f"| {answers.name} | {least.token_bytes / MIB:,.1f} | {least.rates.bytes_per_second / 1e9:.1f} "
            f"| {_digits(all_rows(run, least.tokens_per_second))} "
            f"| {_digits(all_rows(run, answers.tokens_per_second))} "
            f"| {least.seconds_per_token / answers.seconds_per_token:.0%} "
            f"| {least.rates.flops_per_second / 1e9:,.0f} "
            f"| {_digits(1e3 * least.first_token_seconds)} | {_digits(1e3 * answers.first_token_seconds)} "
            f"| {least.first_token_seconds / answers.first_token_seconds:.0%} |"
        )
    return "\n".join(lines)


def lengths_table(runs: Sequence[Run]) -> str:
    """Returns a Markdown table with a row for each input: seconds until the first token, and of the whole answer."""
    names = list(dict.fromkeys(one.answers.name for run in runs for one in run.results))
    lines = [
        "| input | " + " | ".join(f"{name}: first token, s | whole answer, s" for name in names) + " |",
        "|---|" + "---:|---:|" * len(names),
    ]
    for run in runs:
        found = {one.answers.name: one.answers for one in run.results}
        cells = [
            f"{_digits(found[name].first_token_seconds)} | {_digits(found[name].answer_seconds(run.shape.new_tokens))}"
            if name in found
            else f"{ABSENT} | {ABSENT}"
            for name in names
        ]
        lines.append(f"| {title(run)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def all_tables(runs: Sequence[Run]) -> str:
    """Returns the tables of all inputs."""
    parts = []
    for run in runs:
        parts += [title(run), busy(run), measured_table(run), limit_table(run)]
    parts = [part for part in parts if part]
    if len(runs) > 1:
        parts.append(lengths_table(runs))
    return "\n\n".join(parts)
