"""Which layers a choice means, for every size; and that what cannot be is refused with the numbers that disagree."""

from itertools import pairwise

import pytest

from encdec_slm.conversion.layer_choice import (
    DEFAULT_DECODER_LAYERS,
    DEFAULT_ENCODER_LAYERS,
    DEFAULT_SPLIT,
    PICKS,
    choose_layers,
    list_layers,
    split_layers,
)


SIZES = [(count, available) for available in range(1, 14) for count in range(1, available + 1)]


@pytest.mark.parametrize("name", PICKS)
def test_named_choices_rise_and_stay_within_the_source(name):
    for count, available in SIZES:
        picked = PICKS[name](count, available)
        assert len(picked) == count
        assert list(picked) == sorted(set(picked))
        assert set(picked) <= set(range(available))
        if count == available:
            assert picked == tuple(range(available))


def test_even_has_both_ends_and_equal_distances():
    for count, available in SIZES:
        picked = PICKS["even"](count, available)
        if count > 1:
            assert (picked[0], picked[-1]) == (0, available - 1)
            distances = [b - a for a, b in pairwise(picked)]
            assert max(distances) - min(distances) <= 1


def test_first_last_takes_the_odd_one_from_below():
    for count, available in SIZES:
        picked = PICKS["first-last"](count, available)
        below = (count + 1) // 2
        assert picked[:below] == tuple(range(below))
        assert picked[below:] == tuple(range(available - count // 2, available))


def test_first_and_last_are_mirror_images():
    for count, available in SIZES:
        mirrored = tuple(available - 1 - number for number in reversed(PICKS["last"](count, available)))
        assert PICKS["first"](count, available) == mirrored


@pytest.mark.parametrize(
    ("available", "split", "expected"),
    [
        (30, "2/3-1/3", (20, 10)),
        (24, "1/2-1/2", (12, 12)),
        (15, "1/2-1/2", (8, 7)),
        (16, "2/3-1/3", (11, 5)),
        (30, "1/3-1", (10, 30)),
        (10, "0.5-0.25", (5, 3)),
        (1, "2/3-1/3", (1, 1)),
    ],
)
def test_split(available, split, expected):
    assert split_layers(available, split) == expected


def test_a_whole_is_split_without_rest():
    for available in range(2, 60):
        for split in ("2/3-1/3", "1/2-1/2", "3/4-1/4", "0.9-0.1"):
            assert sum(split_layers(available, split)) in (available, available + 1)
            assert min(split_layers(available, split)) >= 1


@pytest.mark.parametrize("split", ["", "2/3", "2/3-1/3-1/3", "0-1", "1-0", "2-1", "a-b", "1/0-1", "-1/3-1"])
def test_other_splits_are_refused(split):
    with pytest.raises(ValueError, match=r"two fractions .* such as 2/3-1/3"):
        choose_layers(30, split=split)


def test_default_is_what_the_constants_say():
    expected = choose_layers(30, split=DEFAULT_SPLIT, layers=f"{DEFAULT_ENCODER_LAYERS}/{DEFAULT_DECODER_LAYERS}")
    assert choose_layers(30) == expected


@pytest.mark.parametrize(
    ("options", "encoder", "decoder"),
    [
        ({"layers": "0-19/0-4,25-29"}, range(20), [*range(5), *range(25, 30)]),
        ({"layers": "first/first-last"}, range(20), [*range(5), *range(25, 30)]),
        ({"layers": "0,0,3-5"}, [0, 0, 3, 4, 5], [0, 0, 3, 4, 5]),
        ({"layers": " 7 / 1 - 2, 9"}, [7], [1, 2, 9]),
        ({"layers": "last", "encoder_layers": 2}, [28, 29], range(20, 30)),
        ({"layers": "first/29", "encoder_layers": 3}, range(3), [29]),
        ({"layers": "0-2/even", "decoder_layers": 2, "encoder_layers": 3}, range(3), [0, 29]),
        ({"layers": "first", "split": "1-1/30"}, range(30), [0]),
    ],
)
def test_choices(options, encoder, decoder):
    choice = choose_layers(30, **options)
    assert choice.encoder == tuple(encoder)
    assert choice.decoder == tuple(decoder)


def test_a_list_can_be_longer_than_the_source():
    assert choose_layers(2, layers="0-1,0-1/0").encoder == (0, 1, 0, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "0-30"}, r"layer 30 \('0-30'\), but the source has 30 layers, 0 to 29"),
        ({"layers": "0/30"}, r"decoder .* layer 30"),
        ({"encoder_layers": 31}, "encoder was asked for with 31 layers, but the source has 30"),
        ({"decoder_layers": 0}, "decoder_layers is 0"),
        ({"layers": "0-4", "encoder_layers": 4}, r"encoder_layers is 4, but '0-4' lists 5 of the source's 30"),
        ({"layers": "0-4/1", "decoder_layers": 2}, r"decoder_layers is 2, but '1' lists 1"),
        ({"layers": "5-3"}, "'5-3' in '5-3' is neither a layer nor a range"),
        ({"layers": "middle"}, "'middle' .*even, first, first-last, last"),
        ({"layers": "0,,1"}, "'' in '0,,1'"),
        ({"layers": ""}, "neither"),
        ({"layers": "-1"}, "neither"),
        ({"layers": "٣"}, "neither"),
        ({"layers": "0/1/2"}, "has 3 parts"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        choose_layers(30, **options)


@pytest.mark.parametrize("numbers", [(0,), (0, 1, 2), (0, 0, 1), (5, 4, 3), (0, 2, 3, 29), (7, 7, 7), (28, 29, 0, 1)])
def test_a_list_of_layers_is_read_back(numbers):
    assert choose_layers(30, layers=list_layers(numbers)).encoder == numbers
