"""A short self-supervised adaptation of a student of `start_from_decoder_only.py`, before its task."""

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

from code_rows import Copies, tokens_to_copy
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset as TorchDataset
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
)
from transformers.trainer_utils import SaveStrategy

from encdec_slm.adaptation import DataCollatorForDenoising, PrefixLM, build_optimizer, chunk_texts


class StopAt(TrainerCallback):
    """Ends a training when a clock says so."""

    def __init__(self, is_over: Callable[[], bool]) -> None:
        self.is_over = is_over

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Looks at the clock."""
        control.should_training_stop = self.is_over()


def continue_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    args: Seq2SeqTrainingArguments,
    *,
    rates: Mapping[str, float],
    chunk_length: int,
    share_done: Callable[[], float],
) -> int:
    """Teaches a model to continue the sources and targets of rows, each taken as a text of its own.

    Prefix language modeling: the encoder reads the beginning of a text and the decoder writes the rest. It needs no
    sentinels, and the form is that of the task.

    Args:
        model: It is trained in place.
        tokenizer: Of the model.
        rows: With `source` and `target`.
        args: Of the training proper; the learning rate is at its highest at the beginning and 0 at the end.
        rates: Multipliers of the learning rate by pattern of parameter names.
        chunk_length: Most tokens of a text.
        share_done: How much of the time is over, from 0 to 1.

    Returns:
        How many texts were read.
    """
    texts = Dataset.from_dict({"text": [*rows["source"], *rows["target"]]})
    chunks = chunk_texts(texts, tokenizer, chunk_length=chunk_length, pack=False)
    collator = DataCollatorForDenoising(
        tokenizer, {PrefixLM(): 1.0}, model=model, max_source_length=chunk_length, max_target_length=chunk_length
    )
    return _train(model, tokenizer, chunks, collator, args, rates, share_done)


def copy_tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encode: Callable[[list[int]], dict[str, Any]],
    args: Seq2SeqTrainingArguments,
    *,
    rates: Mapping[str, float],
    share_done: Callable[[], float],
) -> int:
    """Teaches a model to write random tokens as it reads them.

    Args:
        model: It is trained in place.
        tokenizer: Of the model.
        encode: Makes a row of such tokens, in the form of the task's.
        args: Of the training proper; the learning rate is at its highest at the beginning and 0 at the end.
        rates: Multipliers of the learning rate by pattern of parameter names.
        share_done: How much of the time is over, from 0 to 1.

    Returns:
        How many rows were copied.
    """
    rows = Copies(
        tokens_to_copy(tokenizer),
        encode,
        share_done,
        # so that they do not end before the clock says so; they get half as long as they could
        until=2.0,
        group=args.train_batch_size,
        seed=args.seed,
    )
    return _train(model, tokenizer, rows, DataCollatorForSeq2Seq(tokenizer, model=model), args, rates, share_done)


def _train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: TorchDataset[Any],
    collator: Callable[[list[dict[str, Any]]], dict[str, Any]],
    args: Seq2SeqTrainingArguments,
    rates: Mapping[str, float],
    share_done: Callable[[], float],
) -> int:
    # checkpoints are of the training proper
    args = copy(args)
    args.save_strategy = SaveStrategy.NO
    optimizer = build_optimizer(model, args, rates)
    trainer = Seq2SeqTrainer(
        model=model,
        args=args,
        train_dataset=rows,
        data_collator=collator,
        processing_class=tokenizer,
        optimizers=(optimizer, LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 20) * (1 - share_done()))),
        callbacks=[StopAt(lambda: share_done() >= 1)],
    )
    trainer.train()
    return trainer.state.global_step * args.train_batch_size
