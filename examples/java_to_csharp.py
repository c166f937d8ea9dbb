r"""The best translator from Java to C# that an hour makes: an encoder-decoder that starts from SmolLM2-135M.

    pip install -e '.[distillation,evaluation,examples]'
    python examples/java_to_csharp.py --data_dir FOLDER --minutes 60
    encdec-slm evaluate outputs/java_to_csharp --task codexglue_java_cs --output outputs/java_to_csharp/scores \
      --data FOLDER/valid.java FOLDER/valid.cs

The student is `whole` of `start_students.py`, which won the comparison of starts: all layers of SmolLM2 in the
decoder, half of them, frozen, in the encoder. The clock ends the training, and the learning rate falls to zero until
then. `--student whole-random` is the same architecture with random weights. `--teacher_cache` is for a student that
learns from a fine-tuned SmolLM2 too (`--alpha 0.5`, say). It names the cache of

    python examples/distillation_results.py --task codexglue --data_dir FOLDER --parts teacher --train_rows 10295 \
      --max_source_length 256 --max_target_length 256

What is saved is an ordinary checkpoint: its tokenizer puts the beginning and the end around a text, as in the
training. Beside it `training.json` says what the time was enough for.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from data.smollm2 import smollm2
from precision import bfloat16_is_faster
from start_students import STUDENTS, Student
from tasks import begin_with_line_break, load_task
from timed_training import Clock, TimedTraining, pace, write_record
from tokenizers import processors
from transformers import AutoTokenizer, HfArgumentParser, PreTrainedTokenizerBase, set_seed

from encdec_slm.adaptation import build_optimizer
from encdec_slm.distillation import DistillationArguments, DistillationTrainer


# without those whose time is shared with an adaptation, for which this training has no part
TRANSLATORS = {name: student for name, student in STUDENTS.items() if not student.adaptation_share}
RECIPE = {
    "output_dir": "outputs/java_to_csharp",
    "alpha": 0.0,
    "max_steps": 1_000_000,  # the clock ends the training
    "max_source_length": 256,
    "max_target_length": 256,
    "per_device_train_batch_size": 8,
    "train_sampling_strategy": "group_by_length",
    "adam_beta2": 0.98,
    "optim": "adamw_torch_fused",
    "logging_steps": 50,
    "save_strategy": "no",
    "report_to": "none",
    "dataloader_pin_memory": False,
}


@dataclass
class TranslatorArguments:
    """For how long, on which files, from which model."""

    data_dir: str = field(metadata={"help": "Folder of the CodeXGLUE files; see examples/data/codexglue.py."})
    minutes: float = field(default=60.0, metadata={"help": "How long the training takes, by the clock."})
    threads: int = field(default=2, metadata={"help": "CPU threads."})
    source: str = field(default="outputs/smollm2-135m-instruct", metadata={"help": "Decoder-only model folder."})
    student: str = field(
        default="whole", metadata={"help": "What is trained, of start_students.py.", "choices": list(TRANSLATORS)}
    )


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a decoder-only model, which then puts a beginning and an end around each text."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    # to the encoder's layers the first position is a sink of attention: it had better be no word
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}", special_tokens=[(bos, tokenizer.bos_token_id), (eos, tokenizer.eos_token_id)]
    )
    return tokenizer


def train(translator: TranslatorArguments, args: DistillationArguments, student: Student) -> None:
    """Trains a student for its time and saves it with its tokenizer to `args.output_dir`."""
    set_seed(args.seed)
    model, tokenizer = student.build(translator.source), load_tokenizer(translator.source)
    # another token than the one that ends an answer
    tokenizer.pad_token_id = model.config.pad_token_id
    student.freeze(model)
    optimizer = build_optimizer(model, args, student.rates)
    clock = Clock(time.monotonic)
    seconds = 60 * translator.minutes
    trainer = DistillationTrainer(
        model=model,
        teacher=translator.source if args.teacher_cache else None,
        args=args,
        train_dataset=begin_with_line_break(load_task("codexglue", translator.data_dir).train),
        processing_class=tokenizer,
        optimizers=(optimizer, pace(optimizer, clock, seconds, student.warmup_steps)),
        callbacks=[TimedTraining(clock, seconds)],
    )
    trainer.train()
    model.generation_config.max_new_tokens = args.max_target_length
    trainer.save_model()
    write_record(trainer, clock, translator.threads, label=student.label, alpha=args.alpha)


def main(argv: Sequence[str] | None = None) -> None:
    """Trains the translator.

    Args:
        argv: Command line arguments; those of the process by default.
    """
    parser = HfArgumentParser([TranslatorArguments, DistillationArguments])
    parser.set_defaults(**RECIPE, use_cpu=not torch.cuda.is_available(), bf16=bfloat16_is_faster())
    translator, args = parser.parse_args_into_dataclasses(argv)
    if args.teacher_cache and not args.alpha:
        raise ValueError("--teacher_cache has no effect with --alpha 0: give, say, --alpha 0.5")
    torch.set_num_threads(translator.threads)
    translator.source = str(smollm2(translator.source))
    student = TRANSLATORS[translator.student]
    args.learning_rate = student.learning_rate
    train(translator, args, student)


if __name__ == "__main__":
    main()
