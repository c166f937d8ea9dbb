"""Alignments of letters and phones, and what letters come to stand for."""

import pytest
from letter_baseline import LetterBaseline


PAIRS = [
    ("cat", "K AE T"),
    ("tact", "T AE K T"),
    ("tax", "T AE K S"),
    ("axe", "AE K S"),
    ("taxa", "T AE K S AE"),
    ("ate", "AE T"),
    ("act", "AE K T"),
    ("take", "T AE K"),
    ("kate", "K AE T"),
]


@pytest.fixture
def baseline():
    return LetterBaseline(PAIRS)


@pytest.mark.parametrize(("word", "pronunciation"), PAIRS)
def test_an_alignment_has_a_sound_per_letter_and_all_phones_in_order(baseline, word, pronunciation):
    sounds = baseline.align(word, tuple(pronunciation.split()))
    assert len(sounds) == len(word)
    assert [phone for sound in sounds for phone in sound] == pronunciation.split()


def test_letters_come_to_stand_for_none_one_or_two_phones(baseline):
    assert baseline.sounds["x"] == ("K", "S")
    assert baseline.sounds["t"] == ("T",)
    assert baseline.sounds["e"] == ()


def test_a_word_is_read_letter_by_letter(baseline):
    assert baseline("taxe") == "T AE K S"
    assert baseline("t-t") == "T T"


def test_too_many_phones_cannot_be_aligned(baseline):
    assert baseline.align("a", ("AE", "K", "T")) == []
