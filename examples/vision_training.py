"""How the vision demo trains and asks: three stages of the stock trainer, and greedy answers."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    set_seed,
)

from encdec_slm.image_text_collator import DataCollatorForImageTextToText
from encdec_slm.parameter_groups import build_optimizer, freeze


RECIPE = {
    "max_steps": 400,
    "per_device_train_batch_size": 32,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    # a tenth of each stage
    "warmup_steps": 0.1,
    "adam_beta2": 0.98,
    "logging_steps": 50,
    "dataloader_pin_memory": False,
    "save_strategy": "no",
    # images are prepared as a batch is made
    "remove_unused_columns": False,
}
# all that is neither projector nor newline
BESIDE_THE_PROJECTOR = r"^(?!.*(multi_modal_projector|image_newline))"
TOWER = "vision_tower."
BATCH_SIZE = 64

Collator = Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]]


def train(
    model: PreTrainedModel,
    rows: Dataset,
    collator: Collator,
    training: Seq2SeqTrainingArguments,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Trains what of a model is not frozen; equal seeds give an equal order of the rows."""
    set_seed(training.seed)
    trainer = Seq2SeqTrainer(
        model=model, args=training, train_dataset=rows, data_collator=collator, optimizers=(optimizer, None)
    )
    trainer.train()


def train_text(
    model: PreTrainedModel, rows: Dataset, tokenizer: PreTrainedTokenizerFast, training: Seq2SeqTrainingArguments
) -> None:
    """Trains an encoder-decoder on `source` and `target`."""

    def encode(batch: dict[str, list[str]]) -> dict[str, Any]:
        return {**tokenizer(batch["source"]), "labels": tokenizer(text_target=batch["target"])["input_ids"]}

    rows = rows.map(encode, batched=True, remove_columns=rows.column_names, desc="Tokenizing")
    train(model, rows, DataCollatorForSeq2Seq(tokenizer), training)


def train_projector(
    model: PreTrainedModel, rows: Dataset, collator: Collator, training: Seq2SeqTrainingArguments
) -> None:
    """Trains the way from the tower to the text model alone."""
    freeze(model, [BESIDE_THE_PROJECTOR])
    train(model, rows, collator, training)


def train_all(
    model: PreTrainedModel,
    rows: Dataset,
    collator: Collator,
    training: Seq2SeqTrainingArguments,
    tower_rate: float = 0.0,
) -> None:
    """Trains all of a model.

    Args:
        model: The model.
        rows: With `images`, `source` and `target`.
        collator: Makes batches of them.
        training: Arguments of the training.
        tower_rate: The learning rate of the tower as a multiple of that of the others; it is frozen at 0.
    """
    for name, weight in model.named_parameters():
        weight.requires_grad_(tower_rate > 0 or TOWER not in name)
    optimizer = build_optimizer(model, training, {re.escape(TOWER): tower_rate}) if tower_rate > 0 else None
    train(model, rows, collator, training, optimizer)


@torch.no_grad()
def answers(model: PreTrainedModel, rows: Dataset, processor: ProcessorMixin) -> list[str]:
    """The greedy answers of an encoder-decoder.

    Args:
        model: It is put into evaluation mode.
        rows: With `source`, and `images` if it is to see them.
        processor: Of the model, or of one that sees and has the same vocabulary.
    """
    model.eval()
    collator = DataCollatorForImageTextToText(processor)
    found: list[str] = []
    for batch in batches(rows):
        inputs = collator([{name: row[name] for name in row if name != "target"} for row in batch])
        ids = model.generate(**inputs.to(model.device), do_sample=False)
        found += [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)]
    return found


def batches(rows: Dataset) -> Iterator[list[dict[str, Any]]]:
    """The rows in their order, some at once."""
    for start in range(0, len(rows), BATCH_SIZE):
        yield [rows[index] for index in range(start, min(start + BATCH_SIZE, len(rows)))]
