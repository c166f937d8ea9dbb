"""What a start from a decoder-only model is worth: students of one task, each trained for the same time.

    pip install -e '.[examples,evaluation]'
    python examples/start_from_decoder_only.py --task docstrings --minutes 4
    python examples/start_from_decoder_only.py --task codexglue --data_dir FOLDER --minutes 4
    python examples/start_from_decoder_only_report.py

Students that start from layers of SmolLM2-135M are set against the same architectures with random weights and against
a small model from scratch. All have one tokenizer, one order of the training rows, the stock `Seq2SeqTrainer`, and the
same seconds: of processor time on a CPU (one thread unless `--threads` says otherwise), of the clock on a GPU.

Each is scored at the start and whenever its time has doubled, up to `--minutes`: loss in nats a token, and BLEU (Java
to C#) or ROUGE-L (function to docstring) of greedy answers. The learning rate falls to zero over the whole time, so
the last point of a curve is that of a finished training and the others are of one under way. The results are added to
a JSON file that the report reads.

With `--save_strategy steps --save_steps 200`, a command that was interrupted goes on from its last checkpoint when it
is given again. The checkpoints of a student are deleted when its result is kept.
"""

import json
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from data.smollm2 import smollm2
from datasets import Dataset
from filelock import FileLock
from precision import bfloat16_is_faster, training_dtype
from result_files import machine, write_json
from scoring import answer, loss_per_token
from start_adaptation import continue_texts, copy_tokens
from start_progress import Budget, Progress, last_checkpoint
from start_students import COMPARED, STUDENTS, Student
from tasks import Task, load_task
from timed_training import Clock, pace
from torch.utils.data import DataLoader
from transformers import (
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    HfArgumentParser,
    PreTrainedTokenizerBase,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    set_seed,
)

from encdec_slm.adaptation import build_optimizer


LONGEST = 128
RECIPE = {
    "output_dir": "outputs/start_from_decoder_only",
    "max_steps": 1_000_000,  # the clock ends the training
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 20,
    "train_sampling_strategy": "group_by_length",
    "adam_beta2": 0.98,
    "optim": "adamw_torch_fused",
    "logging_strategy": "no",
    "save_strategy": "no",
    "save_total_limit": 1,
    "report_to": "none",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
}


@dataclass
class ComparisonArguments:
    """What is compared, and for how long."""

    task: str = field(
        metadata={"help": "codexglue (Java to C#) or docstrings.", "choices": ["codexglue", "docstrings"]}
    )
    data_dir: str | None = field(default=None, metadata={"help": "Folder of the CodeXGLUE files."})
    students: list[str] = field(
        default_factory=lambda: [student.name for student in COMPARED],
        metadata={"help": f"Of {', '.join(STUDENTS)}; `trials` and `adapted` for all that begin so."},
    )
    minutes: float = field(default=8.0, metadata={"help": "Processor minutes of each student (a GPU's: clock)."})
    first_minutes: float = field(default=1.0, metadata={"help": "When the first score is taken; then at twice that."})
    threads: int = field(default=1, metadata={"help": "CPU threads."})
    source: str = field(default="outputs/smollm2-135m-instruct", metadata={"help": "Decoder-only model folder."})
    score_rows: int = field(default=100, metadata={"help": "Rows that are answered, and of which the loss is taken."})
    skip_rows: int = field(default=60, metadata={"help": "Rows before those, on which the recipe was chosen."})
    results: str = field(
        default="examples/results/start_from_decoder_only.json", metadata={"help": "File that results are added to."}
    )


def encode_ids(
    tokenizer: PreTrainedTokenizerBase, source: list[int], target: list[int] | None = None
) -> dict[str, list[int]]:
    """A row of source (begin, tokens, end) and target (line break, tokens, end), which is the source by default.

    The line break is for the students that start as a language model. To such a decoder the first position is a sink
    of attention, whose state is more than a hundred times as large as others, so that what it reads there hardly
    changes what it says next. The first word of an answer is better said from the second position.
    """
    line_break = tokenizer("\n", add_special_tokens=False).input_ids
    return {
        "input_ids": [tokenizer.bos_token_id, *source, tokenizer.eos_token_id],
        "labels": [*line_break, *(source if target is None else target), tokenizer.eos_token_id],
    }


def encode(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Token ids of sources and targets, at most `LONGEST` with what `encode_ids` adds, and lengths."""
    added = encode_ids(tokenizer, [])

    def encode_row(row: dict[str, str]) -> dict[str, Any]:
        cut = {"truncation": True, "add_special_tokens": False}
        source, target = (
            tokenizer(row[text], max_length=LONGEST - len(added[ids]), **cut).input_ids
            for text, ids in (("source", "input_ids"), ("target", "labels"))
        )
        encoded = encode_ids(tokenizer, source, target)
        return {**encoded, "length": sum(map(len, encoded.values()))}

    return rows.map(encode_row, remove_columns=rows.column_names, desc="Tokenizing")


class Examination:
    """Scores a student on held-out rows: the points of its curve."""

    def __init__(
        self, trainer: Seq2SeqTrainer, encoded: Dataset, targets: Sequence[str], task: Task, label: str
    ) -> None:
        self.trainer = trainer
        self.encoded = encoded
        self.targets = targets
        self.task = task
        self.label = label

    def __call__(self, step: int, seconds: float, mark: float) -> dict[str, float]:
        """Returns a point, and prints it.

        Args:
            step: Steps so far.
            seconds: Time so far.
            mark: The time at which it was due.
        """
        model = self.trainer.model
        model.eval()
        args = self.trainer.args
        dtype = training_dtype(args)
        loss = loss_per_token(model, self._batches(), dtype)
        examples = step * args.train_batch_size
        point = {"minutes": mark / 60, "seconds": seconds, "examples": examples, "loss": loss}
        line = f"{self.label:<16}{seconds:>7.0f} s {examples:>7,} examples   loss {loss:6.3f}"
        # a student that has learnt nothing babbles: slow, and no news
        if step:
            point["score"] = self.task.score(
                answer(model, self._batches(), self.trainer.processing_class, LONGEST, dtype), self.targets
            )
            line += f"   {self.task.metric} {point['score']:5.1f}"
        model.train()
        print(line, flush=True)
        return point

    def _batches(self) -> Iterable[dict[str, torch.Tensor]]:
        args = self.trainer.args
        for batch in DataLoader(self.encoded, batch_size=args.eval_batch_size, collate_fn=self.trainer.data_collator):
            yield {name: tensor.to(args.device) for name, tensor in batch.items()}


def marks_of(first_minutes: float, minutes: float) -> list[float]:
    """Seconds at which a student is scored: doubling from `first_minutes`, `minutes` being the last.

    Example:
        >>> marks_of(1, 6)
        [60.0, 120.0, 240.0, 360.0]
    """
    marks = [60.0 * minutes]
    mark = 60.0 * first_minutes
    while mark < marks[-1]:
        marks.insert(-1, mark)
        mark *= 2
    return marks


def train(
    student: Student, task: Task, comparison: ComparisonArguments, args: Seq2SeqTrainingArguments, folder: Path
) -> dict[str, Any]:
    """Trains a student for its time and returns its record: what it was and the points of its curve.

    Args:
        student: Who.
        task: On what.
        comparison: How long, and on which rows it is scored.
        args: Of the training; what is the student's own is set in them.
        folder: Of the checkpoints. It goes on from the last one that is there.
    """
    args.learning_rate = student.learning_rate
    args.output_dir = str(folder)
    checkpoint = last_checkpoint(folder)
    set_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(comparison.source)
    model = student.build(comparison.source)
    # another token than the one that ends an answer
    tokenizer.pad_token_id = model.config.pad_token_id
    scored = task.held_out.select(range(comparison.skip_rows, comparison.skip_rows + comparison.score_rows))
    settings = {
        "student": {**asdict(student), "parameters": model.num_parameters()},
        "task": comparison.task,
        "metric": task.metric,
        "train_rows": len(task.train),
        "scored_rows": [comparison.skip_rows, comparison.skip_rows + len(scored)],
        "minutes": comparison.minutes,
        "machine": machine(args.device, comparison.threads),
    }
    end = 60 * comparison.minutes
    progress = Progress.of(checkpoint, settings, marks_of(comparison.first_minutes, comparison.minutes))
    on_cpu = args.device.type == "cpu"
    clock = Clock(time.process_time if on_cpu else time.monotonic)
    student.freeze(model)
    if progress.points:
        # the rate falls from where the task began
        clock.spent = progress.points[0]["seconds"]
    elif student.adaptation_share:
        seconds = student.adaptation_share * end
        clock.start()
        adaptation = {
            "continue": partial(continue_texts, rows=task.train, chunk_length=LONGEST),
            "copy": partial(copy_tokens, encode=partial(encode_ids, tokenizer)),
        }[student.adaptation]
        progress.adaptation_rows = adaptation(
            model,
            tokenizer,
            args=args,
            rates=student.rates,
            share_done=lambda: min(1.0, clock.seconds() / seconds),
        )
        adapted = f"{clock.stop():>7.0f} s {progress.adaptation_rows:>7,} rows       adapted"
        print(f"{student.name:<16}{adapted}", flush=True)
    optimizer = build_optimizer(model, args, student.rates)

    trainer = Seq2SeqTrainer(
        model=model,
        args=args,
        train_dataset=encode(task.train, tokenizer),
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
        optimizers=(optimizer, pace(optimizer, clock, end, student.warmup_steps)),
    )
    encoded = encode(scored, tokenizer).remove_columns("length")
    targets = [text.strip() for text in tokenizer.batch_decode(list(encoded["labels"]), skip_special_tokens=True)]
    trainer.add_callback(Budget(clock, Examination(trainer, encoded, targets, task, student.name), progress))
    trainer.train(resume_from_checkpoint=checkpoint)
    return {**settings, "adaptation_rows": progress.adaptation_rows, "points": progress.points}


def add_result(path: Path, record: dict[str, Any]) -> None:
    """Adds a record to a JSON file, in place of an earlier one of the same student, task and time."""

    def key(entry: dict[str, Any]) -> tuple[Any, ...]:
        return entry["task"], entry["student"]["name"], entry["minutes"]

    path.parent.mkdir(parents=True, exist_ok=True)
    # several comparisons may run at once
    with FileLock(path.with_suffix(".lock")):
        records = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        records = [entry for entry in records if key(entry) != key(record)] + [record]
        write_json(path, records)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the comparison.

    Args:
        argv: Command line arguments; those of the process by default.
    """
    parser = HfArgumentParser([ComparisonArguments, Seq2SeqTrainingArguments])
    parser.set_defaults(**RECIPE, use_cpu=not torch.cuda.is_available(), bf16=bfloat16_is_faster())
    comparison, training = parser.parse_args_into_dataclasses(argv)
    if comparison.students in (["trials"], ["adapted"]):
        prefix = comparison.students[0].removesuffix("s")
        comparison.students = [name for name in STUDENTS if name.startswith(prefix)]
    if unknown := [name for name in comparison.students if name not in STUDENTS]:
        parser.error(f"there is no student {unknown[0]!r}; use some of {', '.join(STUDENTS)}")
    torch.set_num_threads(comparison.threads)
    task = load_task(comparison.task, comparison.data_dir)
    comparison.source = str(smollm2(comparison.source))
    output_dir = Path(training.output_dir)
    for name in comparison.students:
        folder = output_dir / f"{comparison.task}-{name}"
        add_result(Path(comparison.results), train(STUDENTS[name], task, comparison, training, folder))
        # its checkpoints have served
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
