"""Tiny models with dropout whose answers vary, samples of them, and a test of distributions."""

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

from encdec_slm import EncDecSLMConfig, EncDecSLMForConditionalGeneration
from encdec_slm.distillation.policies import Sampling, row_seeds, sample_student, sample_teacher


VOCAB = 12
PAD, END = 0, 2
LENGTH = 8
DROPOUT = 0.4
# below the likeliest p-value of a false alarm in any of the tests together
SIGNIFICANCE = 1e-4


def t5():
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    config = T5Config(
        vocab_size=VOCAB, **sizes, dropout_rate=DROPOUT, eos_token_id=END, decoder_start_token_id=PAD, pad_token_id=PAD
    )
    return T5ForConditionalGeneration(config)


def bart():
    halves = {f"{half}_{name}": n for half in ("encoder", "decoder") for name, n in HALF_OF_BART.items()}
    # its decoder starts with the token that ends a target
    config = BartConfig(
        vocab_size=VOCAB,
        d_model=16,
        **halves,
        dropout=DROPOUT,
        max_position_embeddings=32,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=END,
        decoder_start_token_id=END,
        forced_bos_token_id=None,
        forced_eos_token_id=None,
    )
    return BartForConditionalGeneration(config)


HALF_OF_BART = {"layers": 1, "attention_heads": 2, "ffn_dim": 32}


def ours():
    stack = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 32,
        "dropout": DROPOUT,
    }
    config = EncDecSLMConfig(encoder=dict(stack), decoder=dict(stack), eos_token_id=END, pad_token_id=PAD)
    return EncDecSLMForConditionalGeneration(config)


def gpt2():
    config = GPT2Config(
        vocab_size=VOCAB, n_positions=32, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=END
    )
    return GPT2LMHeadModel(config)


def llama():
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=VOCAB, **sizes, max_position_embeddings=32, bos_token_id=1, eos_token_id=END)
    return LlamaForCausalLM(config)


def random_weights(make):
    """Returns a model whose answers vary: with the usual initialisation all tokens are as likely everywhere."""
    set_seed(0)
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.6 + (1.0 if parameter.ndim == 1 else 0.0))
        # logits of about the size 1
        head = model.get_output_embeddings()
        head.weight *= 0.4
    return model.train()


def sources(*lengths):
    return [torch.randint(3, VOCAB, (length,)) for length in lengths]


def padded(rows, side="right", width=None):
    """Padding is random tokens, which only the mask tells from others."""
    width = width or max(map(len, rows))
    input_ids, mask = torch.randint(3, VOCAB, (len(rows), width)), torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(width - len(row), None) if side == "left" else slice(0, len(row))
        input_ids[i, place], mask[i, place] = row, 1
    return input_ids, mask


def as_lists(labels):
    """Returns targets without what is left out of the loss."""
    return [[token for token in row if token != -100] for row in labels.tolist()]


def draw(model, rows, *, seed=0, step=0, sampling=None, ends=(END,), width=None):
    input_ids, mask = padded(rows, width=width)
    seeds = row_seeds(seed, step, input_ids, mask)
    return as_lists(sample_student(model, input_ids, mask, sampling or Sampling(max_new_tokens=LENGTH), seeds, ends))


def answer(model, rows, *, ends=(END,), exchange=None, sampling=None, width=None):
    prompt_ids, mask = padded(rows, side="left", width=width)
    seeds, sampling = row_seeds(0, 0, prompt_ids, mask), sampling or Sampling(max_new_tokens=LENGTH)
    return as_lists(sample_teacher(model, prompt_ids, mask, sampling, seeds, ends, exchange))


def p_value(counts, probabilities):
    """Of Pearson's chi-squared test, where rare outcomes count as one."""
    expected = probabilities.double() * counts.sum()
    rare = expected < 5
    assert (counts[expected < 1e-6 * counts.sum()] == 0).all()
    observed = torch.cat([counts[~rare].double(), counts[rare].sum().double().view(1)])
    expected = torch.cat([expected[~rare], expected[rare].sum().view(1)]).clamp(min=1e-9)
    statistic = ((observed - expected) ** 2 / expected).sum()
    return torch.special.gammaincc(torch.tensor((len(expected) - 1) / 2).double(), statistic / 2).item()
