"""Is what a teacher gives more than chance? The students of the spelling-to-sound demo, with several seeds.

    make demo
    python examples/spelling_seeds.py

The teacher is the one that `make demo` has trained, on all words of the dictionary. Students learn for equal steps on
the same words in the same order, with each seed once from the dictionary alone and once from the teacher's
probabilities too. They do so twice over: on all words, and on a few, where a teacher that has seen more has more to
say. All are scored on the demo's test words: phonemes wrong, and the loss in nats a token. Two students of one seed
begin with the same weights: what the teacher gives is told seed by seed, and of all seeds together.

The flags of `DistillationArguments` change the recipe of the students. Each training is kept as soon as it is done:
started again, the script goes on where it was stopped.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from data.cmudict import CMUDict
from datasets import Dataset
from matplotlib import pyplot as plt
from result_files import Parts, machine, spread
from spelling_scores import error_rates, pronounce
from spelling_students import STUDENT_RECIPE, student_trainer
from spelling_to_sound import BESIDE, OUTPUT_DIR, TEACHER, first
from transformers import AutoModelForCausalLM, AutoTokenizer, HfArgumentParser

from encdec_slm.distillation import DistillationArguments


mpl.use("Agg")

RESULTS = Path(__file__).parent / "results"
OBJECTIVES = {"labels": "labels", "teacher": "labels and teacher"}
COMPARED = {"loss": "loss", "phoneme_error_rate": "phonemes wrong"}
# what a result depends on, beside the words, the seed and what is learned from
SETTINGS = ("alpha", "divergence", "temperature", "max_steps", "learning_rate", "per_device_train_batch_size")

Record = dict[str, Any]


@dataclass
class SeedsArguments:
    """What is compared."""

    words: list[int] = field(
        default_factory=lambda: [4_000, 122_052], metadata={"help": "Numbers of words to learn from, each compared."}
    )
    seeds: int = field(default=3, metadata={"help": "Trainings of each kind."})
    test_words: int = field(default=2_000, metadata={"help": "Words that are scored."})
    threads: int = field(default=2, metadata={"help": "CPU threads; one is faster if the other cores are busy."})
    teacher: str = field(default=f"{OUTPUT_DIR}/{BESIDE[TEACHER]}", metadata={"help": "Folder of the teacher."})
    results: str = field(default=str(RESULTS / "spelling_seeds.json"), metadata={"help": "File of the results."})


def train(
    rows: Dataset, test: Dataset, seeds: SeedsArguments, training: DistillationArguments, *, is_distilled: bool
) -> Record:
    """The record of one student, from its training to its scores."""
    tokenizer = AutoTokenizer.from_pretrained(seeds.teacher)
    teacher = AutoModelForCausalLM.from_pretrained(seeds.teacher) if is_distilled else None
    trainer = student_trainer(rows, tokenizer, training, teacher)
    trainer.train()
    loss = trainer.evaluate(test.select_columns(["source", "target"]))["eval_ce_loss"]
    rates = error_rates(pronounce(trainer.model, tokenizer, list(test["source"])), test)
    return {
        "words": len(rows),
        "objective": "teacher" if is_distilled else "labels",
        "seed": training.seed,
        "loss": loss,
        "phoneme_error_rate": rates["phonemes"],
        "word_error_rate": rates["words"],
    }


def gap(alone: Sequence[float], taught: Sequence[float]) -> float:
    """How much lower the worst with a teacher is than the best without; negative if they overlap.

    Example:
        >>> gap([0.4, 0.3], [0.1, 0.2]) > 0 > gap([0.4, 0.3], [0.1, 0.35])
        True
    """
    return min(alone) - max(taught)


def values_of(records: Sequence[Record], words: int, objective: str, quantity: str) -> list[float]:
    """One number of each seed, in the order of the seeds."""
    found = [record for record in records if (record["words"], record["objective"]) == (words, objective)]
    return [record[quantity] for record in sorted(found, key=lambda record: record["seed"])]


def conclusion(alone: Sequence[float], taught: Sequence[float]) -> str:
    """What a teacher gives in a quantity that should be low, the students of one seed at the same place.

    Example:
        >>> conclusion([0.4, 0.3], [0.2, 0.2]).partition("; ")[0]
        'lower with the teacher by 0.150 (0.100 to 0.200) seed by seed'
    """
    gains = [without - with_teacher for without, with_teacher in zip(alone, taught, strict=True)]
    least = gap(alone, taught)
    verdict = f"{least:.3f} below the best without" if least > 0 else "no better than the best without"
    return f"lower with the teacher by {spread(gains)} seed by seed; the worst with it is {verdict}"


def table(records: Sequence[Record]) -> str:
    """Losses and error rates by words and objective as Markdown, and what the teacher gives."""
    lines = [
        "| words to learn from | learnt from | seeds | loss, nats a token | phonemes wrong | words wrong |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    conclusions = []
    for words in sorted({record["words"] for record in records}):
        values = partial(values_of, records, words)
        for objective, label in OBJECTIVES.items():
            columns = [values(objective, quantity) for quantity in ("loss", "phoneme_error_rate", "word_error_rate")]
            shown = " | ".join(spread(column) for column in columns)
            lines.append(f"| {words:,} | {label} | {len(columns[0])} | {shown} |")
        conclusions += [
            f"{words:,} words, {name}: {conclusion(values('labels', quantity), values('teacher', quantity))}"
            for quantity, name in COMPARED.items()
        ]
    return "\n".join([*lines, "", *conclusions])


def draw(records: Sequence[Record], path: Path) -> None:
    """Draws a line for each seed, from the student without the teacher to the one with it."""
    numbers = sorted({record["words"] for record in records})
    figure, axes = plt.subplots(
        len(numbers), len(COMPARED), figsize=(9, 1.9 * len(numbers)), squeeze=False, layout="constrained"
    )
    for row, words in zip(axes, numbers, strict=True):
        for axis, (quantity, name) in zip(row, COMPARED.items(), strict=True):
            ends = [values_of(records, words, objective, quantity) for objective in OBJECTIVES]
            axis.plot(ends, range(len(ends)), "o-", color="C0", alpha=0.7)
            axis.set_title(f"{name}, {words:,} words to learn from", loc="left", fontsize=10)
            axis.set_yticks(range(len(OBJECTIVES)), OBJECTIVES.values() if axis is row[0] else [""] * len(OBJECTIVES))
            axis.set_ylim(len(OBJECTIVES) - 0.5, -0.5)
            axis.grid(alpha=0.3, axis="x")
            axis.margins(x=0.1)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> list[Record]:
    """Runs what is not done yet, prints and draws.

    Args:
        argv: Command line arguments; those of the process by default.

    Returns:
        The records of all students.

    Raises:
        ValueError: If there is no teacher, or results of another recipe are there.
    """
    parser = HfArgumentParser([SeedsArguments, DistillationArguments])
    parser.set_defaults(**STUDENT_RECIPE, output_dir="outputs/spelling_seeds", use_cpu=True)
    seeds, training = parser.parse_args_into_dataclasses(argv)
    if not Path(seeds.teacher).is_dir():
        raise ValueError(f"there is no teacher in {seeds.teacher}: run `make demo` first, or name its folder")
    torch.set_num_threads(seeds.threads)
    builder = CMUDict()
    builder.download_and_prepare()
    rows, test = builder.as_dataset("train"), first(builder.as_dataset("test"), seeds.test_words)
    parts = Parts(
        folder=Path(training.output_dir),
        results=Path(seeds.results),
        settings={name: getattr(training, name) for name in SETTINGS} | {"test_words": len(test)},
        common={"machine": machine(training.device, seeds.threads)},
    )
    records = []
    for words in seeds.words:
        for seed in range(seeds.seeds):
            for objective in OBJECTIVES:
                part = partial(
                    train,
                    first(rows, words),
                    test,
                    seeds,
                    replace(training, seed=seed),
                    is_distilled=objective == "teacher",
                )
                record = parts.once(f"{words}-{objective}-{seed}", part)
                print(f"{record['name']}: {record['phoneme_error_rate']:.3f} of the phonemes wrong", flush=True)
                records.append(record)
    print(f"\n{table(records)}")
    draw(records, Path(seeds.results).with_suffix(".png"))
    return records


if __name__ == "__main__":
    main()
