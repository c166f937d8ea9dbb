"""The efficiency comparison as pictures: bars as of the paper's Table 2, and its Figure 1 of time by input length.

What draws is an optional package, imported when it is used.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from encdec_slm.benchmarks.compare import Result
from encdec_slm.benchmarks.efficiency_tables import Run, all_rows, title


def refuse_without_matplotlib() -> None:
    """Refuses to begin what could not be drawn in the end.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "--output draws with matplotlib, which is not installed: pip install 'encdec-slm[benchmarks]'"
        ) from error


def draw(runs: Sequence[Run], output: Path) -> list[Path]:
    """Draws the pictures of a comparison, and returns where they are.

    Args:
        runs: All inputs.
        output: The record beside which they are put: `x.json` gives `x.png` of bars, and `x_by_length.png` if there is
            more than one length.
    """
    bars = output.with_suffix(".png")
    draw_bars(runs, bars)
    if len({run.shape.input_length for run in runs}) < 2:
        return [bars]
    lines = bars.with_stem(f"{bars.stem}_by_length")
    draw_lengths(runs, lines)
    return [bars, lines]


def draw_bars(runs: Sequence[Run], path: Path) -> None:
    """Draws a row for each input: milliseconds until the first token, and tokens per second after it, of all rows."""
    from matplotlib import pyplot as plt

    heights = [0.9 + 0.28 * len(run.results) for run in runs]
    figure, axes = plt.subplots(
        len(runs), 2, figsize=(10, sum(heights)), height_ratios=heights, layout="constrained", squeeze=False
    )
    measures: tuple[tuple[str, Callable[[Result, Run], float]], ...] = (
        ("first token, ms", lambda one, run: 1e3 * one.answers.first_token_seconds),
        ("tokens/s", lambda one, run: all_rows(run, one.answers.tokens_per_second)),
    )
    for row, run in zip(axes, runs, strict=True):
        for axis, (name, value) in zip(row, measures, strict=True):
            names = [one.answers.name if axis is row[0] else "" for one in run.results]
            bars = axis.barh(range(len(names)), [value(one, run) for one in run.results], color=_colors(run))
            axis.set_yticks(range(len(names)), names)
            axis.bar_label(bars, fmt="{:,.3g}" if name == "tokens/s" else "{:,.0f}", padding=2, fontsize=8)
            axis.set_title(f"{name} ({title(run)})" if axis is row[0] else name, loc="left", fontsize=9)
            axis.invert_yaxis()
            axis.margins(x=0.15)
            axis.tick_params(labelsize=8)
            axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, backend="agg")
    plt.close(figure)


def _colors(run: Run) -> list[str]:
    return ["C0" if index == 0 else "C7" for index in range(len(run.results))]


def draw_lengths(runs: Sequence[Run], path: Path) -> None:
    """Draws seconds against input length, on the left until the first token, on the right of the whole answer."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    measures: tuple[tuple[str, Callable[[Result, Run], float]], ...] = (
        ("first token, s", lambda one, run: one.answers.first_token_seconds),
        ("whole answer, s", lambda one, run: one.answers.answer_seconds(run.shape.new_tokens)),
    )
    lines = {(run.dtype, run.shape.batch_size, one.answers.name) for run in runs for one in run.results}
    for axis, (name, value) in zip(axes, measures, strict=True):
        for dtype, batch_size, model in sorted(lines):
            points = sorted(
                (run.shape.input_length, value(one, run))
                for run in runs
                for one in run.results
                if (run.dtype, run.shape.batch_size, one.answers.name) == (dtype, batch_size, model)
            )
            axis.plot(*zip(*points, strict=True), "o-", label=f"{model}, {dtype}, batch {batch_size}", markersize=4)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        lengths = sorted({run.shape.input_length for run in runs})
        axis.set_xticks(lengths, [f"{length:,}" for length in lengths], fontsize=8)
        axis.set_xlabel("tokens in", fontsize=9)
        axis.set_title(name, loc="left", fontsize=10)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=120, backend="agg")
    plt.close(figure)
