"""The tokenizer of the demo: words are letters, pronunciations are phones."""

import pytest
from spelling_teacher import TEACHER_TEMPLATE
from spelling_tokenizer import build_tokenizer
from transformers import AutoTokenizer


LETTERS = "abcdefghijklmnopqrstuvwxyz'-."
PHONES = ("AH", "B", "EY", "IH", "IY", "JH", "K", "N", "OW", "S", "T", "V", "Z")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """As anybody gets it from the folder that it was saved to."""
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(LETTERS, PHONES).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("text", ["Z IH Z IH V AH", "AH", "B", "T OW"])
def test_pronunciations_come_back_from_their_tokens(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("word", ["zyzzyva", "o'brien", "x-ray", "b.c."])
def test_a_word_is_its_letters(tokenizer, word):
    assert tokenizer(word).tokens() == [*word, "</s>"]


@pytest.mark.parametrize(
    ("written", "read"),
    [("Beyonc\u00e9", "beyonce"), ("NASA", "nasa"), ("McVey", "mcvey"), ("iBook", "ibook"), ("O'B", "o'b")],
)
def test_capitals_and_accents_of_a_word_do_not_matter(tokenizer, written, read):
    assert tokenizer(written)["input_ids"] == tokenizer(read)["input_ids"]


@pytest.mark.parametrize("word", ["zyzzyva", "Beyonc\u00e9", "b"])
def test_the_teacher_reads_the_letters_of_the_student_and_a_separator(tokenizer, word):
    letters = tokenizer(word, add_special_tokens=False).tokens()
    assert tokenizer(TEACHER_TEMPLATE.format(source=word), add_special_tokens=False).tokens() == [*letters, "<s>"]


def test_what_is_in_no_word_is_unknown(tokenizer):
    assert tokenizer("b2b").tokens() == ["b", "<unk>", "b", "</s>"]
