"""Short answers to questions about images: what counts as the same answer.

The rules are those of the official scripts of VQA (arXiv 1505.00468), TextVQA (arXiv 1904.08920) and ChartQA (arXiv
2203.10244), so that numbers compare with published ones, their oddities included.
"""

import re
from collections.abc import Sequence


# ChartQA accepts a number that is off by a twentieth
TOLERANCE = 0.05
# so many of the other people have to agree with an answer that counts in full
AGREEING = 3

PUNCTUATION = ";:/'[]\"()=+\\_><@`,?"
DIGITS = {
    word: str(number)
    for number, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    )
} | {"none": "0"}
ARTICLES = {"a", "an", "the"}
# written with their apostrophe again, which people leave out; not those that are words without it, such as we're
CONTRACTED = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't
it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't
somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's
they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's
where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""
CONTRACTIONS = {word.replace("'", ""): word for word in CONTRACTED.split()}
COMMA_IN_NUMBER = re.compile(r"\d,\d")
PERIOD = re.compile(r"\.(?!\d)")


def vqa_score(prediction: str, answers: Sequence[str]) -> float:
    """Returns the accuracy of an answer to a question of VQA, from 0 to 1.

    It is the mean, over all people but one in turn, of min(1, how many of the others gave this answer / 3). What
    people said is cleaned of punctuation only where they differ: the data set has it normalised but for that.

    Args:
        prediction: What a model says.
        answers: What ten people said.
    """
    if len(set(answers)) > 1:
        answers = [without_punctuation(answer) for answer in answers]
    return _agreement(normalized(prediction), answers)


def textvqa_score(prediction: str, answers: Sequence[str]) -> float:
    """Returns the accuracy of an answer to a question of TextVQA, 0 to 1: `vqa_score` with all normalised alike."""
    return _agreement(normalized(_words(prediction)), [normalized(_words(answer)) for answer in answers])


def _agreement(prediction: str, answers: Sequence[str]) -> float:
    agreeing = sum(answer == prediction for answer in answers)
    parts = [min(1.0, (agreeing - (answer == prediction)) / AGREEING) for answer in answers]
    return sum(parts) / len(parts)


def _words(text: str) -> str:
    return text.lower().replace(",", "").replace("?", "").replace("'s", " 's")


def normalized(text: str) -> str:
    """Returns an answer as it is compared: no articles, small numbers as digits, apostrophes of contractions.

    >>> normalized("The two dogs, running."), normalized("dont"), normalized("10,000 m")
    ('2 dogs running', "don't", '10000 m')
    """
    text = without_punctuation(" ".join(re.split(r"[\n\t]", text)).strip())
    words = [DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def without_punctuation(text: str) -> str:
    """Returns a text in which a mark at the edge of a word is gone, and one inside a word is a blank.

    In a text with a comma between digits every mark is gone.
    """
    cleaned = text
    has_comma_in_number = COMMA_IN_NUMBER.search(text) is not None
    for mark in PUNCTUATION:
        is_at_edge = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if is_at_edge or has_comma_in_number else " ")
    return PERIOD.sub("", cleaned)


def is_relaxed_match(prediction: str, answer: str) -> bool:
    """Returns whether a number is off by a twentieth of ChartQA's answer at most; other texts must be the same.

    Capitals and blanks around do not count, and a percent sign divides by a hundred.

    >>> is_relaxed_match("96", "100"), is_relaxed_match("94", "100"), is_relaxed_match("pears", "pear")
    (True, False, False)
    """
    given, wanted = _number(prediction), _number(answer)
    # of zero nothing is a twentieth
    if given is None or not wanted:
        return prediction.strip().lower() == answer.strip().lower()
    return abs(given - wanted) <= TOLERANCE * abs(wanted)


def _number(text: str) -> float | None:
    text = text.strip()
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
