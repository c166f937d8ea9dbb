"""How much faster an answer comes that copies from its input: prompt lookup and a draft model, measured.

    python examples/assisted_speed.py
    python examples/assisted_speed_report.py

As in extractive summaries, the answer is a part of the input: what stands between two marks in a row of random tokens.
A model of the `tiny` size learns that, and a draft of one encoder and one decoder layer (minutes, once: they are kept
in the output folder). Then inputs that neither has seen are answered in turns: greedily, with `EncoderPromptLookup`,
with the library's own prompt lookup, and with the draft as `assistant_model`. All answers must be those of greedy
search, and how many of them are right tells what was learned. A step is a call of the large model's decoder. The
record goes to examples/results, where the second command finds it for the README.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from assisted_speed_report import ASSISTED, report_of
from result_files import machine, write_json
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSeq2SeqLM, HfArgumentParser, PreTrainedModel, set_seed

from encdec_slm import EncDecSLMConfig, EncDecSLMForConditionalGeneration
from encdec_slm.export.torch_prompt_lookup import EncoderPromptLookup


PAD, START, END, OPENING, CLOSING, FIRST_WORD = range(6)
VOCAB_SIZE = 64
Batch = dict[str, torch.Tensor]


@dataclass
class AssistedArguments:
    """What is learned and how much is measured."""

    output_dir: str = field(default="outputs/assisted_speed", metadata={"help": "Folder of the two models."})
    max_steps: int = field(default=1_500, metadata={"help": "Training steps of each model, of 32 rows."})
    input_length: int = field(default=48, metadata={"help": "Tokens of an input."})
    excerpt_length: int = field(default=24, metadata={"help": "Tokens of an answer."})
    inputs: int = field(default=20, metadata={"help": "Inputs that are answered."})
    repeats: int = field(default=5, metadata={"help": "Turns, of which medians are shown."})
    threads: int = field(default=1, metadata={"help": "CPU threads."})
    results: str = field(default=str(ASSISTED), metadata={"help": "File of the record."})


@dataclass(frozen=True)
class Result:
    """One way to decode.

    Attributes:
        name: What the table calls it.
        tokens_per_step: Tokens that a step of the large model's decoder gives.
        ms_per_token: Median of the turns.
        ratio: How many times faster than greedy search.
        equal: Share of the answers that are greedy search's.
        right: Share of the answers that are what was asked for.
    """

    name: str
    tokens_per_step: float
    ms_per_token: float
    ratio: float
    equal: float
    right: float


def excerpts(rows: int, arguments: AssistedArguments) -> Batch:
    """Random inputs with two marks, and what stands between them."""
    length, excerpt = arguments.input_length, arguments.excerpt_length
    words = torch.randint(FIRST_WORD, VOCAB_SIZE, (rows, length))
    begins = torch.randint(0, length - excerpt - 1, (rows,))
    labels = []
    for row, begin in zip(words, begins.tolist(), strict=True):
        row[begin], row[begin + excerpt + 1] = OPENING, CLOSING
        labels.append(torch.cat((row[begin + 1 : begin + excerpt + 1], torch.tensor([END]))))
    return {"input_ids": words, "labels": pad_sequence(labels, batch_first=True, padding_value=-100)}


def trained(folder: Path, layers: tuple[int, int], arguments: AssistedArguments) -> PreTrainedModel:
    """The model of a folder, which is trained if there is none."""
    if not (folder / "config.json").exists():
        set_seed(0)
        config = EncDecSLMConfig.from_preset(
            "tiny",
            vocab_size=VOCAB_SIZE,
            pad_token_id=PAD,
            bos_token_id=START,
            eos_token_id=END,
            decoder_start_token_id=START,
            initializer_range=0.09,
        )
        config.encoder.num_hidden_layers, config.decoder.num_hidden_layers = layers
        model = EncDecSLMForConditionalGeneration(config).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98))
        warmup = max(arguments.max_steps // 10, 1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / warmup, 1.0))
        for step in range(arguments.max_steps):
            loss = model(**excerpts(32, arguments)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if step % 100 == 0 or step == arguments.max_steps - 1:
                print(f"{folder.name}, step {step}: loss {loss.item():.3f}", flush=True)
        model.save_pretrained(folder)
    return AutoModelForSeq2SeqLM.from_pretrained(folder).eval()


def ways(draft: PreTrainedModel) -> dict[str, dict[str, Any]]:
    """Name -> arguments of `generate`."""
    return {
        "greedy": {},
        "prompt lookup, in the input": {"custom_generate": EncoderPromptLookup()},
        "prompt lookup, of the library": {"prompt_lookup_num_tokens": 10},
        "draft model": {"assistant_model": draft},
    }


def answer_all(model: PreTrainedModel, inputs: torch.Tensor, options: dict[str, Any], longest: int) -> list[list[int]]:
    """The answers, one input at a time."""
    return [
        model.generate(row[None], do_sample=False, max_new_tokens=longest, **options)[0].tolist() for row in inputs
    ]


def compare(
    model: PreTrainedModel,
    draft: PreTrainedModel,
    arguments: AssistedArguments,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Result]:
    """Answers in turns, after a round without a clock that counts steps and compares answers."""
    batch = excerpts(arguments.inputs, arguments)
    inputs, wanted = batch["input_ids"], [[START, *row] for row in batch["labels"].tolist()]
    longest = arguments.excerpt_length + 1
    steps: list[None] = []
    counted, answers = {}, {}
    for name, options in ways(draft).items():
        steps.clear()
        hook = model.get_decoder().register_forward_hook(lambda *call: steps.append(None))
        answers[name] = answer_all(model, inputs, options, longest)
        hook.remove()
        counted[name] = len(steps)
    seconds: dict[str, list[float]] = {name: [] for name in answers}
    for _ in range(arguments.repeats):
        for name, options in ways(draft).items():
            began = clock()
            answer_all(model, inputs, options, longest)
            seconds[name].append(clock() - began)
    plain = statistics.median(seconds["greedy"])
    results = []
    for name, found in answers.items():
        tokens = sum(len(row) - 1 for row in found)
        median = statistics.median(seconds[name])
        results.append(
            Result(
                name=name,
                tokens_per_step=tokens / counted[name],
                ms_per_token=1e3 * median / tokens,
                ratio=plain / median,
                equal=share_of_equal(found, answers["greedy"]),
                right=share_of_equal(found, wanted),
            )
        )
    return results


def share_of_equal(ones: Sequence[list[int]], others: Sequence[list[int]]) -> float:
    """How many answers are the other ones, from 0 to 1."""
    return statistics.mean(one == other for one, other in zip(ones, others, strict=True))


def main(argv: Sequence[str] | None = None) -> list[Result]:
    """Trains what is not there, compares, writes the record and prints it.

    Args:
        argv: Command line arguments; those of the process by default.
    """
    (arguments,) = HfArgumentParser(AssistedArguments).parse_args_into_dataclasses(argv)
    torch.set_num_threads(arguments.threads)
    folder = Path(arguments.output_dir)
    model = trained(folder / "model", (4, 2), arguments)
    draft = trained(folder / "draft", (1, 1), arguments)
    set_seed(1)
    results = compare(model, draft, arguments)
    record = {
        "machine": machine(torch.device("cpu"), arguments.threads),
        "settings": {
            name: value for name, value in asdict(arguments).items() if name not in ("output_dir", "results")
        },
        "ways": [asdict(result) for result in results],
    }
    write_json(Path(arguments.results), record)
    print(report_of(record))
    return results


if __name__ == "__main__":
    main()
