"""How good answers about pictures are: exact match, and the relaxed accuracy of ChartQA."""

from collections.abc import Sequence


# ChartQA (arXiv 2203.10244) accepts a number that is off by a twentieth
TOLERANCE = 0.05


def exact_match(answer: str, target: str) -> bool:
    """Whether an answer is the target, apart from capitals and blanks around it.

    >>> exact_match(" Animals & Nature", "animals & nature")
    True
    """
    return answer.strip().casefold() == target.strip().casefold()


def relaxed_match(answer: str, target: str) -> bool:
    """Whether a number is off by a twentieth of the target at most; what is no number has to match exactly.

    >>> relaxed_match("96", "100"), relaxed_match("94", "100"), relaxed_match("pears", "pear")
    (True, False, False)
    """
    wanted, given = number(target), number(answer)
    if wanted is None or given is None:
        return exact_match(answer, target)
    return abs(given - wanted) <= TOLERANCE * abs(wanted)


def number(text: str) -> float | None:
    """The number that a text is, if it is one.

    >>> number(" 12 "), number("twelve"), number("nan")
    (12.0, None, None)
    """
    digits = text.strip().removeprefix("-").replace(".", "", 1)
    return float(text) if digits.isdecimal() and digits.isascii() else None


# what counts as right in each data set
MATCHES = {"emoji": exact_match, "charts": relaxed_match}


def right(answers: Sequence[str], targets: Sequence[str], data: Sequence[str]) -> list[bool]:
    """Which answers are right.

    Args:
        answers: Texts.
        targets: One for each answer.
        data: The data set of each, a key of `MATCHES`.
    """
    return [MATCHES[name](*pair) for *pair, name in zip(answers, targets, data, strict=True)]
