"""The vocabulary of the vision demo: answers come back as they were written."""

import pytest
from vision_model import LONGEST_ANSWER, build_tokenizer
from vision_rows import IMAGE_TOKEN, prompt


ANSWERS = ["311", "9", "horizontal bar", "animal-mammal", "Smileys & Emotion", "pears"]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(["What is the value of pears?", "Which category has the highest value?", *ANSWERS])


@pytest.mark.parametrize("answer", [*ANSWERS, "lutes", "1000"])
def test_an_answer_comes_back_as_it_was(tokenizer, answer):
    ids = tokenizer(answer)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == answer
    assert len(ids) <= LONGEST_ANSWER


def test_a_word_is_the_same_token_in_a_question_and_as_an_answer(tokenizer):
    assert tokenizer.tokenize("pears")[0] in tokenizer.tokenize("What is the value of pears?")


def test_digits_stand_alone(tokenizer):
    assert tokenizer.tokenize("311")[-3:] == ["3", "1", "1"]


def test_the_image_token_is_one_token_in_front_of_the_question(tokenizer):
    ids = tokenizer(prompt("What is the value of pears?"))["input_ids"]
    assert ids[0] == tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    assert ids.count(ids[0]) == 1
    assert ids[-1] == tokenizer.eos_token_id
