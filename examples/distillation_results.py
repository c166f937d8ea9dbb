"""What distillation is worth: students that learn from labels alone, and from labels and a teacher, at equal steps.

    pip install -e '.[distillation,evaluation,examples]'
    python examples/distillation_results.py --task docstrings
    python examples/distillation_results.py --task codexglue --data_dir FOLDER
    python examples/distillation_results_report.py

The teacher is SmolLM2-135M-Instruct with a LoRA adapter for the task, trained by `finetune_teacher.py`. It is asked
once about all rows; its most likely tokens are kept on disk, so that a student with a teacher costs hardly more than
one without. Students are those of `start_students.py`. With each seed a student sees the same rows in the same order,
once with cross-entropy alone and once with the divergence from the teacher beside it (`--alpha`). All are scored on
the same held-out rows: loss in nats a token of the target, and BLEU or ROUGE-L of greedy answers.

Two hours of one slow core for each task, minutes of a GPU, which has time for more steps (`--teacher_steps`,
`--max_steps`) and rows (`--train_rows`). Each part is kept as soon as it is done: started again, the script goes on
where it was stopped. `--parts` names one of teacher and students; `--students` and `--seeds` are which of the latter,
and how often.
"""

import copy
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import finetune_teacher
import torch
from data.smollm2 import smollm2
from datasets import Dataset
from precision import bfloat16_is_faster, training_dtype
from result_files import Parts, machine, write_json
from scoring import answer, loss_per_token
from start_students import STUDENTS, small_model
from tasks import TASKS, Task, load_task, write_files
from timed_training import TRAINING
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, HfArgumentParser, PreTrainedTokenizerBase, set_seed

from encdec_slm.adaptation import build_optimizer
from encdec_slm.distillation import IGNORE_INDEX, DistillationArguments, DistillationTrainer
from encdec_slm.distillation.cache_writer import write_teacher_cache
from encdec_slm.distillation.preparation import Prepared, prepare
from encdec_slm.distillation.trainer import STUDENT_INPUTS


EXAMPLES = Path(__file__).parent
PARTS = ("teacher", "students")
OBJECTIVES = ("labels", "teacher")
TOP_K = 64
RECIPE = {
    "alpha": 0.5,
    "max_steps": 200,
    "max_source_length": 128,
    "max_target_length": 128,
    # a beginning and an end, as the layers know it that a student starts from
    "source_template": "<|im_start|>{source}<|im_end|>",
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 20,
    "train_sampling_strategy": "group_by_length",
    "adam_beta2": 0.98,
    "optim": "adamw_torch_fused",
    "output_dir": "outputs/distillation_results",
    "logging_steps": 50,
    "save_strategy": "no",
    "report_to": "none",
    "dataloader_pin_memory": False,
}
# what a result depends on, beside the student, its seed and what it learns from
SETTINGS = (
    "alpha",
    "divergence",
    "temperature",
    "max_steps",
    "max_source_length",
    "max_target_length",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "bf16",
)


@dataclass
class ResultsArguments:
    """What is compared on which rows."""

    task: str = field(
        metadata={"help": "codexglue (Java to C#) or docstrings (function to docstring).", "choices": TASKS}
    )
    data_dir: str | None = field(default=None, metadata={"help": "Folder of the CodeXGLUE files."})
    parts: list[str] = field(default_factory=lambda: [*PARTS], metadata={"help": "Of teacher and students."})
    students: list[str] = field(default_factory=lambda: ["half"], metadata={"help": f"Of {', '.join(STUDENTS)}."})
    seeds: int = field(default=2, metadata={"help": "Trainings of each student with each objective."})
    teacher_steps: int = field(
        default=100, metadata={"help": "Steps of the teacher, of as many rows as the students'."}
    )
    train_rows: int = field(default=800, metadata={"help": "Rows to learn from."})
    score_rows: int = field(default=100, metadata={"help": "Rows that are answered, and of which the loss is taken."})
    skip_rows: int = field(default=60, metadata={"help": "Rows before those, on which recipes were chosen."})
    threads: int = field(default=2, metadata={"help": "CPU threads."})
    source: str = field(default="outputs/smollm2-135m-instruct", metadata={"help": "Decoder-only model folder."})
    results: str = field(default=str(EXAMPLES / "results"), metadata={"help": "Folder of the JSON file of the task."})

    def __post_init__(self) -> None:
        for given, known in ((self.parts, PARTS), (self.students, STUDENTS)):
            if unknown := [name for name in given if name not in known]:
                raise ValueError(f"there is no {unknown[0]!r}: use some of {', '.join(known)}")


class Comparison:
    """All parts of a comparison on one task, each done once.

    Args:
        results: What is compared.
        args: How students are trained.
    """

    def __init__(self, results: ResultsArguments, args: DistillationArguments) -> None:
        self.results = results
        self.args = args
        self.folder = Path(args.output_dir) / results.task
        self.adapter = self.folder / "teacher"
        self.cache = self.folder / "cache"

    @cached_property
    def task(self) -> Task:
        """The rows, whose targets begin with a line break in the files only."""
        return load_task(self.results.task, self.results.data_dir)

    @cached_property
    def files(self) -> dict[str, Path]:
        """Files of the rows."""
        return write_files(self.task, self.folder)

    @cached_property
    def train_rows(self) -> Dataset:
        """Rows to learn from."""
        return Dataset.from_json(str(self.files["train"])).take(self.results.train_rows)

    @cached_property
    def scored_rows(self) -> Dataset:
        """Rows that are answered."""
        start = self.results.skip_rows
        return Dataset.from_json(str(self.files["validation"])).select(range(start, start + self.results.score_rows))

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The one of teacher and students, which pads with another token than the one that ends an answer."""
        tokenizer = AutoTokenizer.from_pretrained(self.results.source)
        tokenizer.pad_token_id = 0
        return tokenizer

    def run(self) -> None:
        """Does what is not done yet."""
        if "teacher" in self.results.parts:
            self.once("teacher", self.teach)
        if "students" not in self.results.parts:
            return
        if not self.cache.exists():
            raise ValueError(f"{self.cache} does not exist: run the part `teacher` first")
        for seed in range(self.results.seeds):
            for name in self.results.students:
                for objective in OBJECTIVES:
                    self.once(f"{name}-{objective}-{seed}", partial(self.train, name, objective, seed))

    def once(self, name: str, part: Callable[[], dict[str, Any]]) -> None:
        """Does a part unless its record is there."""
        record = self.parts.once(name, part)
        print(f"{name}: loss {record['loss']:.3f}, {record['metric']} {record['score']:.1f}", flush=True)

    @cached_property
    def parts(self) -> Parts:
        """The records of all parts, and what they depend on."""
        names = ("teacher_steps", "train_rows", "score_rows", "skip_rows")
        return Parts(
            folder=self.folder,
            results=Path(self.results.results) / f"distillation_{self.results.task}.json",
            settings={name: getattr(self.args, name) for name in SETTINGS}
            | {name: getattr(self.results, name) for name in names},
            common={
                "task": self.results.task,
                "metric": self.task.metric,
                "machine": machine(self.args.device, self.results.threads),
            },
        )

    def teach(self) -> dict[str, Any]:
        """Fine-tunes the teacher, asks it about all rows and scores it."""
        if not self.adapter.exists():
            self.finetune()
        args = copy.copy(self.args)
        args.teacher_adapters = str(self.adapter)
        args.teacher_model_init_kwargs = {"dtype": "bfloat16" if args.bf16 else "float32"}
        # any student will do: all have the same tokens
        student = small_model(self.results.source, 64, 1, 1)
        prepared = prepare(student, self.results.source, args, self.tokenizer(), None)
        for rows in (self.train_rows, self.scored_rows):
            report = write_teacher_cache(
                self.cache,
                prepared.teacher,
                prepared.encode(rows),
                collator=prepared.collator,
                student_tokenizer=prepared.encoder.tokenizer,
                top_k=TOP_K,
                temperature=args.temperature,
                shared_ids=prepared.shared_ids,
                batch_size=args.per_device_eval_batch_size,
                teacher_name=self.results.source,
            )
        said = {
            "label": "SmolLM2-135M, fine-tuned",
            "parameters": prepared.teacher.model.get_base_model().num_parameters(),
        }
        # where a report on the adapter's answers looks for it
        pairs = self.results.teacher_steps * self.args.per_device_train_batch_size
        write_json(self.adapter / TRAINING, said | {"pairs": pairs})
        return {
            **said,
            "objective": "teacher itself",
            "tail_probability": report.tail_probability,
            **score_teacher(prepared, self.scored_rows, self.task, self.args),
        }

    def finetune(self) -> None:
        """Trains the teacher's adapter."""
        unfinished = self.adapter.with_suffix(".partial")
        shutil.rmtree(unfinished, ignore_errors=True)
        options = {
            "config": EXAMPLES / "configs" / "teacher_smollm2_codexglue.yaml",
            "model_name_or_path": self.results.source,
            "train_file": self.files["train"],
            "validation_file": self.files["validation"],
            "max_train_samples": self.results.train_rows,
            "max_eval_samples": self.results.skip_rows,
            "max_source_length": self.args.max_source_length,
            "max_target_length": self.args.max_target_length,
            "max_steps": self.results.teacher_steps,
            "per_device_train_batch_size": self.args.per_device_train_batch_size,
            "bf16": self.args.bf16,
            "use_cpu": self.args.use_cpu,
            "output_dir": unfinished,
        }
        finetune_teacher.main([text for name, value in options.items() for text in (f"--{name}", str(value))])
        unfinished.rename(self.adapter)

    def train(self, name: str, objective: str, seed: int) -> dict[str, Any]:
        """Trains a student and scores it."""
        student = STUDENTS[name]
        set_seed(seed)
        model, tokenizer = student.build(self.results.source), self.tokenizer()
        student.freeze(model)
        args = copy.copy(self.args)
        args.seed, args.learning_rate, args.warmup_steps = seed, student.learning_rate, student.warmup_steps
        args.alpha, args.teacher_cache = (0.0, None) if objective == "labels" else (self.args.alpha, str(self.cache))
        trainer = DistillationTrainer(
            model=model,
            teacher=None if objective == "labels" else self.results.source,
            args=args,
            train_dataset=self.train_rows,
            processing_class=tokenizer,
            optimizers=(build_optimizer(model, args, student.rates), None),
        )
        trainer.train()
        model.eval()
        batches = [
            {name: batch[name] for name in STUDENT_INPUTS} for batch in trainer.get_test_dataloader(self.scored_rows)
        ]
        dtype = training_dtype(args)
        answers = answer(model, batches, tokenizer, args.max_target_length, dtype)
        return {
            "student": name,
            "label": student.label,
            "objective": objective,
            "seed": seed,
            "parameters": model.num_parameters(),
            "loss": loss_per_token(model, batches, dtype),
            "score": self.task.score(answers, targets_of(batches, tokenizer)),
        }


@torch.no_grad()
def score_teacher(prepared: Prepared, rows: Dataset, task: Task, args: DistillationArguments) -> dict[str, float]:
    """Returns loss and score of a teacher on the targets that the students are scored on."""
    teacher, tokenizer = prepared.teacher, prepared.encoder.tokenizer
    total, tokens, answers = 0.0, 0, []
    batches = list(batches_of(prepared, rows, args))
    for batch in batches:
        mask = batch["labels"] != IGNORE_INDEX
        logits = prepared.signal(batch)[mask].logits()
        total += cross_entropy(logits.float(), batch["labels"][mask], reduction="sum").item()
        tokens += int(mask.sum())
        prompt = batch["teacher_prompt_ids"]
        ids = teacher.model.generate(
            input_ids=prompt,
            attention_mask=batch["teacher_prompt_mask"],
            max_new_tokens=args.max_target_length,
            do_sample=False,
        )
        texts = tokenizer.batch_decode(ids[:, prompt.shape[1] :], skip_special_tokens=True)
        answers += [text.strip() for text in texts]
    return {"loss": total / tokens, "score": task.score(answers, targets_of(batches, tokenizer))}


def batches_of(prepared: Prepared, rows: Dataset, args: DistillationArguments) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of rows, on the device of the training."""
    encoded = prepared.encode(rows, needs_teacher=False)
    for batch in DataLoader(encoded, batch_size=args.per_device_eval_batch_size, collate_fn=prepared.collator):
        yield {name: tensor.to(args.device) for name, tensor in batch.items()}


def targets_of(batches: Sequence[dict[str, torch.Tensor]], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The targets as far as the students are to write them."""
    labels = [row[row != IGNORE_INDEX] for batch in batches for row in batch["labels"]]
    return [text.strip() for text in tokenizer.batch_decode(labels, skip_special_tokens=True)]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the comparison.

    Args:
        argv: Command line arguments; those of the process by default.
    """
    parser = HfArgumentParser([ResultsArguments, DistillationArguments])
    parser.set_defaults(**RECIPE, use_cpu=not torch.cuda.is_available(), bf16=bfloat16_is_faster())
    results, args = parser.parse_args_into_dataclasses(argv)
    torch.set_num_threads(results.threads)
    results.source = str(smollm2(results.source))
    Comparison(results, args).run()


if __name__ == "__main__":
    main()
