"""A tiny teacher, rows of ids, and a cache of several shards, for the laws of the teacher cache."""

import random
from types import SimpleNamespace

import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from encdec_slm.distillation.cache import TeacherCache, row_key
from encdec_slm.distillation.cache_writer import write_teacher_cache
from encdec_slm.distillation.collator import DataCollatorForDistillation
from encdec_slm.distillation.teachers import Teacher


VOCAB = 60
K = 8
# all that it needs of a tokenizer
collate = DataCollatorForDistillation(SimpleNamespace(pad_token_id=0))


def make_teacher(tokenizer, *, seed=0, vocab=VOCAB, **options):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        # not all tokens are as good as equally likely
        initializer_range=0.5,
    )
    return Teacher(LlamaForCausalLM(config), tokenizer, **options)


def make_rows(number, *, seed=0, target=(1, 9)):
    source = random.Random(seed)
    return [
        {
            "input_ids": [5, 6],
            "teacher_prompt_ids": [source.randrange(VOCAB) for _ in range(source.randint(1, 7))],
            "labels": [source.randrange(VOCAB) for _ in range(source.randint(*target))],
        }
        for _ in range(number)
    ]


DATASET = Dataset.from_list(make_rows(23))


def cache_writing(folder, tokenizer):
    """Returns a function that writes a cache of several shards; anything can be given otherwise."""

    def write(name="cache", **options):
        settings = {
            "teacher": make_teacher(tokenizer),
            "dataset": DATASET,
            "collator": collate,
            "student_tokenizer": tokenizer,
            "top_k": K,
            "batch_size": 4,
            "tokens_per_shard": 30,
        }
        return write_teacher_cache(folder / name, **(settings | options))

    return write


def keys_of(dataset):
    return [row_key(row["teacher_prompt_ids"], row["labels"]) for row in dataset]


def read_all(folder, dataset):
    """Returns the batch of all rows, and what the cache says about it."""
    cache = TeacherCache.open(folder)
    batch = collate(list(dataset))
    indices = dataset["teacher_index"] if "teacher_index" in dataset.column_names else None
    return batch, cache.read(cache.rows_of(keys_of(dataset), indices), batch["labels"].shape[1])


def files_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.startswith(".")}


class StoppedTeacher(Teacher):
    """Stops after some batches, and counts the rows that it was asked for."""

    def __init__(self, teacher, batches=10**9):
        super().__init__(teacher.model, teacher.tokenizer)
        self.batches, self.asked = batches, 0

    def predict(self, inputs, teacher_index=None):
        if not self.batches:
            raise KeyboardInterrupt
        self.batches -= 1
        self.asked += len(inputs.input_ids)
        return super().predict(inputs, teacher_index)
