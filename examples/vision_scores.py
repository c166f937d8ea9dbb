"""How good answers about pictures are: exact match, and the relaxed accuracy of ChartQA."""

from collections.abc import Sequence

from encdec_slm.evaluation.vqa_answers import is_relaxed_match


def exact_match(answer: str, target: str) -> bool:
    """Whether an answer is the target, apart from capitals and blanks around it.

    >>> exact_match(" Animals & Nature", "animals & nature")
    True
    """
    return answer.strip().casefold() == target.strip().casefold()


# what counts as right in each data set
MATCHES = {"emoji": exact_match, "charts": is_relaxed_match}


def right(answers: Sequence[str], targets: Sequence[str], data: Sequence[str]) -> list[bool]:
    """Which answers are right.

    Args:
        answers: Texts.
        targets: One for each answer.
        data: The data set of each, a key of `MATCHES`.
    """
    return [MATCHES[name](*pair) for *pair, name in zip(answers, targets, data, strict=True)]
