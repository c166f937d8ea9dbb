"""How good answers are: the metrics of the tasks, as pure functions from texts to numbers of 0 to 100.

    code_translation(predictions=["return 1;"], references=["return 1;"])  # {"bleu": 100.0, "exact_match": 100.0}

A metric is sums over examples and a formula of the sums: BLEU is not the mean of anything, but its counts add up. So
a confidence interval needs no text a second time (`encdec_slm.evaluation.bootstrap`).
"""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encdec_slm.evaluation.vqa_answers import is_relaxed_match, textvqa_score, vqa_score


# the right answer of an example, or several, each of which is right
References = Sequence[str | Sequence[str]]
Scores = dict[str, float]
Sums = NDArray[np.float64]

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What is counted of each example, and what becomes of the sums.

    Attributes:
        count: Returns the numbers of one example, from its prediction and its references.
        scores: Returns the scores by name, from the sums of those numbers.
        takes_empty: Whether an empty reference means something.
        module: What of another package does the counting, if any does.
    """

    count: Callable[[str, Sequence[str]], Sequence[float]]
    scores: Callable[[Sums], Scores]
    takes_empty: bool = False
    module: str | None = None

    def load(self) -> None:
        """Imports the module, which for some takes seconds: better before a model answers than after it.

        Raises:
            ImportError: If its package is missing.
        """
        if self.module is None:
            return
        try:
            import_module(self.module)
        except ImportError as error:
            raise ImportError(
                f"the scores need the package {self.module.partition('.')[0].replace('_', '-')}: "
                "pip install 'encdec-slm[evaluation]'"
            ) from error

    def counts(self, *, predictions: Sequence[str], references: References) -> Sums:
        """Returns the numbers of all examples, of shape (examples, numbers).

        Raises:
            ValueError: If there are not as many predictions as references, none at all, or an example without one.
        """
        rows = checked_references(predictions, references, takes_empty=self.takes_empty)
        return np.array([self.count(*pair) for pair in zip(predictions, rows, strict=True)], dtype=np.float64)

    def __call__(self, *, predictions: Sequence[str], references: References) -> Scores:
        """Returns the scores by name.

        Args:
            predictions: A text for each example.
            references: The right text of each example, or several.

        Raises:
            ValueError: See `counts`.
        """
        return self.scores(self.counts(predictions=predictions, references=references).sum(axis=0))


def checked_references(
    predictions: Sequence[str], references: References, *, takes_empty: bool = False
) -> list[list[str]]:
    """Returns the references of each example as a list.

    Raises:
        ValueError: See `Metric.counts`.
    """
    if isinstance(predictions, str) or isinstance(references, str):
        raise ValueError("predictions and references are one text for each example, but one of them is a text alone")
    if len(predictions) != len(references):
        raise ValueError(f"there are {len(predictions)} predictions, but {len(references)} references")
    if not predictions:
        raise ValueError("there are no predictions to score")
    rows = [[row] if isinstance(row, str) else list(row) for row in references]
    for place, row in enumerate(rows):
        if not takes_empty and not any(text.strip() for text in row):
            raise ValueError(f"the reference of example {place} is empty: leave such examples out")
    return rows


def mean_of(*names: str) -> Callable[[Sums], Scores]:
    """Returns a formula: in percent, the means of numbers behind which a one counts the examples."""
    return lambda sums: {name: 100 * float(total / sums[-1]) for name, total in zip(names, sums, strict=False)}


def _exact_match(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    return float(prediction.strip() in {reference.strip() for reference in references}), 1.0


@cache
def _sacrebleu(name: str, **options: Any) -> Any:
    from sacrebleu import metrics

    return getattr(metrics, name)(**options)


def _segment_statistics(metric: Any, prediction: str, references: Sequence[str]) -> list[int]:
    """Returns the statistics of a segment that add up over a corpus.

    This and `_compute_score_from_stats` are the methods that sacrebleu asks of every metric of its own, and resamples
    by itself.
    """
    statistics: list[int] = metric._extract_corpus_statistics([prediction], [[text] for text in references])[0]
    return statistics


def _sacrebleu_metric(title: str, name: str, **options: Any) -> Metric:
    """Returns a corpus metric of sacrebleu."""

    def count(prediction: str, references: Sequence[str]) -> Sequence[float]:
        return _segment_statistics(_sacrebleu(name, **options), prediction, references)

    def scores(sums: Sums) -> Scores:
        metric = _sacrebleu(name, **options)
        return {title: float(metric._compute_score_from_stats([int(number) for number in sums]).score)}

    return Metric(count=count, scores=scores, module="sacrebleu.metrics")


def _code_bleu_scores(sums: Sums) -> Scores:
    """Returns the BLEU of CodeXGLUE's translations: every count is raised by one, so that none is zero."""
    lengths, counts = sums[:2].astype(int).tolist(), (sums[2:] + 1).astype(int).tolist()
    half = len(counts) // 2
    score = _sacrebleu("BLEU").compute_bleu(counts[:half], counts[half:], *lengths)
    return {"code_bleu": float(score.score)}


def _rouge(prediction: str, references: Sequence[str]) -> list[float]:
    # of texts without a line break both kinds of rougeL are the same, and the slowest part
    has_lines = any("\n" in text.strip() for text in (prediction, *references))
    scores = _rouge_scorer(ROUGE_TYPES if has_lines else ROUGE_TYPES[:-1]).score_multi(references, prediction)
    return [*(scores[name if name in scores else "rougeL"].fmeasure for name in ROUGE_TYPES), 1.0]


@cache
def _rouge_scorer(types: tuple[str, ...]) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(types, use_stemmer=True)


def _word_errors(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    import jiwer

    outputs = [jiwer.process_words(reference, prediction) for reference in references]
    errors = [output.substitutions + output.deletions + output.insertions for output in outputs]
    best = errors.index(min(errors))
    return float(errors[best]), float(len(references[best].split()))


def _code_to_text(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    """Returns smoothed BLEU-4 of one sentence, from 0 to 1, as the script of CodeXGLUE has it.

    Its brevity penalty counts one token more on both sides; its tokens are those of 13a, after words and marks were
    parted.
    """
    metric = _sacrebleu("BLEU", lowercase=True, tokenize="13a", smooth_method="add-k", smooth_value=1, force=True)
    statistics = _segment_statistics(metric, _parted(prediction), [_parted(reference) for reference in references])
    score = metric._compute_score_from_stats(statistics)
    penalty = math.exp(min(0.0, 1 - (score.ref_len + 1) / (score.sys_len + 1)))
    if not score.sys_len:
        return penalty, 1.0
    if not score.precisions[0]:
        return 0.0, 1.0
    return penalty * math.prod(precision / 100 for precision in score.precisions) ** (1 / len(score.precisions)), 1.0


def _parted(text: str) -> str:
    return " ".join(re.findall(r"\w+|[^\s\w]", text))


def _squad_v2(prediction: str, references: Sequence[str]) -> list[float]:
    """Returns exact match and F1, and both for questions with an answer and without, each with its number."""
    answers = [answer for answer in map(squad_words, references) if answer] or [[]]
    words = squad_words(prediction)
    exact, f1 = float(words in answers), max(_overlap(words, answer) for answer in answers)
    has_answer = float(answers != [[]])
    none = 1 - has_answer
    return [exact * has_answer, f1 * has_answer, has_answer, exact * none, f1 * none, none, exact, f1, 1.0]


def _squad_v2_scores(sums: Sums) -> Scores:
    scores: Scores = {}
    for prefix, part in (("", sums[6:]), ("has_answer_", sums[:3]), ("no_answer_", sums[3:6])):
        # a data set may lack one of the kinds
        if part[-1]:
            scores |= mean_of(f"{prefix}exact_match", f"{prefix}f1")(part)
    return scores


def squad_words(text: str) -> list[str]:
    """Returns the words that SQuAD compares: in lower case, without punctuation and articles.

    >>> squad_words("The  Eiffel-Tower!")
    ['eiffeltower']
    """
    return ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()


def _overlap(words: Sequence[str], answer: Sequence[str]) -> float:
    """Returns F1 of two bags of words, from 0 to 1; without words on one side, whether there are none on both."""
    if not words or not answer:
        return float(words == answer)
    common = sum((Counter(words) & Counter(answer)).values())
    return 2 * common / (len(words) + len(answer))


# sacrebleu's default, tokens of 13a: for text
bleu = _sacrebleu_metric("bleu", "BLEU")
chrf = _sacrebleu_metric("chrf", "CHRF")
# tokens between blanks: what CodeXGLUE calls BLEU of translated code
code_bleu = Metric(
    count=_sacrebleu_metric("code_bleu", "BLEU", tokenize="none", force=True).count,
    scores=_code_bleu_scores,
    module="sacrebleu.metrics",
)
code_to_text_bleu = Metric(count=_code_to_text, scores=mean_of("code_to_text_bleu"), module="sacrebleu.metrics")
# F1 with stemming; a line break ends a sentence in rougeLsum
rouge = Metric(count=_rouge, scores=mean_of(*ROUGE_TYPES), module="rouge_score.rouge_scorer")
exact_match = Metric(count=_exact_match, scores=mean_of("exact_match"))
# edits per word of the nearest reference
word_error_rate = Metric(count=_word_errors, scores=mean_of("word_error_rate"), module="jiwer")
# an empty text, or no reference, says that there is no answer
squad_v2 = Metric(count=_squad_v2, scores=_squad_v2_scores, takes_empty=True)
vqa_accuracy = Metric(
    count=lambda prediction, answers: (vqa_score(prediction, answers), 1.0), scores=mean_of("vqa_accuracy")
)
textvqa_accuracy = Metric(
    count=lambda prediction, answers: (textvqa_score(prediction, answers), 1.0), scores=mean_of("vqa_accuracy")
)
relaxed_accuracy = Metric(
    count=lambda prediction, answers: (float(any(is_relaxed_match(prediction, answer) for answer in answers)), 1.0),
    scores=mean_of("relaxed_accuracy"),
)

# by the names that tasks and the command use
METRICS = {
    "bleu": bleu,
    "chrf": chrf,
    "code_bleu": code_bleu,
    "code_to_text_bleu": code_to_text_bleu,
    "exact_match": exact_match,
    "relaxed_accuracy": relaxed_accuracy,
    "rouge": rouge,
    "squad_v2": squad_v2,
    "textvqa_accuracy": textvqa_accuracy,
    "vqa_accuracy": vqa_accuracy,
    "word_error_rate": word_error_rate,
}


def code_translation(*, predictions: Sequence[str], references: References) -> Scores:
    """Returns `bleu` and `exact_match` as CodeXGLUE reports them for translated code; see `Metric`."""
    pairs: dict[str, Any] = {"predictions": predictions, "references": references}
    return {"bleu": code_bleu(**pairs)["code_bleu"], **exact_match(**pairs)}
