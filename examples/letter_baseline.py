"""How far letters alone go: the baseline of the spelling-to-sound demo, which reads each letter always in one way."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence


Sound = tuple[str, ...]

LONGEST_SOUND = 2
# of a sound that a letter was never seen to have; small beside 1 / (number of counted letters)
UNSEEN_PROBABILITY = 1e-6


class LetterBaseline:
    """Reads each letter as the phones that it most often stands for: none, one or two, whatever its neighbours.

    What a letter stands for is learned by hard expectation maximisation: align all words, count, align again. The
    first counts are those of the words with as many letters as phones, letter by letter.

    Args:
        pairs: Words and their pronunciations, phones separated by blanks. Five thousand are plenty.
        rounds: How often all words are aligned.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]], rounds: int = 2) -> None:
        words = [(word, tuple(pronunciation.split())) for word, pronunciation in pairs]
        self._count((word, [(phone,) for phone in phones]) for word, phones in words if len(word) == len(phones))
        for _ in range(rounds):
            self._count([(word, self.align(word, phones)) for word, phones in words])
        self.sounds = {letter: counts.most_common(1)[0][0] for letter, counts in self.counts.items()}

    def __call__(self, word: str) -> str:
        """The pronunciation of a word, phones separated by blanks; letters never seen are silent."""
        return " ".join(phone for letter in word for phone in self.sounds.get(letter, ()))

    def align(self, word: str, phones: Sound) -> list[Sound]:
        """The most probable way to share the phones out to the letters; empty if there are too many phones."""
        # best[end]: cost of the letters so far with the first `end` phones, and their sounds
        best: dict[int, tuple[float, list[Sound]]] = {0: (0.0, [])}
        for letter in word:
            reached: dict[int, tuple[float, list[Sound]]] = {}
            for start, (cost, sounds) in best.items():
                for end in range(start, min(start + LONGEST_SOUND, len(phones)) + 1):
                    sound = phones[start:end]
                    total = cost + self._cost(letter, sound)
                    if end not in reached or total < reached[end][0]:
                        reached[end] = (total, [*sounds, sound])
            best = reached
        return best[len(phones)][1] if len(phones) in best else []

    def _cost(self, letter: str, sound: Sound) -> float:
        counts = self.counts[letter]
        return -math.log(counts[sound] / counts.total() + UNSEEN_PROBABILITY) if counts else 0.0

    def _count(self, alignments: Iterable[tuple[str, Sequence[Sound]]]) -> None:
        self.counts: dict[str, Counter[Sound]] = defaultdict(Counter)
        for word, sounds in alignments:
            # no sounds: the word could not be aligned
            for letter, sound in zip(word, sounds, strict=False):
                self.counts[letter][sound] += 1
