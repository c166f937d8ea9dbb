"""What teachers read in tests, and adapters of one model."""

from dataclasses import replace

import torch
from foreign_models import VOCAB_SIZE, llama
from peft import LoraConfig, get_peft_model

from encdec_slm.distillation.alignment import read_after_prompt


# LoRA with random weights, whose effect is far larger than rounding
STRONG = {
    "r": 2,
    "lora_alpha": 16,
    "target_modules": ["q_proj", "v_proj"],
    "init_lora_weights": False,
    "task_type": "CAUSAL_LM",
}
TEXT = list(range(10, 34))


def read(prompts, targets):
    """What a teacher reads, padded with random tokens that only the mask tells from others."""
    width, length = max(map(len, prompts)), max(map(len, targets))
    ids, labels = torch.randint(3, VOCAB_SIZE, (len(prompts), width)), torch.full((len(prompts), length), -100)
    mask = torch.zeros_like(ids)
    for row, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
        labels[row, : len(target)] = torch.tensor(target)
    return read_after_prompt(ids, mask, labels, labels != -100, pad_token_id=5)


def some_inputs(rows=3):
    """What a teacher reads, in rows of unequal lengths."""
    return read([TEXT[: 3 + 2 * row] for row in range(rows)], [TEXT[-2 - row :] for row in range(rows)])


def row_of(inputs, row):
    """One row alone, with its padding."""
    rows = {name: getattr(inputs, name)[row : row + 1] for name in ("input_ids", "attention_mask", "position_ids")}
    return replace(inputs, **rows)


def adapter(folder, seed, **changes):
    """Saves a random adapter of `llama()`, which is the same model each time."""
    torch.manual_seed(seed)
    get_peft_model(llama_again(), LoraConfig(**{**STRONG, **changes})).save_pretrained(folder)
    return str(folder)


def llama_again():
    """The same model each time."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return llama()
