"""What counts as right: exact words, and numbers that are off by a twentieth at most."""

import pytest
from vision_scores import exact_match, number, relaxed_match, right


@pytest.mark.parametrize(
    ("answer", "target", "is_right"),
    [
        ("100", "100", True),
        ("95", "100", True),
        ("105", "100", True),
        ("94", "100", False),
        ("106", "100", False),
        # of a small number a twentieth is less than one
        ("11", "10", False),
        ("10.0", "10", True),
        ("", "10", False),
        ("0", "0", True),
        ("1", "0", False),
        ("pears", "Pears", True),
        ("pear", "pears", False),
        ("12", "pears", False),
        ("twelve", "12", False),
        ("nan", "12", False),
    ],
)
def test_relaxed_accuracy(answer, target, is_right):
    assert relaxed_match(answer, target) is is_right


def test_no_number_is_off_in_an_exact_match():
    assert exact_match(" animal-mammal", "Animal-Mammal")
    assert not exact_match("100.0", "100")


@pytest.mark.parametrize("text", ["nan", "inf", "1e3", "1.2.3", "", ".", "٣", "--1"])
def test_what_is_no_number_to_a_reader_is_none(text):
    assert number(text) is None


def test_each_data_set_has_its_own_rule():
    assert right(["95", "95"], ["100", "100"], ["charts", "emoji"]) == [True, False]
