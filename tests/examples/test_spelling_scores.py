"""Answers are in the order of the words, whatever they are batched with; error rates are right by hand."""

import pytest
import spelling_scores
from datasets import Dataset
from spelling_scores import error_rates, pronounce
from spelling_teacher import TEACHER_TEMPLATE, build_teacher
from spelling_tokenizer import build_tokenizer

from encdec_slm import EncDecSLMConfig, EncDecSLMForConditionalGeneration


WORDS = ("b", "tack", "oval", "a", "knotty", "bee", "sat", "obvious", "tea", "jam")


@pytest.fixture
def tokenizer():
    return build_tokenizer("abcdefghijklmnopqrstuvwxyz", ("AH", "B"))


@pytest.fixture(params=["decoder-only", "encoder-decoder"])
def model_and_template(request, tokenizer):
    """A model with random weights, and what it reads of a word."""
    if request.param == "decoder-only":
        return build_teacher(tokenizer), TEACHER_TEMPLATE
    config = EncDecSLMConfig.from_preset(
        "tiny",
        vocab_size=len(tokenizer),
        initializer_range=0.09,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
    )
    return EncDecSLMForConditionalGeneration(config), "{source}"


def test_answers_are_in_the_order_of_the_words(model_and_template, tokenizer, monkeypatch):
    model, template = model_and_template
    monkeypatch.setattr(spelling_scores, "WORDS_AT_ONCE", 3)
    answers = pronounce(model, tokenizer, WORDS, template)
    assert len(set(answers)) > 3
    assert answers == [pronounce(model, tokenizer, [word], template)[0] for word in WORDS]


def test_an_answer_does_not_repeat_the_question(model_and_template, tokenizer, monkeypatch):
    model, template = model_and_template
    monkeypatch.setattr(spelling_scores, "LONGEST_ANSWER", 2)
    assert all(len(answer.split()) <= 2 for answer in pronounce(model, tokenizer, WORDS, template))


def test_error_rates_by_hand():
    rows = Dataset.from_dict(
        {
            "source": ["a", "bee"],
            "target": ["AH", "B IY"],
            "pronunciations": [["AH", "EY"], ["B IY"]],
        }
    )
    assert error_rates(["AH", "B IY"], rows) == {"phonemes": 0, "words": 0, "any": 0}
    assert error_rates(["EY", "B IY"], rows) == {"phonemes": 1 / 3, "words": 1 / 2, "any": 0}
    assert error_rates(["", "B IY IY"], rows) == {"phonemes": 2 / 3, "words": 1, "any": 1}
