"""One model in several engines, in turns: first token, tokens per second, error of the logits, memory.

    python examples/engine_speed.py --preset 330m --input-lengths 512 64 1024 --memory --threads 1
    python examples/engine_speed_report.py

Random weights: speed needs no checkpoint. What is exported is kept under OUTPUT/PRESET/models, each thing made once,
before anything is loaded; `--only` names contestants. Every speed stands beside the largest difference of a logit from
the same model in float32, since a path that computes something else may be very fast. At the first length all take
turns and are compared; at the others ours alone, to see how the time of a token grows with the input. A contestant
whose turns take longer than `--seconds` takes no more of them, but two at least.

The record is written after every turn. The same command goes on after a cut: lengths that are finished are not
measured again. Memory is the highest of a process of its own for each contestant while it answers at the first length,
over the same process before it had a model.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from engine_contestants import ENGINES, Place, in_pytorch, is_peer
from engine_speed_report import goals_table, table
from result_files import write_json

from encdec_slm.benchmarks.decoding import Contestant, Measurement, answer, take_turns
from encdec_slm.benchmarks.report import conditions


RESULTS = Path(__file__).parent / "results"
FEWEST_TURNS = 2
# what the measurements of a record depend on
SETTINGS = ("preset", "input_lengths", "new_tokens", "repeats", "seconds", "threads", "only", "memory")


@dataclass
class Run:
    """A contestant at work.

    Attributes:
        contestant: Model and input.
        logit_error: Of the model.
        spent: Seconds that its turns have taken.
        measurement: Of all turns so far.
    """

    contestant: Contestant
    logit_error: float
    spent: float = 0.0
    measurement: Measurement | None = None

    def turn(self, new_tokens: int) -> None:
        """Answers once."""
        began = time.perf_counter()
        (one,) = take_turns([self.contestant], new_tokens=new_tokens, repeats=1, report=lambda line: None)
        self.spent += time.perf_counter() - began
        before = self.measurement
        self.measurement = one if before is None else replace(
            one, wall=before.wall + one.wall, processor=before.processor + one.processor
        )  # fmt: skip

    @property
    def turns(self) -> int:
        """How many there were."""
        return 0 if self.measurement is None else len(self.measurement.wall)


class Record:
    """The file of the measurements, written anew whenever there is one more.

    Args:
        path: Of the file.
        settings: What all that is in it depends on.

    Raises:
        ValueError: If what is there was measured with other settings.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.settings = dict(settings)
        self.rows: list[dict[str, Any]] = []
        self.finished: list[int] = []
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if other := [name for name in settings if found["settings"].get(name) != settings[name]]:
                raise ValueError(
                    f"{path} was measured with {other[0]} {found['settings'].get(other[0])}, not "
                    f"{settings[other[0]]}: name other --results, or delete it"
                )
            self.finished = found.get("finished_lengths", [])
            self.rows = [row for row in found["measurements"] if row["input_length"] in self.finished]

    def write(self, measured: Sequence[dict[str, Any]] = ()) -> None:
        """Writes the rows of finished lengths, and those of one that is being measured."""
        where = conditions() | {"fast_bfloat16": torch.ops.mkldnn._is_mkldnn_bf16_supported()}
        content = {"settings": self.settings, "conditions": where, "finished_lengths": self.finished}
        write_json(self.path, content | {"measurements": [*self.rows, *measured]})

    def finish(self, length: int, measured: Sequence[dict[str, Any]]) -> None:
        """Keeps the rows of a length."""
        self.rows += measured
        self.finished.append(length)
        self.write()


def row(run: Run, input_length: int) -> dict[str, Any]:
    """Returns the medians of a contestant, and every call that they are of."""
    one: Any = run.measurement
    return {
        "name": one.name,
        "input_length": input_length,
        "turns": run.turns,
        "first_token_ms": 1e3 * one.first_token_seconds,
        "first_token_cpu_ms": 1e3 * one.processor_first_token_seconds,
        "tokens_per_second": one.tokens_per_second,
        "ms_per_token": 1e3 * one.seconds_per_token,
        "cpu_ms_per_token": 1e3 * one.processor_seconds_per_token,
        "logit_error": run.logit_error,
        "peak_bytes": None,
        "calls": asdict(one),
    }


def measure_length(
    entries: Mapping[str, tuple[Any, float]],
    length: int,
    arguments: argparse.Namespace,
    write: Callable[[list[dict[str, Any]]], None],
) -> list[dict[str, Any]]:
    """Lets models answer one random input in turns, after a warm-up each of as many tokens.

    Args:
        entries: Name -> model and error of its logits.
        length: Tokens of the input.
        arguments: Of the command.
        write: Called with the rows so far, after every turn.
    """
    vocab_size = min(model.config.get_text_config(decoder=True).vocab_size for model, _ in entries.values())
    input_ids = torch.randint(3, vocab_size, (1, length), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    runs = []
    for name, (model, error) in entries.items():
        contestant = Contestant(name, model, {**inputs, **ENGINES[name].generate_arguments})
        # as long as the answers are: what is compiled is compiled for a length
        answer(contestant, arguments.new_tokens)
        runs.append(Run(contestant, error))
    for turn in range(arguments.repeats):
        taking_part = [run for run in runs if turn < FEWEST_TURNS or run.spent < arguments.seconds]
        for run in taking_part:
            run.turn(arguments.new_tokens)
            write([row(one, length) for one in runs if one.turns])
        print(f"{length} tokens, turn {turn + 1} of {arguments.repeats}: {len(taking_part)} contestants", flush=True)
    return [row(run, length) for run in runs]


def load(names: Sequence[str], place: Place) -> dict[str, tuple[Any, float]]:
    """Returns models and the errors of their logits, by name."""
    entries = {}
    for name in names:
        model = ENGINES[name].load(place)
        entries[name] = model, ENGINES[name].error(place, model)
        print(f"{name}: logits are off by {entries[name][1]:.2g}", flush=True)
    return entries


def add_memory(record: Record, place: Place, length: int) -> None:
    """Measures the memory of all that were measured at a length and have none yet, a process for each."""
    for one in record.rows:
        # what is compiled holds what is not, and its process the compiler
        compiled = bool(ENGINES[one["name"]].generate_arguments)
        if one["input_length"] == length and one["peak_bytes"] is None and not compiled:
            one["peak_bytes"] = ENGINES[one["name"]].peak_bytes(place, length)
            record.write()


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="330m", help="(default: %(default)s)")
    parser.add_argument("--input-lengths", type=int, nargs="+", default=[512], metavar="N")
    parser.add_argument("--new-tokens", type=int, default=48, metavar="N")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="turns of each (default: %(default)s)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        metavar="S",
        help=f"of all turns of a contestant at a length; {FEWEST_TURNS} turns at least (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--only", nargs="+", choices=tuple(ENGINES), metavar="NAME", help=", ".join(ENGINES))
    parser.add_argument("--memory", action="store_true", help="measure that too, a process for each contestant")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/engine_speed"), metavar="DIR", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="the record, kept if it is there (default: examples/results/engine_speed_PRESET.json)",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Makes what is needed, lets the contestants take turns, writes and prints what the clocks said.

    Args:
        argv: Command line arguments; those of the process by default.
    """
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    place = Place(arguments.output / arguments.preset, arguments.preset, arguments.threads)
    path = arguments.results or RESULTS / f"engine_speed_{arguments.preset}.json"
    record = Record(path, {name: getattr(arguments, name) for name in SETTINGS})
    names = [name for name in ENGINES if name in (arguments.only or ENGINES)]
    entries: dict[str, tuple[Any, float]] = {}
    for length in arguments.input_lengths:
        if length in record.finished:
            print(f"{length} tokens: done already")
            continue
        wanted = [name for name in names if length == arguments.input_lengths[0] or not is_peer(name)]
        if not entries:
            for name in wanted:
                ENGINES[name].make(place)
                # what an exporter has held
                gc.collect()
            entries = load(wanted, place)
        entries = {name: entries[name] for name in wanted}
        gc.collect()
        record.finish(length, measure_length(entries, length, arguments, record.write))
    entries.clear()
    in_pytorch.cache_clear()
    if arguments.memory:
        add_memory(record, place, arguments.input_lengths[0])
    print(table(record.rows))
    print()
    print(goals_table(record.rows))
    print(f"\nwrote {path}")


if __name__ == "__main__":
    main()
