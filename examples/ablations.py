"""The paper's ablations at a small size: how to share out the layers, and what a teacher gives to each share.

    make demo
    python examples/ablations.py --config examples/configs/ablations_tiny.yaml
    python examples/ablations.py --config examples/configs/ablations_tiny.yaml --splits 2/3-1/3 --objectives teacher

An encoder-decoder with a third, a half and two thirds of its layers in the encoder, with and without places in
cross-attention, and a decoder-only model, all of as many parameters (`ablation_models.py`), learn English
pronunciation for as many steps, on the same words in the same order: from the dictionary alone (cross-entropy), and
from the probabilities of the demo's teacher too (KD). All are scored on words that none of them has seen: loss in nats
a token, phonemes and words wrong.

`--config examples/configs/ablations_small.yaml` is the larger one, for a GPU. The flags of `DistillationArguments`
change the recipe. Each training is kept as soon as it is done: started again, the script goes on where it was stopped.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl
import torch
from ablation_models import SPLITS, Split, build
from continuation_distiller import continuation_trainer
from data.cmudict import CMUDict
from datasets import Dataset
from matplotlib import pyplot as plt
from result_files import Parts, machine, spread
from scoring import loss_per_token
from spelling_scores import error_rates, pronounce
from spelling_students import STUDENT_RECIPE, student_trainer
from spelling_teacher import TEACHER_TEMPLATE, continuations
from spelling_to_sound import BESIDE, OUTPUT_DIR, TEACHER, first
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
from trl import TrlParser

from encdec_slm.distillation import DistillationArguments
from encdec_slm.distillation.trainer import STUDENT_INPUTS


mpl.use("Agg")

RESULTS = Path(__file__).parent / "results"
OBJECTIVES = {"labels": "CE", "teacher": "CE and KD"}
# what a result depends on, beside the split, the seed and what is learned from
SETTINGS = ("alpha", "divergence", "temperature", "max_steps", "learning_rate", "per_device_train_batch_size")
QUANTITIES = ("loss", "phoneme_error_rate", "word_error_rate")

Record = dict[str, Any]


@dataclass
class AblationArguments:
    """What is compared."""

    splits: list[str] = field(default_factory=lambda: [*SPLITS], metadata={"help": f"Of {', '.join(SPLITS)}."})
    objectives: list[str] = field(
        default_factory=lambda: [*OBJECTIVES], metadata={"help": f"Of {', '.join(OBJECTIVES)}."}
    )
    preset: str = field(default="tiny", metadata={"help": "Named size whose layers are shared out."})
    words: int = field(default=4_000, metadata={"help": "Words to learn from."})
    seeds: int = field(default=2, metadata={"help": "Trainings of each kind."})
    test_words: int = field(default=2_000, metadata={"help": "Words that are scored."})
    threads: int = field(default=2, metadata={"help": "CPU threads; one is faster if the other cores are busy."})
    teacher: str = field(default=f"{OUTPUT_DIR}/{BESIDE[TEACHER]}", metadata={"help": "Folder of the teacher."})
    results: str = field(default=str(RESULTS / "ablations_tiny.json"), metadata={"help": "File of the results."})

    def __post_init__(self) -> None:
        for given, known in ((self.splits, SPLITS), (self.objectives, OBJECTIVES)):
            if unknown := [name for name in given if name not in known]:
                raise ValueError(f"there is no {unknown[0]!r}: use some of {', '.join(known)}")


def trainer_of(
    split: Split, rows: Dataset, ablation: AblationArguments, training: DistillationArguments, *, is_distilled: bool
) -> Trainer:
    """A trainer of one student; equal seeds give equal rows in an equal order."""
    tokenizer = AutoTokenizer.from_pretrained(ablation.teacher)
    teacher = AutoModelForCausalLM.from_pretrained(ablation.teacher) if is_distilled else None
    if split.is_encoder_decoder:
        return student_trainer(rows, tokenizer, training, teacher, partial(build, split, ablation.preset))
    torch.manual_seed(training.seed)
    return continuation_trainer(
        build(split, ablation.preset, tokenizer),
        rows,
        tokenizer,
        stock_arguments(training),
        teacher=teacher,
        alpha=training.alpha,
    )


def stock_arguments(training: DistillationArguments) -> TrainingArguments:
    """What a stock trainer knows of the arguments of a distillation."""
    names = [one.name for one in fields(TrainingArguments) if one.init]
    return TrainingArguments(**{name: copy.copy(getattr(training, name)) for name in names})


def train(
    split: Split,
    rows: Dataset,
    test: Dataset,
    ablation: AblationArguments,
    training: DistillationArguments,
    *,
    is_distilled: bool,
) -> Record:
    """The record of one student, from its training to its scores."""
    trainer = trainer_of(split, rows, ablation, training, is_distilled=is_distilled)
    trained = trainer.train()
    model, tokenizer = trainer.model.eval(), trainer.processing_class
    scored = test.select_columns(["source", "target"])
    if not split.is_encoder_decoder:
        scored = continuations(scored, tokenizer)
    # a teacher's collator knows more columns
    batches = [{name: batch[name] for name in STUDENT_INPUTS} for batch in trainer.get_test_dataloader(scored)]
    template = "{source}" if split.is_encoder_decoder else TEACHER_TEMPLATE
    rates = error_rates(pronounce(model, tokenizer, list(test["source"]), template), test)
    return {
        "split": split.name,
        "objective": "teacher" if is_distilled else "labels",
        "seed": training.seed,
        "parameters": model.num_parameters(),
        "training_seconds": round(trained.metrics["train_runtime"], 1),
        "loss": loss_per_token(model, batches),
        "phoneme_error_rate": rates["phonemes"],
        "word_error_rate": rates["words"],
    }


def file_name(split: str) -> str:
    """The name of a split in that of a file.

    Example:
        >>> file_name("2/3-1/3 with places")
        '2_3-1_3_with_places'
    """
    return split.replace("/", "_").replace(" ", "_")


def values_of(records: Sequence[Record], split: str, objective: str, quantity: str) -> list[float]:
    """One number of each seed, in the order of the seeds."""
    found = [record for record in records if (record["split"], record["objective"]) == (split, objective)]
    return [record[quantity] for record in sorted(found, key=lambda record: record["seed"])]


def table(records: Sequence[Record]) -> str:
    """Error rates by split and objective, as Markdown."""
    lines = [
        "| encoder-decoder | learnt from | parameters | seeds | loss, nats a token | phonemes wrong | words wrong |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for objective, label in OBJECTIVES.items():
        for split in SPLITS:
            values = partial(values_of, records, split, objective)
            if not (parameters := values("parameters")):
                continue
            shown = " | ".join(spread(values(quantity)) for quantity in QUANTITIES)
            lines.append(f"| {split} | {label} | {parameters[0]:,} | {len(parameters)} | {shown} |")
    return "\n".join(lines)


def draw(records: Sequence[Record], path: Path) -> None:
    """Draws a bar for each split and objective: the mean of the seeds, and each seed as a point."""
    figure, axis = plt.subplots(figsize=(9, 3), layout="constrained")
    for index, (objective, label) in enumerate(OBJECTIVES.items()):
        found = {split: values_of(records, split, objective, "phoneme_error_rate") for split in SPLITS}
        found = {split: rates for split, rates in found.items() if rates}
        places = [[*SPLITS].index(split) + 0.4 * (index - 0.5) for split in found]
        axis.bar(places, [mean(rates) for rates in found.values()], width=0.38, label=label, color=f"C{index}")
        for place, rates in zip(places, found.values(), strict=True):
            axis.plot([place] * len(rates), rates, "k.", markersize=5)
    axis.set_xticks(range(len(SPLITS)), [name.replace(" with", "\nwith") for name in SPLITS])
    axis.set_title("phonemes wrong, by share of encoder and decoder", loc="left", fontsize=10)
    figure.legend(loc="outside right upper", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def parts_of(ablation: AblationArguments, training: DistillationArguments) -> Parts:
    """The records of all trainings, and what they depend on."""
    settings = {name: getattr(training, name) for name in SETTINGS}
    settings |= {name: getattr(ablation, name) for name in ("preset", "words", "test_words")}
    return Parts(
        folder=Path(training.output_dir),
        results=Path(ablation.results),
        settings=settings,
        common={"machine": machine(training.device, ablation.threads)},
    )


def main(argv: Sequence[str] | None = None) -> list[Record]:
    """Runs what is not done yet, prints and draws.

    Args:
        argv: Command line arguments; those of the process by default.

    Returns:
        The records of all students that were asked for.

    Raises:
        ValueError: If there is no teacher, or results of another recipe are there.
    """
    parser = TrlParser([AblationArguments, DistillationArguments])
    parser.set_defaults(**STUDENT_RECIPE, output_dir="outputs/ablations_tiny", use_cpu=not torch.cuda.is_available())
    ablation, training = parser.parse_args_and_config(argv)
    if not Path(ablation.teacher).is_dir():
        raise ValueError(f"there is no teacher in {ablation.teacher}: run `make demo` first, or name its folder")
    torch.set_num_threads(ablation.threads)
    builder = CMUDict()
    builder.download_and_prepare()
    rows = first(builder.as_dataset("train"), ablation.words)
    test = first(builder.as_dataset("test"), ablation.test_words)
    parts, records = parts_of(ablation, training), []
    for seed in range(ablation.seeds):
        for objective in ablation.objectives:
            for name in ablation.splits:
                arguments = copy.copy(training)
                arguments.seed = seed
                part = partial(
                    train, SPLITS[name], rows, test, ablation, arguments, is_distilled=objective == "teacher"
                )
                record = parts.once(f"{file_name(name)}-{objective}-{seed}", part)
                print(f"{record['name']}: {record['phoneme_error_rate']:.3f} of the phonemes wrong", flush=True)
                records.append(record)
    print(f"\n{table(records)}")
    draw(records, Path(ablation.results).with_suffix(".png"))
    return records


if __name__ == "__main__":
    main()
