"""The vocabulary for code: names by their parts, and nothing lost."""

import pytest
from code_tokenizer import train_tokenizer


TEXTS = ("public int getItemCount() {return items.size();}", "public HTTPRequest parse(String text2) {}") * 3


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 400)


@pytest.mark.parametrize("text", [*TEXTS, "été  = \"x\ty\" + 'Ω' ; // 🙂", " a", "_field_12Abc", "A", "aB1C"])
def test_what_is_decoded_is_what_was_encoded(text, tokenizer):
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_a_part_has_the_same_tokens_in_any_name(tokenizer):
    assert tokenizer.tokenize("getItemCount") == ["get", "Item", "Count"]
    assert tokenizer.tokenize("ItemRequest") == ["Item", "Request"]
    assert tokenizer.tokenize("HTTPRequest") == ["HTTP", "Request"]


def test_what_stands_between_names_is_no_part_of_them(tokenizer):
    assert tokenizer.tokenize("Count();}") == ["Count", "();}"]
    # a digit stands by itself, whatever is around it
    assert tokenizer.tokenize("text2();}") == ["text", "2", "();}"]


def test_a_text_ends_with_the_end(tokenizer):
    ids = tokenizer("get").input_ids
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.bos_token_id not in ids
