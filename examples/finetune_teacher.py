"""Fine-tunes a decoder-only teacher on a task by LoRA, with TRL's `SFTTrainer`, before it is distilled.

    python examples/finetune_teacher.py --config examples/configs/teacher_smollm2_codexglue.yaml

The rows have a `source` and a `target`, as those of `encdec-slm distill`, and the teacher learns to write a target
after just the token ids that it reads in the distillation: the same prompt, the same cut of a long source, the same
ids of the target, and the token that ends its answers. So prompt and completion are joined here as ids, and not as
texts by the trainer, where tokens could form across the border. The loss is on the completion alone.

All flags of `SFTConfig` and `ModelConfig` are understood. What is saved is the adapter; the distillation reads it as
`teacher_adapters`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, set_seed
from trl import ModelConfig, SFTConfig, SFTTrainer, TrlParser, get_peft_config, get_quantization_config

from encdec_slm.distillation.command import refuse_full_folder
from encdec_slm.distillation.prompts import end_of_answer
from encdec_slm.distillation.row_sources import RowArguments, load_rows
from encdec_slm.distillation.rows import RowEncoder, encode_rows


DEFAULTS = {"use_peft": True, "completion_only_loss": True, "max_length": None}


@dataclass
class TeacherArguments(RowArguments):
    """Rows, and what the teacher reads of them: to be the same as in the distillation."""

    max_source_length: int = field(default=1024, metadata={"help": "Most tokens of a source."})
    max_target_length: int = field(default=256, metadata={"help": "Most tokens of a target."})
    source_truncation: str = field(
        default="end", metadata={"help": "What is cut off a source that is too long: end, start or middle."}
    )
    teacher_template: str | None = field(
        default=None,
        metadata={
            "help": "What the teacher reads: a text with {source} in it. By default its chat template, or, if it has "
            "none, the source and a line break."
        },
    )


def encode(rows: Dataset, tokenizer: PreTrainedTokenizerBase, end: int, arguments: TeacherArguments) -> Dataset:
    """Returns prompt and target as `input_ids`, with a `completion_mask` that tells them apart.

    Args:
        rows: With `source` and `target`.
        tokenizer: The teacher's.
        end: The token that ends its answers.
        arguments: Lengths and template.
    """
    encoder = RowEncoder(
        tokenizer=tokenizer,
        teacher_tokenizer=tokenizer,
        # a token in front of a text is not repeated in front of an answer
        decoder_start_token_id=tokenizer.bos_token_id,
        max_source_length=arguments.max_source_length,
        max_target_length=arguments.max_target_length,
        source_truncation=arguments.source_truncation,
        teacher_template=arguments.teacher_template,
    )
    exchange = {tokenizer.eos_token_id: end, end: tokenizer.eos_token_id}

    def join(row: dict[str, Any]) -> dict[str, list[int]]:
        prompt, target = row["teacher_prompt_ids"], [exchange.get(i, i) for i in row["labels"]]
        return {"input_ids": prompt + target, "completion_mask": [0] * len(prompt) + [1] * len(target)}

    encoded = encode_rows(rows, encoder)
    return encoded.map(join, remove_columns=encoded.column_names, desc="Joining prompts and targets")


def parse(argv: Sequence[str] | None = None) -> tuple[TeacherArguments, SFTConfig, ModelConfig]:
    """Reads the command line and the file that `--config` names."""
    parser = TrlParser([TeacherArguments, SFTConfig, ModelConfig])
    parser.set_defaults(**DEFAULTS)
    return parser.parse_args_and_config(argv)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Fine-tunes, and prints the loss on held-out rows.

    Args:
        argv: Command line arguments; those of the process by default.
    """
    arguments, training, teacher = parse(argv)
    refuse_full_folder(training)
    set_seed(training.seed)
    options = {"revision": teacher.model_revision, "trust_remote_code": training.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(teacher.model_name_or_path, **options)
    train, held_out = load_rows(arguments)
    model = AutoModelForCausalLM.from_pretrained(
        teacher.model_name_or_path,
        dtype=teacher.dtype,
        attn_implementation=teacher.attn_implementation,
        quantization_config=get_quantization_config(teacher),
        **options,
        **(training.model_init_kwargs or {}),
    )
    # they are for models by name, and used above
    training.model_init_kwargs = None
    end, _ = end_of_answer(tokenizer, model.generation_config.eos_token_id)
    trainer = SFTTrainer(
        model=model,
        args=training,
        train_dataset=encode(train, tokenizer, end, arguments),
        eval_dataset=encode(held_out, tokenizer, end, arguments),
        processing_class=tokenizer,
        peft_config=get_peft_config(teacher),
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    metrics = trainer.evaluate()
    trainer.save_model()
    trainer.save_metrics("eval", metrics)
    print(f"eval_loss {metrics['eval_loss']:.4f}\nwrote {training.output_dir}")
    return metrics


if __name__ == "__main__":
    main()
