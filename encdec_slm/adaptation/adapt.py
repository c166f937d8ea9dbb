"""A short self-supervised training of any encoder-decoder, such as one just built of parts of another model.

Parts that were copied meet parts that are new, cross-attention above all: prefix language modeling and span corruption
teach them to work together before the task proper.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    set_seed,
)

from encdec_slm.adaptation.arguments import AdaptationArguments
from encdec_slm.adaptation.collator import DataCollatorForDenoising, DenoisedDataset, NewNoiseEachEpoch
from encdec_slm.adaptation.denoising import Denoiser, SpanCorruption
from encdec_slm.adaptation.sentinels import add_sentinels, sentinel_ids
from encdec_slm.adaptation.text_dataset import chunk_texts
from encdec_slm.adaptation.text_sources import load_texts
from encdec_slm.parameter_groups import build_optimizer, freeze, parse_rates


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

# of the evaluation, so that trainings with different seeds compare
EVALUATION_SEED = 0


class AdaptationResult(NamedTuple):
    """Mean cross-entropy per target token on the held-out texts, in nats, before and after the training."""

    loss_before: float
    loss_after: float


def adapt(arguments: AdaptationArguments, training: Seq2SeqTrainingArguments) -> AdaptationResult:
    """Trains a model on denoising tasks and saves it with its tokenizer to `training.output_dir`.

    The held-out texts are corrupted in the same way before and after. A training that resumes from a checkpoint ends
    with the weights it would have had; only a stream that was at its end before is read from its beginning again.

    Args:
        arguments: What is trained on what.
        training: Of the stock `Seq2SeqTrainer`; `resume_from_checkpoint` continues a training that was interrupted.

    Raises:
        ValueError: If the arguments do not fit together, or the output folder holds something already and the
            training does not resume.
    """
    denoisers, rates = arguments.denoisers(), parse_rates(arguments.learning_rate_multipliers or [])
    _check_training(arguments, training)
    set_seed(training.seed)
    tokenizer, model = _load_model(arguments)
    sentinels = _sentinels(arguments, denoisers, tokenizer, model)
    freeze(model, arguments.freeze or [])
    with training.main_process_first(desc="preparing the texts"):
        train, held_out = _load_chunks(arguments, training, tokenizer)
    options: dict[str, Any] = {
        "tokenizer": tokenizer,
        "denoisers": denoisers,
        "model": model,
        "sentinel_ids": sentinels,
        "max_source_length": arguments.max_source_length,
        "max_target_length": arguments.max_target_length,
        "pad_to_multiple_of": arguments.pad_to_multiple_of,
    }
    collator = DataCollatorForDenoising(**options, seed=training.seed)
    trainer = Seq2SeqTrainer(
        model=model,
        args=training,
        train_dataset=train,
        eval_dataset=DenoisedDataset(held_out, DataCollatorForDenoising(**options, seed=EVALUATION_SEED)),
        data_collator=collator,
        processing_class=tokenizer,
        callbacks=[NewNoiseEachEpoch(collator)],
        optimizers=(build_optimizer(model, training, rates) if rates else None, None),
    )
    return _run(trainer)


def _run(trainer: Seq2SeqTrainer) -> AdaptationResult:
    before = trainer.evaluate()["eval_loss"]
    learnt = trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    result = AdaptationResult(before, trainer.evaluate()["eval_loss"])
    trainer.save_model()
    trainer.save_state()
    trainer.save_metrics("train", learnt.metrics)
    trainer.save_metrics("eval", {f"eval_{name}": loss for name, loss in result._asdict().items()})
    return result


def _check_training(arguments: AdaptationArguments, training: Seq2SeqTrainingArguments) -> None:
    if arguments.streaming and training.max_steps <= 0:
        raise ValueError("a stream has no length: with streaming say by max_steps how long to train")
    folder = Path(str(training.output_dir))
    if training.resume_from_checkpoint is None and training.should_save and folder.exists() and any(folder.iterdir()):
        raise ValueError(
            f"the output folder {folder} already holds something: name another folder, or continue an interrupted "
            "training with resume_from_checkpoint"
        )


def _load_model(arguments: AdaptationArguments) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    options = {
        "revision": arguments.model_revision,
        "cache_dir": arguments.cache_dir,
        "trust_remote_code": arguments.trust_remote_code,
    }
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer_name or arguments.model_name_or_path, **options)
    model = AutoModelForSeq2SeqLM.from_pretrained(arguments.model_name_or_path, dtype=arguments.dtype, **options)
    return tokenizer, model


def _sentinels(
    arguments: AdaptationArguments,
    denoisers: dict[Denoiser, float],
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
) -> list[int]:
    corruptions = [denoiser for denoiser in denoisers if isinstance(denoiser, SpanCorruption)]
    if not corruptions:
        return sentinel_ids(tokenizer)
    spans = max(denoiser.counts(arguments.chunk_length)[1] for denoiser in corruptions)
    if spans > arguments.num_sentinels:
        raise ValueError(
            f"a chunk of {arguments.chunk_length} tokens has {spans} hidden spans, but num_sentinels is "
            f"{arguments.num_sentinels}: raise it, shorten the chunks or lengthen the spans"
        )
    return add_sentinels(tokenizer, model, arguments.num_sentinels)


def _load_chunks(
    arguments: AdaptationArguments, training: Seq2SeqTrainingArguments, tokenizer: PreTrainedTokenizerBase
) -> "tuple[Dataset | IterableDataset, Dataset]":
    from datasets import Dataset

    train, held_out = (
        chunk_texts(
            texts,
            tokenizer,
            chunk_length=arguments.chunk_length,
            min_chunk_length=arguments.min_chunk_length,
            text_column=arguments.text_column,
            pack=arguments.pack,
            num_proc=arguments.preprocessing_num_workers,
        )
        for texts in load_texts(arguments)
    )
    if arguments.streaming:
        train = train.shuffle(seed=training.seed, buffer_size=arguments.shuffle_buffer_size)
        # it is read again and again, and each time in full
        held_out = Dataset.from_list(list(held_out))
    elif not len(train):
        raise ValueError(_nothing_left("train", arguments))
    if not len(held_out):
        raise ValueError(_nothing_left("evaluate", arguments))
    return train, held_out


def _nothing_left(purpose: str, arguments: AdaptationArguments) -> str:
    return (
        f"no text to {purpose} on has min_chunk_length ({arguments.min_chunk_length}) tokens: give more or longer "
        "texts, or lower it"
    )
