r"""A translator from Java to C# of 3.9M parameters, from random weights, in an hour.

    pip install -e '.[examples,evaluation]'
    torchrun --nproc_per_node 2 examples/small_translator.py --data_dir FOLDER --minutes 60
    encdec-slm evaluate outputs/small_translator --task codexglue_java_cs --output outputs/small_translator/scores \
      --data FOLDER/valid.java FOLDER/valid.cs --max-new-tokens 512

`java_to_csharp.py` starts from a language model of 214M parameters, which two cores show a part of the pairs in an
hour; this one sees a pair in a fraction of that time. It has a vocabulary of the parts of names (`code_tokenizer.py`),
its cross-attention compares places (`cross_attention_rope`), and it is made to copy (`code_rows.py`): first it writes
random tokens as it reads them, then come pairs, the short ones first and several in a row, and in one of two the names
are others. Half of its layers are the decoder's; `--encoder_layers 4 --decoder_layers 2` is the paper's split. The
trainer is the library's.

On a CPU a process of one thread for each core is faster than one process of several threads: so small are the steps.
It trains in bfloat16 where products of matrices take less time in it, unless `--bf16 false` says otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from code_rows import Copies, Pair, Renaming, ShortFirst, tokens_to_copy
from code_tokenizer import train_tokenizer
from precision import bfloat16_is_faster, training_dtype
from tasks import load_task
from timed_training import Clock, TimedTraining, first_process_time, pace, write_record
from torch.utils.data import ChainDataset
from transformers import (
    DataCollatorForSeq2Seq,
    HfArgumentParser,
    PreTrainedTokenizerBase,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    set_seed,
)

from encdec_slm import EncDecSLMConfig, EncDecSLMForConditionalGeneration
from encdec_slm.adaptation import build_optimizer


LONGEST = 384
# tokens of a copy, at first and at last
LONGEST_COPIES = (10, 120)
WARMUP_STEPS = 300
RECIPE = {
    "output_dir": "outputs/small_translator",
    "max_steps": 1_000_000,  # the clock ends the training
    "per_device_train_batch_size": 8,
    "learning_rate": 2e-3,
    "weight_decay": 0.01,
    # ten thousand pairs, round after round, are soon known by heart
    "label_smoothing_factor": 0.1,
    "adam_beta2": 0.98,
    "optim": "adamw_torch_fused",
    "logging_steps": 500,
    "save_strategy": "no",
    "report_to": "none",
    "dataloader_pin_memory": False,
    # each process draws the same rows and takes its part
    "accelerator_config": {"dispatch_batches": False},
    "ddp_find_unused_parameters": False,
}


@dataclass
class SmallTranslatorArguments:
    """For how long, on which files, and how large."""

    data_dir: str = field(metadata={"help": "Folder of the CodeXGLUE files; see examples/data/codexglue.py."})
    minutes: float = field(default=60.0, metadata={"help": "How long the training takes, by the clock."})
    threads: int = field(default=1, metadata={"help": "CPU threads of a process."})
    hidden_size: int = field(default=192, metadata={"help": "Width of both halves, a multiple of 32."})
    encoder_layers: int = field(default=3, metadata={"help": "Layers of the encoder."})
    decoder_layers: int = field(default=3, metadata={"help": "Layers of the decoder."})
    dropout: float = field(default=0.3, metadata={"help": "Of what MLPs add to hidden states."})
    copy_share: float = field(default=0.08, metadata={"help": "Part of the time in which random tokens are copied."})
    cross_attention_rope: bool = field(
        default=True, metadata={"help": "Whether cross-attention compares places: a translation follows its source."}
    )
    joined_share: float = field(
        default=0.5, metadata={"help": "Part of the pairs that are followed by another one in their row."}
    )
    vocab_size: int = field(default=4_000, metadata={"help": "Most tokens of the vocabulary."})


def build_model(
    translator: SmallTranslatorArguments, tokenizer: PreTrainedTokenizerBase
) -> EncDecSLMForConditionalGeneration:
    """A model with random weights."""
    stack = {
        "hidden_size": translator.hidden_size,
        "intermediate_size": 4 * translator.hidden_size,
        "num_attention_heads": translator.hidden_size // 32,
        "num_key_value_heads": translator.hidden_size // 32,
        "head_dim": 32,
        "max_position_embeddings": 4 * LONGEST,
        "dropout": translator.dropout,
        "attention_dropout": 0.0,
    }
    of_the_decoder = {
        "num_hidden_layers": translator.decoder_layers,
        "cross_attention_rope": translator.cross_attention_rope,
    }
    config = EncDecSLMConfig(
        encoder=stack | {"num_hidden_layers": translator.encoder_layers},
        decoder=stack | of_the_decoder,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
        # about 1 / sqrt(hidden size), as suits an embedding that is also the head
        initializer_range=0.06,
    )
    model = EncDecSLMForConditionalGeneration(config)
    model.generation_config.max_new_tokens = 2 * LONGEST
    return model


def train(translator: SmallTranslatorArguments, args: Seq2SeqTrainingArguments) -> None:
    """Trains a model for its time and saves it with its tokenizer to `args.output_dir`."""
    rows = load_task("codexglue", translator.data_dir).train
    pairs = list(zip(rows["source"], rows["target"], strict=True))
    tokenizer = train_tokenizer((text for pair in pairs for text in pair), translator.vocab_size)

    def encode(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
        sources, targets = (
            tokenizer(list(texts), truncation=True, max_length=LONGEST).input_ids for texts in zip(*pairs, strict=True)
        )
        return [{"input_ids": ids, "labels": labels} for ids, labels in zip(sources, targets, strict=True)]

    def encode_copy(tokens: list[int]) -> dict[str, Any]:
        row = [*tokens, tokenizer.eos_token_id]
        return {"input_ids": row, "labels": row}

    set_seed(args.seed)
    model = build_model(translator, tokenizer)
    clock, seconds = Clock(first_process_time), 60 * translator.minutes
    drawn = {
        "progress": lambda: clock.seconds() / seconds,
        "group": args.train_batch_size * args.world_size,
        "seed": args.seed,
    }
    copies = Copies(
        tokens_to_copy(tokenizer), encode_copy, until=translator.copy_share, longest=LONGEST_COPIES, **drawn
    )
    short_first = ShortFirst(
        pairs,
        encode,
        renaming=Renaming(pairs),
        joined=translator.joined_share,
        longest=2 * LONGEST,
        all_from=0.4,
        **drawn,
    )
    if args.bf16 and args.use_cpu:
        # PyTorch's fused attention for CPUs has a backward pass that is slower in bfloat16 than in float32
        model.set_attn_implementation("eager")
    optimizer = build_optimizer(model, args, {})
    trainer = Seq2SeqTrainer(
        model=model,
        args=args,
        train_dataset=ChainDataset([copies, short_first]),
        # in bfloat16 a CPU's products are compiled for each size of their factors
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model, pad_to_multiple_of=8 if args.bf16 else None),
        processing_class=tokenizer,
        optimizers=(optimizer, pace(optimizer, clock, seconds, WARMUP_STEPS)),
        callbacks=[TimedTraining(clock, seconds)],
    )
    trainer.train()
    trainer.save_model()
    differences = {
        "nothing copied first": not translator.copy_share,
        "no places in cross-attention": not translator.cross_attention_rope,
        "one pair in a row": not translator.joined_share,
    }
    label = ", ".join(["from random weights", *(name for name, is_so in differences.items() if is_so)])
    dtype = str(training_dtype(args)).removeprefix("torch.")
    write_record(trainer, clock, translator.threads, label=label, pairs=short_first.given, dtype=dtype)


def main(argv: Sequence[str] | None = None) -> None:
    """Trains the translator.

    Args:
        argv: Command line arguments; those of the process by default.
    """
    parser = HfArgumentParser([SmallTranslatorArguments, Seq2SeqTrainingArguments])
    parser.set_defaults(**RECIPE, use_cpu=not torch.cuda.is_available(), bf16=bfloat16_is_faster())
    translator, args = parser.parse_args_into_dataclasses(argv)
    torch.set_num_threads(translator.threads)
    train(translator, args)


if __name__ == "__main__":
    main()
