"""Prompt lookup changes how many steps an answer takes, and nothing else."""

import pytest
import torch
from model_tester import ModelTester
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from encdec_slm.export.torch_prompt_lookup import EncoderPromptLookup


@pytest.fixture(scope="module")
def model():
    return ModelTester(initializer_range=0.15).model()


def answers(model, inputs, lookup=None, **options):
    options = {"max_new_tokens": 14, "do_sample": False, **options}
    return model.generate(**inputs, **options, custom_generate=lookup)


@pytest.mark.parametrize(
    "options",
    [{}, {"max_new_tokens": 1}, {"min_new_tokens": 9}, {"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2}],
    ids=str,
)
def test_answers_are_those_of_greedy_search(options, model):
    for seed in range(6):
        torch.manual_seed(seed)
        inputs, lookup = ModelTester().inputs((9 + seed,)), EncoderPromptLookup(num_tokens=1 + seed)
        wanted = answers(model, inputs, **options)
        assert torch.equal(answers(model, inputs, lookup, **options), wanted)
        assert lookup.tokens == wanted.shape[1] - 1


def test_what_is_copied_takes_fewer_steps(model, monkeypatch):
    text = torch.arange(10, 40)
    # the answer is the text, in the order of positions
    forward = type(model).forward

    def copying(self, *args, decoder_input_ids=None, past_key_values=None, **kwargs):
        begin = past_key_values.get_seq_length()
        outputs = forward(self, *args, decoder_input_ids=decoder_input_ids, past_key_values=past_key_values, **kwargs)
        wanted = text[begin : begin + decoder_input_ids.shape[1]]
        outputs.logits = nn.functional.one_hot(wanted, outputs.logits.shape[-1]).float()[None]
        return outputs

    monkeypatch.setattr(type(model), "forward", copying)
    lookup = EncoderPromptLookup(num_tokens=10)
    tokens = answers(model, {"input_ids": text[None]}, lookup, max_new_tokens=23)
    assert tokens[0, 1:].tolist() == text[:23].tolist()
    # the first token, then eleven a step
    assert (lookup.tokens, lookup.steps) == (23, 3)
    lookup.reset()
    assert (lookup.tokens, lookup.steps) == (0, 0)


def test_other_encoder_decoders_take_it_too():
    config = T5Config(vocab_size=60, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0)
    model = T5ForConditionalGeneration(config).eval()
    inputs = ModelTester().inputs((12,))
    assert torch.equal(answers(model, inputs, EncoderPromptLookup()), answers(model, inputs))


@pytest.mark.parametrize(
    ("lengths", "options", "message"),
    [
        ((9, 5), {}, "one input"),
        ((9,), {"do_sample": True}, "greedily"),
        ((9,), {"use_cache": False}, "cache"),
        ((9,), {"cache_implementation": "static"}, "cache"),
    ],
)
def test_what_it_does_not_do_is_refused(lengths, options, message, model):
    with pytest.raises(ValueError, match=message):
        answers(model, ModelTester().inputs(lengths), EncoderPromptLookup(), **options)


def test_counts_of_nothing_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        EncoderPromptLookup(num_tokens=0)
