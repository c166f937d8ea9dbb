"""What rounded weights cost the demo's model, and what they save: one table.

    make demo
    python examples/quantization_report.py
    python examples/quantization_table.py

One checkpoint in every engine and precision, layers kept in a higher one, activations calibrated: each answers the
demo's test words. Beside the error rates and ROUGE-L stand the size of the weights on disk, how far log-probabilities
of the right answers are from those in float32 (without which a speed is worth nothing), and the time of the first
token and of each other, for one input, taken in turns. `--model` takes any folder with the demo's tokenizer; the
record goes to examples/results, where the second command finds it for the README.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from data.cmudict import CMUDict
from datasets import Dataset
from quantization_models import MODELS, Source, megabytes, models
from quantization_table import QUANTIZATION, goal, table
from result_files import machine, write_json
from scoring import rouge_l
from spelling_scores import error_rates, pronounce
from spelling_to_sound import OUTPUT_DIR
from transformers import AutoConfig, AutoTokenizer, HfArgumentParser, PreTrainedTokenizerBase

from encdec_slm.benchmarks.decoding import Contestant, Measurement, measure
from encdec_slm.export import load_exported


WHOLE = next(iter(MODELS))
TEACHER_FORCED_ROWS = 200
CALIBRATION_WORDS = 256


@dataclass
class ReportArguments:
    """What is compared, and on how much."""

    model: str = field(default=OUTPUT_DIR, metadata={"help": "Folder of the demo's model."})
    only: list[str] = field(
        default_factory=list, metadata={"help": f"Names of what is compared with {WHOLE}: {'; '.join(MODELS)}."}
    )
    exported: list[str] = field(default_factory=list, metadata={"help": "Folders of further exports."})
    test_words: int = field(default=2_000, metadata={"help": "Words that are answered."})
    threads: int = field(default=1, metadata={"help": "CPU threads."})
    input_length: int = field(default=64, metadata={"help": "Tokens that are read where time is taken."})
    new_tokens: int = field(default=32, metadata={"help": "Tokens that are written there."})
    repeats: int = field(default=7, metadata={"help": "Turns, of which the medians are shown; 0 takes no time."})
    results: str = field(default=str(QUANTIZATION), metadata={"help": "File of the record."})

    def __post_init__(self) -> None:
        """Refuses names that are none.

        Raises:
            ValueError: If there is one.
        """
        if unknown := [name for name in self.only if name not in MODELS]:
            raise ValueError(f"only has {unknown[0]!r}, which is none of {'; '.join(MODELS)}")


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
        logits = model(input_ids=input_ids, decoder_input_ids=decoder_input_ids).logits.float()
        found.append(logits.log_softmax(-1).gather(-1, labels[..., None])[0, :, 0])
    return torch.cat(found)


def score(name: str, size: float, found: Answers, whole: Answers, rows: Dataset) -> Row:
    """What the table says of a model, but for its speed."""
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
    return replace(
        row,
        first_token_ms=1e3 * measurement.first_token_seconds,
        ms_per_token=1e3 * measurement.seconds_per_token,
    )


def compare(
    compared: dict[str, tuple[Any, float]],
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    arguments: ReportArguments,
) -> list[Row]:
    """Scores all models against the first, and times them in turns."""
    answers = {name: answer(model, tokenizer, rows) for name, (model, _) in compared.items()}
    scored = [score(name, size, answers[name], answers[WHOLE], rows) for name, (_, size) in compared.items()]
    if not arguments.repeats:
        return scored
    measured = measure(
        [Contestant(name, model) for name, (model, _) in compared.items()],
        input_length=arguments.input_length,
        new_tokens=arguments.new_tokens,
        repeats=arguments.repeats,
        report=lambda line: None,
    )
    return [with_speed(row, measurement) for row, measurement in zip(scored, measured, strict=True)]


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Writes the record and prints the table.

    Args:
        argv: Command line arguments; those of the process by default.
    """
    (arguments,) = HfArgumentParser(ReportArguments).parse_args_into_dataclasses(argv)
    torch.set_num_threads(arguments.threads)
    builder = CMUDict()
    builder.download_and_prepare()
    words = builder.as_dataset()
    rows = words["test"].shuffle(seed=0)
    rows = rows.select(range(min(arguments.test_words, len(rows))))
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    names = [name for name in MODELS if name in (WHOLE, *(arguments.only or MODELS))]
    with TemporaryDirectory() as folder:
        texts = Path(folder, "texts.txt")
        texts.write_text("\n".join(words["train"]["source"][:CALIBRATION_WORDS]) + "\n", encoding="utf-8")
        config = AutoConfig.from_pretrained(arguments.model)
        with models(Source(arguments.model, texts, config, arguments.threads), names) as compared:
            for path in map(Path, arguments.exported):
                compared[path.name] = (load_exported(path, threads=arguments.threads), megabytes(path))
            scored = compare(compared, rows, tokenizer, arguments)
    record = {
        "machine": machine(torch.device("cpu"), arguments.threads),
        "words": len(rows),
        "settings": {name: value for name, value in asdict(arguments).items() if name != "results"},
        "rows": [asdict(row) for row in scored],
    }
    write_json(Path(arguments.results), record)
    print(f"{table(record['rows'])}\n\n{goal(record['rows'])}\n\n{len(rows)} words; {record['machine']}")
    return scored


if __name__ == "__main__":
    main()
