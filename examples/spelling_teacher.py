"""The teacher of the spelling-to-sound demo: a decoder-only model that goes on from a word to its sounds.

It reads `z y g o t e <s>` and continues `Z AY G OW T </s>`.
"""

from datasets import Dataset
from transformers import (
    DataCollatorForSeq2Seq,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)


# what the teacher reads before it answers: the word and a separator
TEACHER_TEMPLATE = "{source}<s>"
# Rows are not grouped by length, although that would save much padding: how far a phone is from its letter follows
# from the length of the word, and batches of one length each unlearn the others'.
TEACHER_RECIPE = {
    "per_device_train_batch_size": 32,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 200,
    "adam_beta2": 0.98,
    "logging_steps": 250,
    "dataloader_pin_memory": False,
    "save_strategy": "no",
}
# few layers: on a CPU a wide matrix product does more arithmetic in a second than several narrow ones
TEACHER_SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
    # about 1 / sqrt(hidden size), as suits an embedding that is also the head
    "initializer_range": 0.06,
}


def build_teacher(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with random weights and the vocabulary of the tokenizer."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **TEACHER_SHAPE,
    )
    return LlamaForCausalLM(config)


def continuations(rows: Dataset, tokenizer: PreTrainedTokenizerFast) -> Dataset:
    """Words and pronunciations as one sequence, of which the pronunciation and its end are to be learned."""

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        prompts = [TEACHER_TEMPLATE.format(source=source) for source in batch["source"]]
        texts = [prompt + target for prompt, target in zip(prompts, batch["target"], strict=True)]
        read = tokenizer(prompts, add_special_tokens=False)["input_ids"]
        whole = tokenizer(texts, return_attention_mask=False)["input_ids"]
        return {
            "input_ids": whole,
            "labels": [[-100] * len(prompt) + ids[len(prompt) :] for prompt, ids in zip(read, whole, strict=True)],
        }

    return rows.map(encode, batched=True, remove_columns=rows.column_names, desc="Tokenizing for the teacher")


def teacher_trainer(rows: Dataset, tokenizer: PreTrainedTokenizerFast, training: TrainingArguments) -> Trainer:
    """A stock trainer of a new teacher on rows with columns `source` and `target`."""
    set_seed(training.seed)
    return Trainer(
        model=build_teacher(tokenizer),
        args=training,
        train_dataset=continuations(rows, tokenizer),
        # pads labels as well, and makes the mask from lengths
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        processing_class=tokenizer,
    )
