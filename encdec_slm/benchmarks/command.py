"""`encdec-slm benchmark`: the paper's Table 2 and Figure 1 for any set of models. What it needs is imported later."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


DESCRIPTION = """\
Lets models answer one random input in turns and prints what that takes: first token, tokens per second, the whole
answer, memory over that of a process without a model, keys and values, operations (counted, and by formula), energy if
the machine tells; and what the machine allows, by its measured memory bandwidth and products. A model that is faster
than the machine fails the run. The last line is everything as JSON.

Models are names of random ones of one size (encoder-decoder, and as large decoder-only with a cache, t5, t5gemma;
t5-shape has its widths and depths), folders, and ids on the Hub. The paper gives no details of its decoder-only
baseline, but 149 ms for the first token and 103 ms for each after it on one GPU look like a model without a cache.
Ours has one; --uncached adds it without.
"""
DTYPES = ("float32", "float16", "bfloat16")


def add_benchmark(commands: Any, load_exported: Callable[..., Any] | None = None) -> None:
    """Adds `benchmark` to the subcommands.

    Args:
        commands: Of `encdec-slm`.
        load_exported: Loads an exported model, of a folder and `threads`.
    """
    benchmark = commands.add_parser(
        "benchmark",
        help="compare how fast models answer, and what that takes",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    benchmark.add_argument(
        "models",
        metavar="MODEL",
        nargs="*",
        default=["encoder-decoder", "decoder-only", "t5", "t5-shape", "t5gemma"],
        help="names, folders or ids (default: all names)",
    )
    benchmark.add_argument(
        "--preset", default="330m", metavar="NAME", help="size of the named models; `overhead` (default: %(default)s)"
    )
    benchmark.add_argument("--exported", nargs="+", default=[], metavar="FOLDER", help="models of `encdec-slm export`")
    benchmark.add_argument("--uncached", action="store_true", help="each model without its cache, too")
    benchmark.add_argument("--dtype", nargs="+", default=["float32"], choices=DTYPES, help="(default: float32)")
    for flag, default, text in (
        ("--input-length", [512], "tokens read, such as 512 1024 2048 4096 8192"),
        ("--batch-size", [1], "rows at a time"),
    ):
        benchmark.add_argument(
            flag, type=_positive, nargs="+", default=default, metavar="N", help=f"{text} (default: {default[0]})"
        )
    for flag, number, text in (
        ("--new-tokens", 256, "tokens written, at least 2"),
        ("--repeats", 5, "turns, of which the medians count"),
        ("--threads", 1, "threads of one operation"),
    ):
        benchmark.add_argument(flag, type=_positive, default=number, metavar="N", help=f"{text} (default: {number})")
    benchmark.add_argument("--attention", metavar="NAME", help="such as eager or sdpa (default: each model's own)")
    benchmark.add_argument("--device", default="cpu", metavar="D", help="such as cuda:0 (default: %(default)s)")
    benchmark.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="JSON file for the record, with pictures beside it; a run that was stopped goes on from FILE's partial",
    )
    benchmark.set_defaults(run=lambda arguments: run(arguments, load_exported))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def run(arguments: argparse.Namespace, load_exported: Callable[..., Any] | None = None) -> None:
    """Measures, prints the tables and the record, and writes it with its pictures.

    Args:
        arguments: Of the command.
        load_exported: Loads an exported model.

    Raises:
        ValueError: If the models cannot be compared, or a measurement cannot be true.
        ImportError: If pictures are wanted and there is nothing that draws.
    """
    import torch
    from transformers.utils import logging

    from encdec_slm.benchmarks.efficiency_plots import draw, refuse_without_matplotlib
    from encdec_slm.benchmarks.efficiency_tables import all_tables, runs_from
    from encdec_slm.benchmarks.measuring import measure
    from encdec_slm.benchmarks.model_choice import choose

    if arguments.output:
        refuse_without_matplotlib()
    if arguments.new_tokens < 2:
        raise ValueError("--new-tokens 1 leaves no time between tokens: write 2 or more")
    candidates = choose(
        arguments.models,
        preset=arguments.preset,
        longest=max(arguments.input_length) + arguments.new_tokens,
        uncached=arguments.uncached,
        exported=arguments.exported,
        load_exported=load_exported,
    )
    torch.manual_seed(0)
    threads, verbosity = torch.get_num_threads(), logging.get_verbosity()
    torch.set_num_threads(arguments.threads)
    logging.set_verbosity_error()
    try:
        record = {"command": command_of(arguments), **measure(arguments, candidates, _report)}
    finally:
        torch.set_num_threads(threads)
        logging.set_verbosity(verbosity)
    runs = runs_from(record)
    print(f"{arguments.preset}, {arguments.threads} thread(s), {record['conditions']['processor']}\n")
    print(f"{all_tables(runs)}\n\nenergy: {record['conditions']['energy']}")
    if arguments.output:
        arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        for path in draw(runs, arguments.output):
            print(f"wrote {path}")
    print(json.dumps(record))


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def command_of(arguments: argparse.Namespace) -> str:
    """Returns the command that measures the same."""
    words = ["encdec-slm", "benchmark", *arguments.models]
    for name in ("preset", "dtype", "input_length", "batch_size", "new_tokens", "repeats", "threads", "device"):
        value = getattr(arguments, name)
        words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    words += ["--exported", *arguments.exported] if arguments.exported else []
    words += ["--attention", arguments.attention] if arguments.attention else []
    words += ["--uncached"] if arguments.uncached else []
    return shlex.join(words)
