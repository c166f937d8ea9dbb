"""What a translator of code learns from: copies, then pairs, in which order and under which names."""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from code_tokenizer import PART_OF_A_NAME
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerBase


Pair = tuple[str, str]
Row = dict[str, Any]


class Renaming:
    """Pairs in which parts of names are other words, the same on both sides.

    What a name is made of matters little to a translation, but that it comes back does. Of ten thousand pairs a small
    model learns the names by heart; where any word may stand in any place, copying is what there is to learn.

    Args:
        pairs: The training's.
        kept: How many of the most frequent words are never changed: those of the languages and their libraries.
        share: Of the other words of a pair, how many are changed.
    """

    def __init__(self, pairs: Sequence[Pair], kept: int = 80, share: float = 0.5) -> None:
        words = Counter(word for pair in pairs for text in pair for word in words_of(text))
        self.kept = {word for word, _ in words.most_common(kept)}
        self.share = share
        self.others = sorted(word for word in words if self._may_change(word))

    def __call__(self, pair: Pair, chance: random.Random) -> Pair:
        """Returns a pair with other names.

        Args:
            pair: Source and target.
            chance: What draws them.
        """
        source, target = pair
        # sorted, since a set has another order in another process
        both = sorted(word for word in words_of(source) & words_of(target) if self._may_change(word))
        changes = {word: chance.choice(self.others) for word in both if chance.random() < self.share}

        def change(match: re.Match[str]) -> str:
            word = match.group()
            other = changes.get(word.lower())
            return word if other is None else written_as(word, other)

        return PART_OF_A_NAME.sub(change, source), PART_OF_A_NAME.sub(change, target)

    def _may_change(self, word: str) -> bool:
        return len(word) > 2 and word not in self.kept


def words_of(text: str) -> set[str]:
    """The parts of the names in a text, in small letters."""
    return {part.lower() for part in PART_OF_A_NAME.findall(text)}


def written_as(model: str, word: str) -> str:
    """A word in small letters with the capitals of another.

    Example:
        >>> written_as("Item", "node"), written_as("ITEM", "node"), written_as("item", "node")
        ('Node', 'NODE', 'node')
    """
    if model.isupper() and len(model) > 1:
        return word.upper()
    return word.capitalize() if model[0].isupper() else word


class Copies(IterableDataset[Row]):
    """Encoded rows of random tokens to be written as they are read, in groups of one length, short ones first.

    To copy, a decoder has to read where it writes. Of pairs of code that is learned late, since much of a target can
    be guessed from its beginning; here nothing else helps. Where cross-attention compares places, all that is learnt
    is to keep to one place on both sides, in few steps: to find it again where they differ is left to the pairs.

    Args:
        tokens: Token ids to draw from.
        encode: Makes a row of the drawn ones, with `input_ids` and `labels`.
        progress: Says which share of the training is over, from 0 to 1.
        until: The share of the training at which they end.
        group: Rows in a group: those of a batch.
        shortest: Fewest tokens of a row.
        longest: Most tokens of a row, at first and at last.
        seed: Of all that is drawn.
    """

    def __init__(
        self,
        tokens: Sequence[int],
        encode: Callable[[list[int]], Row],
        progress: Callable[[], float],
        *,
        until: float = 0.15,
        group: int = 8,
        shortest: int = 4,
        longest: tuple[int, int] = (10, 40),
        seed: int = 0,
    ) -> None:
        self.tokens = tokens
        self.encode = encode
        self.progress = progress
        self.until = until
        self.group = group
        self.shortest, self.longest = shortest, longest
        self.seed = seed

    def __iter__(self) -> Iterator[Row]:
        """Yields rows, group by group."""
        chance = random.Random(self.seed)
        first, last = self.longest
        while (done := self.progress()) < self.until:
            many = chance.randint(self.shortest, int(first + (last - first) * done / self.until))
            for _ in range(self.group):
                yield self.encode(chance.choices(self.tokens, k=many))


def tokens_to_copy(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """All token ids but the special ones, in order."""
    return sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))


class ShortFirst(IterableDataset[Row]):
    """Encoded pairs without end, in groups of like length; at the beginning of the training the short ones alone.

    In a short pair there is little to find the right place among, and a step takes little time. Of long ones there are
    few, and the further a translation has come, the further its place in the source may be from its own: rows of
    several pairs, one after the other, show more of that.

    Args:
        pairs: Sources and targets.
        encode: Makes rows of pairs, with `input_ids` and `labels`.
        progress: Says which share of the training is over, from 0 to 1.
        renaming: What changes the names of one pair in two, if anything does.
        joined: Which share of the pairs, from 0 to 1, is followed by another one in its row, as far as the limit of
            tokens allows.
        group: Rows in a group: those of a batch.
        shortest: How many tokens a row may have at first.
        longest: How many from `all_from` on.
        all_from: A share of the training.
        seed: Of all that is drawn.

    Attributes:
        given: How many pairs were drawn so far.

    Raises:
        ValueError: If there are fewer pairs than a group has, or `joined` is no share.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        encode: Callable[[Sequence[Pair]], list[Row]],
        progress: Callable[[], float],
        *,
        renaming: Renaming | None = None,
        joined: float = 0.0,
        group: int = 8,
        shortest: int = 90,
        longest: int = 512,
        all_from: float = 0.6,
        seed: int = 0,
    ) -> None:
        if len(pairs) < group:
            raise ValueError(f"{len(pairs)} pairs are no group of {group}: give more pairs, or smaller batches")
        if not 0 <= joined <= 1:
            raise ValueError(f"joined is a share of the pairs, from 0 to 1, and not {joined}")
        self.pairs = pairs
        self.encode = encode
        self.progress = progress
        self.renaming = renaming
        self.joined = joined
        self.group = group
        self.shortest, self.longest, self.all_from = shortest, longest, all_from
        self.seed = seed
        self.given = 0

    def limit(self) -> float:
        """How many tokens a row may have now."""
        return self.shortest + (self.longest - self.shortest) * min(1.0, self.progress() / self.all_from)

    def __iter__(self) -> Iterator[Row]:
        """Yields rows, group by group."""
        chance = random.Random(self.seed)
        while True:
            order = chance.sample(range(len(self.pairs)), len(self.pairs))
            # of so many the groups are made, and the limit is that of the moment
            many = 64 * self.group
            for start in range(0, len(order), many):
                pairs = [self._renamed(self.pairs[place], chance) for place in order[start : start + many]]
                yield from self._grouped(self.encode(pairs), chance)

    def _renamed(self, pair: Pair, chance: random.Random) -> Pair:
        if self.renaming is None or chance.random() < 0.5:
            return pair
        return self.renaming(pair, chance)

    def _grouped(self, rows: Sequence[Row], chance: random.Random) -> Iterator[Row]:
        limit = self.limit()
        fitting = [row for row in self._joined(rows, chance, limit) if length(row) <= limit]
        # a little by chance, so that the same rows do not meet in each round
        drawn = [(length(row) + 10 * chance.random(), row) for row in fitting]
        by_length = [row for _, row in sorted(drawn, key=lambda of_row: of_row[0])]
        whole = len(by_length) // self.group * self.group
        groups = [by_length[start : start + self.group] for start in range(0, whole, self.group)]
        chance.shuffle(groups)
        for group in groups:
            self.given += sum(row.pop("pairs") for row in group)
            yield from group

    def _joined(self, rows: Iterable[Row], chance: random.Random, limit: float) -> Iterator[Row]:
        run = None
        for row in rows:
            pair = {**row, "pairs": 1}
            if run is None:
                run = pair
            elif length(run) + length(pair) <= limit and chance.random() < self.joined:
                run = one_after_the_other(run, pair)
            else:
                yield run
                run = pair
        if run is not None:
            yield run


def length(row: Row) -> int:
    """The tokens of a row, of both sides."""
    return len(row["input_ids"]) + len(row["labels"])


def one_after_the_other(first: Row, second: Row) -> Row:
    """One row of two, which ends once."""
    return {
        "input_ids": first["input_ids"][:-1] + second["input_ids"],
        "labels": first["labels"][:-1] + second["labels"],
        "pairs": first["pairs"] + second["pairs"],
    }
