"""What rounded weights cost the demo's model, and what they save: one table.

    make demo
    python examples/quantization_report.py
    python examples/quantization_report.py --exported outputs/onnx_int8 outputs/onnx_int4

Each model answers the demo's test words. Beside the error rates stand the size of the weights on disk, how far
log-probabilities of the right answers are from those in float32 (without which a speed is worth nothing), and the time
of the first token and of each other, for one input, taken in turns.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from data.cmudict import CMUDict
from datasets import Dataset
from result_files import machine, write_json
from scoring import rouge_l
from spelling_scores import error_rates, pronounce
from spelling_to_sound import OUTPUT_DIR
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, HfArgumentParser, PreTrainedTokenizerBase

from encdec_slm.benchmarks.decoding import Contestant, Measurement, measure
from encdec_slm.export import load_exported
from encdec_slm.export.command import load_exporter
from encdec_slm.quantization import CpuQuantizationConfig


# name -> quantisation when loading; the last shows what rounding the head costs
IN_PYTORCH: dict[str, CpuQuantizationConfig | None] = {
    "PyTorch float32": None,
    "PyTorch int8": CpuQuantizationConfig(bits=8),
    "PyTorch int4": CpuQuantizationConfig(bits=4),
    "PyTorch int4, head float32": CpuQuantizationConfig(bits=4, modules_to_not_convert=["lm_head"]),
}
WEIGHTS = ("*.safetensors", "model.bin", "*.onnx", "*.onnx_data")
TEACHER_FORCED_ROWS = 200


@dataclass
class ReportArguments:
    """What is compared, and on how much."""

    model: str = field(default=OUTPUT_DIR, metadata={"help": "Folder of the demo's model."})
    exported: list[str] = field(default_factory=list, metadata={"help": "Folders of further exports."})
    test_words: int = field(default=2_000, metadata={"help": "Words that are answered."})
    threads: int = field(default=1, metadata={"help": "CPU threads."})
    input_length: int = field(default=64, metadata={"help": "Tokens that are read where time is taken."})
    new_tokens: int = field(default=32, metadata={"help": "Tokens that are written there."})
    repeats: int = field(default=7, metadata={"help": "Turns, of which the medians are shown; 0 takes no time."})
    results: str | None = field(default=None, metadata={"help": "File of the results."})


@dataclass(frozen=True)
class Row:
    """One model. Errors are of log-probabilities, in nats; shares from 0 to 1; ROUGE-L from 0 to 100."""

    name: str
    megabytes: float
    mean_error: float
    largest_error: float
    answers_equal: float
    phonemes_wrong: float
    words_wrong: float
    rouge_l: float
    first_token_ms: float | None = None
    ms_per_token: float | None = None


@contextmanager
def models(arguments: ReportArguments) -> Iterator[dict[str, tuple[Any, float]]]:
    """Name -> model and megabytes of its weights; what has to be written for that lies in a temporary folder."""
    with tempfile.TemporaryDirectory() as temporary:
        found: dict[str, tuple[Any, float]] = {}
        for index, (name, config) in enumerate(IN_PYTORCH.items()):
            model = AutoModelForSeq2SeqLM.from_pretrained(arguments.model, quantization_config=config).eval()
            folder = Path(temporary, str(index))
            model.save_pretrained(folder)
            found[name] = (model, megabytes(folder))
        for dtype in ("fp32", "int8"):
            folder = Path(temporary, f"ctranslate2_{dtype}")
            load_exporter("ctranslate2")(model=arguments.model, output=folder, dtype=dtype)
            loaded = load_exported(folder, intra_threads=arguments.threads)
            found[f"CTranslate2 {dtype}"] = (loaded, megabytes(folder))
        for folder in map(Path, arguments.exported):
            found[folder.name] = (load_exported(folder), megabytes(folder))
        yield found


def megabytes(folder: Path) -> float:
    """Size of the weights and graphs in a folder."""
    return sum(path.stat().st_size for pattern in WEIGHTS for path in folder.glob(pattern)) / 2**20


@dataclass(frozen=True)
class Answers:
    """Greedy answers, and the log-probabilities of all tokens of the right ones."""

    texts: list[str]
    log_probabilities: torch.Tensor


def answer(model: Any, tokenizer: PreTrainedTokenizerBase, rows: Dataset) -> Answers:
    """What a model answers to all rows, and what it thinks of the right answers to some."""
    some = rows.select(range(min(TEACHER_FORCED_ROWS, len(rows))))
    return Answers(pronounce(model, tokenizer, rows["source"]), log_probabilities(model, tokenizer, some))


@torch.no_grad()
def log_probabilities(model: Any, tokenizer: PreTrainedTokenizerBase, rows: Dataset) -> torch.Tensor:
    """Log-probabilities of all tokens of the right answers, one after the other."""
    found = []
    for source, target in zip(rows["source"], rows["target"], strict=True):
        input_ids = tokenizer(source, return_tensors="pt")["input_ids"]
        labels = tokenizer(text_target=target, return_tensors="pt")["input_ids"]
        if hasattr(model, "log_probabilities"):
            found.append(model.log_probabilities(input_ids, labels)[0])
            continue
        start = torch.full_like(labels[:, :1], model.config.decoder_start_token_id)
        decoder_input_ids = torch.cat((start, labels[:, :-1]), dim=1)
        logits = model(input_ids=input_ids, decoder_input_ids=decoder_input_ids).logits
        found.append(logits.log_softmax(-1).gather(-1, labels[..., None])[0, :, 0])
    return torch.cat(found)


def score(name: str, model: Any, size: float, rows: Dataset, tokenizer: Any, whole: Answers) -> Row:
    """What the table says of a model, but for its speed."""
    found = answer(model, tokenizer, rows)
    error = (found.log_probabilities - whole.log_probabilities).abs()
    rates = error_rates(found.texts, rows)
    return Row(
        name=name,
        megabytes=size,
        mean_error=float(error.mean()),
        largest_error=float(error.max()),
        answers_equal=sum(map(str.__eq__, found.texts, whole.texts)) / len(rows),
        phonemes_wrong=rates["phonemes"],
        words_wrong=rates["words"],
        rouge_l=rouge_l(found.texts, rows["target"]),
    )


def with_speed(row: Row, measurement: Measurement) -> Row:
    """A row with the medians of a measurement, in milliseconds."""
    return Row(
        **{
            **asdict(row),
            "first_token_ms": 1e3 * measurement.first_token_seconds,
            "ms_per_token": 1e3 * measurement.seconds_per_token,
        }
    )


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| weights | MiB | log-probability off by, mean | most | answers equal | phonemes wrong | words wrong "
        "| ROUGE-L | first token ms | ms/token |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        shares = " | ".join(f"{share:.4f}" for share in (row.answers_equal, row.phonemes_wrong, row.words_wrong))
        times = " | ".join("-" if time is None else f"{time:.2f}" for time in (row.first_token_ms, row.ms_per_token))
        lines.append(
            f"| {row.name} | {row.megabytes:.2f} | {row.mean_error:.2g} | {row.largest_error:.2g} | {shares} "
            f"| {row.rouge_l:.2f} | {times} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Prints the table.

    Args:
        argv: Command line arguments; those of the process by default.
    """
    (arguments,) = HfArgumentParser(ReportArguments).parse_args_into_dataclasses(argv)
    torch.set_num_threads(arguments.threads)
    builder = CMUDict()
    builder.download_and_prepare()
    rows = builder.as_dataset()["test"].shuffle(seed=0)
    rows = rows.select(range(min(arguments.test_words, len(rows))))
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    with models(arguments) as compared:
        whole = answer(next(iter(compared.values()))[0], tokenizer, rows)
        scored = [score(name, model, size, rows, tokenizer, whole) for name, (model, size) in compared.items()]
        if arguments.repeats:
            contestants = [Contestant(name, model) for name, (model, _) in compared.items()]
            measured = measure(
                contestants,
                input_length=arguments.input_length,
                new_tokens=arguments.new_tokens,
                repeats=arguments.repeats,
                report=lambda line: None,
            )
            scored = [with_speed(row, measurement) for row, measurement in zip(scored, measured, strict=True)]
    print(table(scored))
    print(f"\n{len(rows)} words; {machine(torch.device('cpu'), arguments.threads)}")
    if arguments.results:
        write_json(Path(arguments.results), {"arguments": asdict(arguments), "rows": [asdict(row) for row in scored]})
    return scored


if __name__ == "__main__":
    main()
