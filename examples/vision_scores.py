"""How good answers about pictures are: exact match, and the relaxed accuracy of ChartQA."""

from collections.abc import Sequence

from encdec_slm.evaluation.vqa_answers import is_relaxed_match


def exact_match(answer: str, reference: str) -> bool:
    """Whether an answer is the reference, apart from capitals and blanks around it.

    >>> exact_match(" Animals & Nature", "animals & nature")
    True
    """
    return answer.strip().casefold() == reference.strip().casefold()


# what counts as right in each data set
MATCHES = {"emoji": exact_match, "charts": is_relaxed_match}


def right(answers: Sequence[str], references: Sequence[Sequence[str]], data: Sequence[str]) -> list[bool]:
    """Which answers are right: as good as one of those that are.

    Args:
        answers: Texts.
        references: The right ones for each answer.
        data: The data set of each, a key of `MATCHES`.
    """
    return [
        any(MATCHES[name](answer, reference) for reference in right_ones)
        for answer, right_ones, name in zip(answers, references, data, strict=True)
    ]
