"""One model in several engines, in turns: first token, tokens per second, error of the logits, memory.

    python examples/engine_speed.py --preset 330m --threads 1 --output outputs/engine_speed

Random weights: speed needs no checkpoint. What is exported is kept under OUTPUT/models, so that a second run need not
do it again; `--only` names contestants. Every speed stands beside the largest difference of a logit from the same
model in float32, since a path that computes something else may be very fast. Memory is that of a process of its own,
for each contestant: the most that it held while it loaded the model and wrote an answer, less what it held before.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from decoder_only_onnx import DecoderOnly, export_decoder_only
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, set_seed

from encdec_slm import EncDecSLMConfig, EncDecSLMForConditionalGeneration
from encdec_slm.benchmarks.decoding import Contestant, Measurement, measure
from encdec_slm.benchmarks.peers import llama_of_equal_size, random_model, t5_of_equal_shape
from encdec_slm.benchmarks.report import conditions
from encdec_slm.export import load_exported
from encdec_slm.export.command import load_exporter
from encdec_slm.export.report import read_report
from encdec_slm.export.torch_compile import compiled_steps
from encdec_slm.output_folder import output_folder
from encdec_slm.quantization import CpuQuantizationConfig, read_single_rows_


TARGETS = 16


@dataclass
class Place:
    """Where contestants find what they are made of."""

    folder: Path
    preset: str
    threads: int

    @property
    def config(self) -> EncDecSLMConfig:
        """The configuration of our model."""
        return EncDecSLMConfig.from_preset(self.preset)

    def ours(self) -> Path:
        """The model in float32, saved."""
        return self.made("ours", self._save_ours)

    def made(self, name: str, make: Callable[[Path], object]) -> Path:
        """A folder under `models`, which `make` fills if it is not there."""
        folder = self.folder / "models" / name
        if not folder.exists():
            with output_folder(folder) as partial:
                make(partial)
        return folder

    def _save_ours(self, folder: Path) -> None:
        set_seed(0)
        EncDecSLMForConditionalGeneration(self.config).eval().save_pretrained(folder)


@dataclass
class Entry:
    """A model, the largest difference of its logits from those in float32, and how its `generate` is asked."""

    model: Any
    logit_error: float | None
    generate_arguments: Mapping[str, object] = field(default_factory=dict)


def words(config: Any, length: int = 64) -> dict[str, torch.Tensor]:
    """Returns a random input and random targets."""
    generator = torch.Generator().manual_seed(1)
    size = config.get_text_config(decoder=True).vocab_size
    return {
        "input_ids": torch.randint(3, size, (1, length), generator=generator),
        "decoder_input_ids": torch.randint(3, size, (1, TARGETS), generator=generator),
    }


def logit_error(model: Any, reference: Any) -> float:
    """Returns the largest difference of a logit, both models given the same input and targets."""
    inputs = words(reference.config)
    with torch.no_grad():
        return (model(**inputs).logits.float() - reference(**inputs).logits).abs().max().item()


def t5(dtype: str) -> Callable[[Place], Entry]:
    """Transformers' T5 of equal shape."""

    def build(place: Place) -> Entry:
        set_seed(0)
        model = random_model(t5_of_equal_shape(place.config), "float32")
        if dtype == "float32":
            return Entry(model, 0.0)
        set_seed(0)
        return Entry(
            other := random_model(t5_of_equal_shape(place.config), "float32").to(getattr(torch, dtype)),
            logit_error(other, model),
        )

    return build


def in_pytorch(place: Place, kind: str) -> Any:
    """Our model in PyTorch: a dtype, `int8` or `int4`, or a dtype and how it is made faster.

    `mv` reads weights by `torch.mv`, `int8` rounds the decoder and the head alone, `compiled` is for `generate`.
    """
    dtype, _, way = kind.partition("-")
    bits, kept = {"int8": (8, ()), "int4": (4, ()), "bfloat16-int8": (8, ("encoder",))}.get(kind, (None, ()))
    model = AutoModelForSeq2SeqLM.from_pretrained(
        place.ours(),
        dtype="float32" if dtype.startswith("int") else dtype,
        quantization_config=None if bits is None else CpuQuantizationConfig(bits, kept),
    ).eval()
    return read_single_rows_(model) if way == "mv" else model


def ours(kind: str) -> Callable[[Place], Entry]:
    """Our model in PyTorch, as `in_pytorch` builds it."""

    def build(place: Place) -> Entry:
        model = in_pytorch(place, kind)
        reference = in_pytorch(place, "float32")
        return Entry(model, logit_error(model, reference), compiled_steps() if kind.endswith("-compiled") else {})

    return build


def exported(format_: str, dtype: str) -> Callable[[Place], Entry]:
    """Our model in another engine; its error is that which the exporter has measured."""

    def build(place: Place) -> Entry:
        def export(folder: Path) -> None:
            load_exporter(format_)(place.ours(), folder, dtype=dtype)

        folder = place.made(f"ours_{format_}_{dtype}", export)
        return Entry(load_exported(folder, threads=place.threads), read_report(folder).max_logit_error)

    return build


def decoder_only(dtype: str) -> Callable[[Place], Entry]:
    """A Llama of as many parameters, in the same engine and dtype as ours."""

    def build(place: Place) -> Entry:
        parameters = EncDecSLMForConditionalGeneration.from_pretrained(place.ours()).num_parameters()
        config = llama_of_equal_size(place.config, parameters)

        def peer() -> Any:
            set_seed(0)
            # of its own configuration: the exported one is told to attend in another way
            return random_model(deepcopy(config), "float32", AutoModelForCausalLM)

        folder = place.made(
            "decoder_only_onnx", lambda folder: export_decoder_only(peer(), folder, ("fp32", "int8", "int4"))
        )
        model, reference = DecoderOnly(folder / dtype, config, parameters, place.threads), peer()
        inputs = words(config)["input_ids"]
        with torch.no_grad():
            expected = reference(inputs, logits_to_keep=1).logits
        logits, _ = model.step(inputs.numpy(), model.empty())
        return Entry(model, (torch.from_numpy(logits) - expected).abs().max().item())

    return build


CONTESTANTS: Mapping[str, Callable[[Place], Entry]] = {
    "T5 float32": t5("float32"),
    "T5 bfloat16": t5("bfloat16"),
    "PyTorch float32": ours("float32"),
    "PyTorch float32-compiled": ours("float32-compiled"),
    "PyTorch bfloat16": ours("bfloat16"),
    "PyTorch bfloat16-mv": ours("bfloat16-mv"),
    "PyTorch bfloat16-int8": ours("bfloat16-int8"),
    "PyTorch int8": ours("int8"),
    "PyTorch int4": ours("int4"),
    "ONNX Runtime fp32": exported("onnx", "fp32"),
    "ONNX Runtime int8": exported("onnx", "int8"),
    "ONNX Runtime int4": exported("onnx", "int4"),
    "CTranslate2 int8": exported("ctranslate2", "int8"),
    "decoder-only, ONNX Runtime fp32": decoder_only("fp32"),
    "decoder-only, ONNX Runtime int8": decoder_only("int8"),
    "decoder-only, ONNX Runtime int4": decoder_only("int4"),
}


def memory(name: str, place: Place, input_length: int) -> int:
    """Returns the bytes that a process of its own held at most, less what it held before it loaded the contestant."""
    command = [
        sys.executable,
        __file__,
        "--measure-memory",
        name,
        "--preset",
        place.preset,
        "--output",
        str(place.folder),
        "--threads",
        str(place.threads),
        "--input-lengths",
        str(input_length),
    ]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_memory(name: str, place: Place, input_length: int) -> None:
    """Prints what `memory` reads."""
    loaders = {
        "PyTorch": lambda kind: in_pytorch(place, kind),
        "T5": lambda dtype: random_model(t5_of_equal_shape(place.config), dtype),
        "ONNX Runtime": lambda dtype: load_exported(
            place.folder / "models" / f"ours_onnx_{dtype}", threads=place.threads
        ),
        "CTranslate2": lambda dtype: load_exported(
            place.folder / "models" / f"ours_ctranslate2_{dtype}", threads=place.threads
        ),
    }
    engine, _, dtype = name.rpartition(" ")
    # held now: importing may have held more for a moment
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024
    model = loaders[engine](dtype)
    measure([Contestant(name, model)], input_length=input_length, new_tokens=4, repeats=1, report=lambda line: None)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the measurements of one input length as Markdown; ratios are to the first row of the table."""
    lines = [
        "| contestant | input | first token ms (processor) | tokens/s | ms/token (processor) | logit error | MiB | "
        "first token ratio | tokens/s ratio |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        base = next(other for other in rows if other["input_length"] == row["input_length"])
        error = "" if row["logit_error"] is None else f"{row['logit_error']:.2g}"
        mib = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.0f}"
        lines.append(
            f"| {row['name']} | {row['input_length']} | {row['first_token_ms']:.0f} ({row['first_token_cpu_ms']:.0f}) "
            f"| {row['tokens_per_second']:.1f} | {row['ms_per_token']:.2f} ({row['cpu_ms_per_token']:.2f}) | {error} "
            f"| {mib} | {row['first_token_ms'] / base['first_token_ms']:.3f} "
            f"| {row['tokens_per_second'] / base['tokens_per_second']:.3f} |"
        )
    return "\n".join(lines)


def row(one: Measurement, input_length: int, error: float | None) -> dict[str, Any]:
    """Returns the medians of a contestant, and every call that they are of."""
    return {
        "name": one.name,
        "input_length": input_length,
        "first_token_ms": 1e3 * one.first_token_seconds,
        "first_token_cpu_ms": 1e3 * one.processor_first_token_seconds,
        "tokens_per_second": one.tokens_per_second,
        "ms_per_token": 1e3 * one.seconds_per_token,
        "cpu_ms_per_token": 1e3 * one.processor_seconds_per_token,
        "logit_error": error,
        "peak_bytes": None,
        "calls": asdict(one),
    }


def main() -> None:
    """Builds the contestants, lets them take turns, writes and prints what the clocks said."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="330m", help="(default: %(default)s)")
    parser.add_argument("--input-lengths", type=int, nargs="+", default=[512], metavar="N")
    parser.add_argument("--new-tokens", type=int, default=48, metavar="N")
    parser.add_argument("--repeats", type=int, default=5, metavar="N")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--only", nargs="+", choices=tuple(CONTESTANTS), metavar="NAME", help=", ".join(CONTESTANTS))
    parser.add_argument(
        "--memory", action="store_true", help="measure that too, a process for each contestant of ours"
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/engine_speed"), metavar="DIR")
    parser.add_argument("--measure-memory", metavar="NAME", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    place = Place(arguments.output / arguments.preset, arguments.preset, arguments.threads)
    if arguments.measure_memory:
        place = replace(place, folder=arguments.output)
        print_memory(arguments.measure_memory, place, arguments.input_lengths[0])
        return
    entries = {name: CONTESTANTS[name](place) for name in arguments.only or CONTESTANTS}
    contestants = [Contestant(name, entry.model, entry.generate_arguments) for name, entry in entries.items()]
    rows = [
        row(one, length, entries[one.name].logit_error)
        for length in arguments.input_lengths
        for one in measure(
            contestants, input_length=length, new_tokens=arguments.new_tokens, repeats=arguments.repeats, report=print
        )
    ]
    if arguments.memory:
        for one in rows:
            if not one["name"].startswith("decoder-only"):
                one["peak_bytes"] = memory(one["name"], place, one["input_length"])
    settings = {name: value for name, value in vars(arguments).items() if name not in ("output", "measure_memory")}
    record = {"settings": settings, "conditions": conditions(), "measurements": rows}
    (place.folder / "engine_speed.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (place.folder / "engine_speed.md").write_text(table(rows) + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
