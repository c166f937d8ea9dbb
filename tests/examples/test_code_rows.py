"""Copies, other names in pairs of code, and short pairs first."""

import random
from itertools import islice

import pytest
from code_rows import Copies, Renaming, ShortFirst, length, words_of


PAIRS = [
    ("int getItem() {return item;}", "int GetItem(){return item;}"),
    ("int getNode(int MAX) {return node;}", "int GetNode(int MAX){return node;}"),
    ("void close() {stream.shut();}", "void Close(){stream.Shut();}"),
]


@pytest.fixture
def renaming():
    # `int`, `get` and `return`
    return Renaming(PAIRS, kept=3, share=1.0)


def encode(pairs):
    return [{"input_ids": [0] * len(source), "labels": [0] * len(target)} for source, target in pairs]


def encode_copy(tokens):
    return {"input_ids": [1, *tokens], "labels": tokens}


def rows(pairs=tuple(("a" * n, "b" * n) for n in range(1, 65)), progress=lambda: 1.0, **options):
    return ShortFirst(pairs, encode, progress, group=4, shortest=20, longest=128, all_from=0.5, **options)


def test_names_are_others_and_the_same_on_both_sides(renaming):
    source, target = renaming(PAIRS[0], random.Random(0))
    assert "item" not in words_of(source) | words_of(target)
    (word,) = words_of(source) - {"int", "get", "return"}
    assert source == f"int get{word.capitalize()}() {{return {word};}}"
    assert target == f"int Get{word.capitalize()}(){{return {word};}}"


def test_capitals_stay(renaming):
    source, target = renaming(PAIRS[1], random.Random(0))
    word = source.split("int ")[2].split(")")[0]
    assert word.isupper()
    assert f"int {word})" in target


def test_what_only_one_side_says_stays(renaming):
    source, target = renaming(("void left(a b)", "void right(a b)"), random.Random(0))
    assert "left" in source
    assert "right" in target


def test_nothing_changes_without_a_share():
    assert Renaming(PAIRS, kept=0, share=0.0)(PAIRS[0], random.Random(0)) == PAIRS[0]


def test_copies_come_in_groups_of_one_length_and_short_ones_first():
    # at each group a hundredth of the training is over
    done = iter(range(100))
    examples = list(Copies([5, 6], encode_copy, lambda: next(done) / 100, until=0.5, group=4, longest=(6, 20)))
    assert len(examples) == 4 * 50
    assert all(row["input_ids"] == [1, *row["labels"]] for row in examples)
    assert {token for row in examples for token in row["labels"]} == {5, 6}
    lengths = [len(row["labels"]) for row in examples]
    assert all(len(set(lengths[start : start + 4])) == 1 for start in range(0, 200, 4))
    assert min(lengths) >= 4
    assert max(lengths[:16]) <= 7
    assert max(lengths) > 12


def test_copies_depend_on_the_seed_alone():
    first, again, other = (
        list(islice(iter(Copies(range(9), encode_copy, lambda: 0.0, seed=s)), 32)) for s in (0, 0, 1)
    )
    assert first == again != other


def test_short_pairs_come_first_and_all_in_time():
    done = 0.0
    examples = iter(rows(progress=lambda: done))
    assert max(length(row) for row in islice(examples, 40)) <= 20
    done = 0.5
    assert max(length(row) for row in islice(examples, 200)) == 128


def test_a_batch_is_of_like_length():
    examples = list(islice(iter(rows()), 64))
    for start in range(0, 64, 4):
        lengths = [length(row) for row in examples[start : start + 4]]
        # up to ten tokens by chance, besides those of three neighbours
        assert max(lengths) - min(lengths) <= 20
    assert sorted(length(row) for row in examples) == list(range(2, 129, 2))


def test_the_order_depends_on_the_seed_alone():
    first, again, other = ([length(row) for row in islice(iter(rows(seed=s)), 64)] for s in (0, 0, 1))
    assert first == again != other


def test_one_pair_in_two_is_renamed():
    pairs = [("aaa", "bbb")] * 1_000
    seen = []

    def keep(pairs):
        seen.extend(pairs)
        return encode(pairs)

    dataset = ShortFirst(pairs, keep, lambda: 1.0, renaming=lambda pair, _: ("x", "y"), group=4)
    list(islice(iter(dataset), 1_000))
    assert dataset.given == 1_000
    assert 400 < seen[:1_000].count(("x", "y")) < 600


def ended(pairs):
    """Rows that tell their pairs: both sides a letter for each character, and an end."""
    return [{"input_ids": [*source, "</s>"], "labels": [*target, "</s>"]} for source, target in pairs]


def test_joined_pairs_stand_in_one_order_on_both_sides_and_end_once():
    pairs = [(f"{n:02}", f"{n:02}!") for n in range(64)]
    dataset = ShortFirst(pairs, ended, lambda: 1.0, joined=0.5, group=4, longest=30)
    examples = list(islice(iter(dataset), 400))
    for row in examples:
        source, target = "".join(row["input_ids"]), "".join(row["labels"])
        assert source.endswith("</s>")
        assert source.count("</s>") == target.count("</s>") == 1
        assert target.replace("!", "") == source
        assert set(row) == {"input_ids", "labels"}
        assert length(row) <= 30
    counts = [row["labels"].count("!") for row in examples]
    assert dataset.given == sum(counts)
    assert set(counts) == {1, 2, 3, 4, 5}
    # one of two goes on, were it not for the limit
    assert 1.5 < sum(counts) / len(counts) < 2


def test_none_are_joined_unless_told():
    dataset = ShortFirst([("aa", "b!")] * 8, ended, lambda: 1.0, group=4)
    assert all(row["labels"].count("!") == 1 for row in islice(iter(dataset), 100))


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_what_is_no_share_is_refused(share):
    with pytest.raises(ValueError, match=f"from 0 to 1, and not {share}"):
        rows(joined=share)


def test_too_few_pairs_are_refused():
    with pytest.raises(ValueError, match="3 pairs are no group of 4"):
        rows(pairs=PAIRS)
