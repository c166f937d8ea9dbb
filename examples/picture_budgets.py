"""What fewer tokens of a picture cost in accuracy, and what a decoder-only model of equal size makes of as many.

    python examples/picture_budgets.py

The task, the stages and the tower of `picture_questions.py`, without the tags of emoji, which the published record is
older than; all models see the same rows in the same order for as many steps. A picture has 196 tokens, or 49 by pixel
shuffle or bilinear resampling. What is done is kept: a run that was stopped goes on where it was.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from data.efficientnet_lite import efficientnet_lite0
from datasets import Dataset
from picture_peer import PeerCollator, build_text_peer, build_vision_peer, peer_answers
from picture_questions import TOWER_DIR
from remembered_tower import RememberingTower, remembered
from result_files import Parts, machine
from transformers import AutoModel, HfArgumentParser, PreTrainedTokenizerFast, Seq2SeqTrainingArguments, set_seed
from vision_model import TOWER_LAYER, build_text_model, build_tokenizer, build_vision_model
from vision_report import NEW_WORDS, entries
from vision_rows import QUESTION_TYPES, Splits, load_splits, seen, unseen
from vision_training import RECIPE, answers, train, train_all, train_projector, train_text

from encdec_slm.image_text_collator import DataCollatorForImageTextToText


RESULTS = "examples/results/picture_budgets.json"
COMPARED = QUESTION_TYPES | {"emoji": ("group", "subgroup")}
ALL_TOKENS = {"max_image_tokens": 196, "image_token_compression": "bilinear"}
SHUFFLED = {"max_image_tokens": 49, "image_token_compression": "pixel_shuffle"}
RESAMPLED = {"max_image_tokens": 49, "image_token_compression": "bilinear"}


@dataclass
class BudgetArguments:
    """What is compared, beside the last stage of the training."""

    charts: int = field(default=1_000, metadata={"help": "Number of charts to draw and learn."})
    test_charts: int = field(default=100, metadata={"help": "Number of charts in each of the two test splits."})
    text_steps: int = field(default=150, metadata={"help": "Steps of the text models' training."})
    projector_steps: int = field(default=60, metadata={"help": "Steps in which the projector alone learns."})
    threads: int = field(default=2, metadata={"help": "CPU threads."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where the data sets are kept."})
    tower_dir: str = field(default=TOWER_DIR, metadata={"help": "Folder of the tower, made if it is not there."})
    results: str = field(default=RESULTS, metadata={"help": "JSON file of all results."})


@dataclass(frozen=True, kw_only=True)
class Task:
    """What all models of the comparison have in common."""

    splits: Splits
    tokenizer: PreTrainedTokenizerFast
    tower: Path
    memory: RememberingTower
    arguments: BudgetArguments
    training: Seq2SeqTrainingArguments

    def stage(self, steps: int) -> Seq2SeqTrainingArguments:
        """Arguments of a stage of so many steps."""
        return replace(self.training, max_steps=steps)


def encoder_decoder(task: Task, fields: dict[str, Any]) -> dict[str, Any]:
    """Trains and scores ours."""
    set_seed(task.training.seed)
    text_model = build_text_model(task.tokenizer)
    train_text(text_model, unseen(task.splits.train), task.tokenizer, task.stage(task.arguments.text_steps))
    model, processor = build_vision_model(text_model, task.tower, task.tokenizer, **fields)
    with remembered(model, task.memory):
        see(task, model, DataCollatorForImageTextToText(processor))
        return record(task, text_model, fields, lambda rows: answers(model, rows, processor))


def decoder_only(task: Task, fields: dict[str, Any]) -> dict[str, Any]:
    """Trains and scores the peer."""
    set_seed(task.training.seed)
    # for its processor and its shape: it is not trained
    ours, processor = build_vision_model(build_text_model(task.tokenizer), task.tower, task.tokenizer, **fields)
    text_model = build_text_peer(task.tokenizer)
    collator = PeerCollator(processor)
    train(text_model, unseen(task.splits.train), collator, task.stage(task.arguments.text_steps))
    model = build_vision_peer(text_model, ours, task.memory)
    see(task, model, collator)
    return record(task, text_model, fields, lambda rows: peer_answers(model, rows, processor))


def see(task: Task, model: Any, collator: Any) -> None:
    """The two stages with pictures."""
    rows = seen(task.splits.train)
    train_projector(model, rows, collator, task.stage(task.arguments.projector_steps))
    train_all(model, rows, collator, task.training)


def record(
    task: Task, text_model: Any, fields: dict[str, Any], answer: Callable[[Dataset], Sequence[str]]
) -> dict[str, Any]:
    """What is kept of a model: its size without tower and projector, the tokens of a picture, its accuracies."""
    parts = ((task.splits.test, None), (task.splits.test_new_words, NEW_WORDS))
    found = []
    for rows, name in parts:
        found += entries(rows, {"": answer(seen(rows))}, name)
    return {
        "text_parameters": text_model.num_parameters(),
        **fields,
        "accuracy": {entry.questions: round(entry.accuracy[""], 4) for entry in found},
    }


CONTESTANTS: dict[str, Callable[[Task], dict[str, Any]]] = {
    "encoder-decoder, 196 tokens": partial(encoder_decoder, fields=ALL_TOKENS),
    "encoder-decoder, 49 tokens by pixel shuffle": partial(encoder_decoder, fields=SHUFFLED),
    "encoder-decoder, 49 tokens by resampling": partial(encoder_decoder, fields=RESAMPLED),
    "decoder-only, 196 tokens": partial(decoder_only, fields=ALL_TOKENS),
    "decoder-only, 49 tokens by pixel shuffle": partial(decoder_only, fields=SHUFFLED),
}


def table(records: Sequence[dict[str, Any]]) -> str:
    """The accuracies in Markdown, a line for each model."""
    columns = [name for name in records[0]["accuracy"] if name.endswith(": all")]
    lines = [
        "| model | parameters beside the tower | " + " | ".join(name.removesuffix(": all") for name in columns) + " |",
        "|---|---:|" + "---:|" * len(columns),
    ]
    for one in records:
        values = " | ".join(f"{one['accuracy'][name]:.3f}" for name in columns)
        lines.append(f"| {one['name']} | {one['text_parameters']:,} | {values} |")
    return "\n".join(lines)


def prepare(arguments: BudgetArguments, training: Seq2SeqTrainingArguments) -> Task:
    """The rows, a vocabulary, and a tower that has seen nothing yet."""
    splits = load_splits(
        arguments.charts,
        arguments.test_charts,
        question_types=COMPARED,
        processes=arguments.threads,
        cache_dir=arguments.cache_dir,
    )
    tower = efficientnet_lite0(arguments.tower_dir)
    return Task(
        splits=splits,
        tokenizer=build_tokenizer(text for name in ("source", "target") for text in splits.train[name]),
        tower=tower,
        memory=RememberingTower(AutoModel.from_pretrained(tower).eval(), TOWER_LAYER),
        arguments=arguments,
        training=training,
    )


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run what of the comparison has not been done, and print the table.

    Args:
        argv: Command line arguments; those of the process by default.

    Returns:
        A record of each model.
    """
    parser = HfArgumentParser([BudgetArguments, Seq2SeqTrainingArguments])
    parser.set_defaults(**RECIPE, output_dir="outputs/picture_budgets", use_cpu=True)
    arguments, training = parser.parse_args_into_dataclasses(argv)
    torch.set_num_threads(arguments.threads)
    task = prepare(arguments, training)
    names = ("charts", "test_charts", "text_steps", "projector_steps")
    settings = {name: getattr(arguments, name) for name in names} | {
        name: getattr(training, name) for name in ("max_steps", "per_device_train_batch_size", "learning_rate", "seed")
    }
    parts = Parts(
        folder=Path(training.output_dir) / "parts",
        results=Path(arguments.results),
        settings=settings,
        common={"machine": machine(torch.device("cpu"), arguments.threads)},
    )
    records = [parts.once(name, partial(contestant, task)) for name, contestant in CONTESTANTS.items()]
    print(f"\n{table(records)}")
    return records


if __name__ == "__main__":
    main()
