"""Scores are those of the official scripts, whatever the order of the examples and whatever they are added up from."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_bleu, corpus_chrf

from encdec_slm.evaluation.bootstrap import confidence_intervals
from encdec_slm.evaluation.metrics import (
    METRICS,
    ROUGE_TYPES,
    bleu,
    chrf,
    code_to_text_bleu,
    code_translation,
    exact_match,
    rouge,
    squad_v2,
    textvqa_accuracy,
    vqa_accuracy,
    word_error_rate,
)
from encdec_slm.evaluation.vqa_answers import is_relaxed_match, normalized, without_punctuation


WORDS = ("The", "a", "cat", "dogs", "ran", "running,", "2.5", "x_y", "(z)", "it's", "café", "end.")


def texts(number, seed, longest=9):
    choose = random.Random(seed)
    return [" ".join(choose.choices(WORDS, k=choose.randint(2, longest))) for _ in range(number)]


@pytest.fixture(scope="module")
def pairs():
    """Predictions, of which some are right, and references."""
    references = texts(40, 1)
    return {"predictions": [*references[:9], *texts(31, 2)], "references": references}


# three translations, scored by the official `evaluator.py` of CodeXGLUE
TRANSLATED = [
    "public int size ( ) { return count ; }",
    "public void Clear ( ) { items = null ; count = 0 ; }",
    "return a + b ;",
]
RIGHT = [
    "public int Size ( ) { return count ; }",
    "public void Clear ( ) { items = null ; count = 0 ; }",
    "return a + b + c ;",
]


def test_translated_code_is_scored_as_by_the_official_script():
    scores = code_translation(predictions=TRANSLATED, references=RIGHT)
    assert scores == pytest.approx({"bleu": 82.12, "exact_match": 100 / 3}, abs=0.005)


@pytest.mark.skipif("CODEXGLUE" not in os.environ, reason="CODEXGLUE names no folder with the published predictions")
def test_published_predictions_have_the_published_scores():
    folder = Path(os.environ["CODEXGLUE"])
    predictions, references = (
        (folder / f"cs-java-model1.{kind}").read_text(encoding="utf-8").splitlines() for kind in ("output", "gold")
    )
    scores = code_translation(predictions=predictions, references=references)
    assert {name: round(score, 2) for name, score in scores.items()} == {"bleu": 71.99, "exact_match": 57.9}


def test_docstrings_are_scored_as_by_the_official_script():
    predictions = ["Return the sum of two_numbers .", "Opens a file", "", "nothing in common"]
    references = [
        "Returns the sum of two_numbers.",
        "Open the file at path and read it .",
        "Say hello .",
        "Compute x*y (fast).",
    ]
    # each, from the evaluator of CodeXGLUE's code-to-text
    official = [85.9948, 10.8328, 4.9787, 0.0]
    scores = [
        code_to_text_bleu(predictions=[prediction], references=[reference])["code_to_text_bleu"]
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    assert scores == pytest.approx(official, abs=1e-4)
    mean = code_to_text_bleu(predictions=predictions, references=references)["code_to_text_bleu"]
    assert mean == pytest.approx(np.mean(official), abs=1e-4)


def test_sums_over_examples_give_the_libraries_own_corpus_scores(pairs):
    predictions, references = pairs["predictions"], [pairs["references"]]
    assert bleu(**pairs)["bleu"] == pytest.approx(corpus_bleu(predictions, references).score)
    assert chrf(**pairs)["chrf"] == pytest.approx(corpus_chrf(predictions, references).score)


def test_rouge_is_the_librarys_with_lines_as_sentences(pairs):
    pairs = {name: [*texts, "the cat ran\nit sat"] for name, texts in pairs.items()}
    pairs["references"][-1] = "a cat ran.\nit sat\nthere"
    scorer = RougeScorer(ROUGE_TYPES, use_stemmer=True)
    rows = [scorer.score(*pair) for pair in zip(pairs["references"], pairs["predictions"], strict=True)]
    expected = {name: 100 * np.mean([row[name].fmeasure for row in rows]) for name in ROUGE_TYPES}
    assert rouge(**pairs) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        # each as the official script scores it
        ("the cat sat", ["cat sat down"], 0, 80),
        ("The cat, sat", ["dog", "cat sat"], 100, 100),
        ("Eiffel-Tower!", ["the eiffeltower"], 100, 100),
        ("cat cat dog", ["cat dog dog"], 0, 200 / 3),
        ("cat", ["", "cat"], 100, 100),
        ("", ["cat"], 0, 0),
        ("", [], 100, 100),
        ("the", [], 100, 100),
        ("cat", [], 0, 0),
        ("cat", ["the"], 0, 0),
    ],
)
def test_squad_is_scored_as_by_the_official_script(prediction, answers, exact, f1):
    scores = squad_v2(predictions=[prediction], references=[answers])
    kind = "has_answer_" if answers and answers != ["the"] else "no_answer_"
    assert scores == pytest.approx({"exact_match": exact, "f1": f1, f"{kind}exact_match": exact, f"{kind}f1": f1})


def test_squad_tells_questions_with_and_without_an_answer_apart():
    scores = squad_v2(predictions=["", "a cat", "cats", ""], references=[[], ["cat"], ["dogs"], ["dogs"]])
    assert scores == pytest.approx(
        {
            "exact_match": 50,
            "f1": 50,
            "has_answer_exact_match": 100 / 3,
            "has_answer_f1": 100 / 3,
            "no_answer_exact_match": 100,
            "no_answer_f1": 100,
        }
    )


@pytest.mark.parametrize(
    ("prediction", "answers", "score"),
    [
        # from the official script, all of them
        ("two dogs", ["2 dogs"] * 4 + ["two dogs"] * 3 + ["dog"] * 3, 1.0),
        ("The red car.", ["red car"] * 2 + ["car"] * 8, 0.6),
        ("yes", ["yes"] + ["no"] * 9, 0.3),
        ("yes", ["yes"] * 3 + ["no"] * 7, 0.9),
        ("10,000", ["10000"] * 3 + ["10,000"] * 7, 1.0),
        ("don't", ["don't"] * 10, 0.0),
        ("dont", ["don't"] * 10, 1.0),
    ],
)
def test_vqa_accuracy_leaves_each_of_ten_answers_out_in_turn(prediction, answers, score):
    random.Random(0).shuffle(answers)
    scores = vqa_accuracy(predictions=[prediction], references=[answers])
    assert scores["vqa_accuracy"] == pytest.approx(100 * score)


def test_answers_about_texts_in_images_are_normalized_on_both_sides():
    given = {"predictions": ["the dark knight"], "references": [["The Dark Knight"] * 10]}
    assert textvqa_accuracy(**given)["vqa_accuracy"] == 100
    assert vqa_accuracy(**given)["vqa_accuracy"] == 0


@pytest.mark.parametrize(
    ("text", "cleaned", "compared"),
    [
        ("a b/c", "a b c", "b c"),
        ("rock 'n roll", "rock n roll", "rock n roll"),
        ("3.5 m.", "3.5 m", "3.5 m"),
        ("1,000 a/b", "1000 ab", "1000 ab"),
        ("None of the\nten", "None of the\nten", "0 of 10"),
    ],
)
def test_punctuation_of_short_answers(text, cleaned, compared):
    assert without_punctuation(text) == cleaned
    assert normalized(text) == compared


@pytest.mark.parametrize(
    ("answer", "target", "is_right"),
    [
        ("95", "100", True),
        ("105", "100", True),
        ("94", "100", False),
        ("106", "100", False),
        ("11", "10", False),
        ("10.0", "10", True),
        ("5%", "0.05", True),
        ("", "10", False),
        ("0", "0", True),
        ("0.0", "0", False),
        ("1", "0", False),
        ("pears ", "Pears", True),
        ("pear", "pears", False),
        ("12", "pears", False),
        ("twelve", "12", False),
        ("nan", "12", False),
        ("inf", "12", False),
    ],
)
def test_relaxed_accuracy_of_charts(answer, target, is_right):
    assert is_relaxed_match(answer, target) is is_right


def test_word_errors_are_edits_of_the_nearest_reference_over_all_words():
    scores = word_error_rate(predictions=["a b c", "d"], references=[["x y z v", "a c"], "d e"])
    assert scores == pytest.approx({"word_error_rate": 100 * 2 / 4})


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_perfect_answer_is_perfect_and_scores_do_not_depend_on_the_order(name, pairs):
    metric = METRICS[name]
    perfect = metric(predictions=pairs["references"], references=pairs["references"])
    ideal = 0 if name == "word_error_rate" else 100
    if name not in ("vqa_accuracy", "textvqa_accuracy"):  # one answer alone agrees with nobody
        assert perfect == pytest.approx(dict.fromkeys(perfect, ideal))
    order = random.Random(3).sample(range(40), 40)
    shuffled = {key: [column[place] for place in order] for key, column in pairs.items()}
    assert metric(**shuffled) == pytest.approx(metric(**pairs))


def test_an_interval_holds_the_score_and_narrows_with_the_square_root_of_the_examples(pairs):
    counts = exact_match.counts(**pairs)
    assert set(counts[:, 0]) == {0, 1}
    (few,) = confidence_intervals(exact_match, counts).values()
    (many,) = confidence_intervals(exact_match, np.tile(counts, (16, 1))).values()
    share = counts[:, 0].mean()
    assert few[0] < 100 * share < few[1]
    # the standard error of a share
    width = 2 * 1.96 * 100 * np.sqrt(share * (1 - share) / len(counts))
    assert few[1] - few[0] == pytest.approx(width, rel=0.15)
    assert many[1] - many[0] == pytest.approx(width / 4, rel=0.15)


def test_an_interval_of_what_never_varies_is_a_point():
    counts = bleu.counts(predictions=["a b c d e"] * 5, references=["a b c d e"] * 5)
    assert confidence_intervals(bleu, counts)["bleu"] == pytest.approx((100, 100))


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (["a"], ["a", "b"], "1 predictions, but 2 references"),
        ([], [], "no predictions"),
        (["a", "b"], ["a", " "], "reference of example 1 is empty"),
        (["a"], [[]], "reference of example 0 is empty"),
        ("a", ["a"], "a text alone"),
    ],
)
def test_what_cannot_be_scored_is_refused(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        rouge(predictions=predictions, references=references)


# counts once with every metric, and prints the packages that this imported
IMPORTED_LATE = """
import sys
from encdec_slm.evaluation.metrics import METRICS

def packages():
    return {name.partition(".")[0] for name in sys.modules}

for metric in METRICS.values():
    metric.load()
before = packages()
for metric in METRICS.values():
    metric(predictions=["a b"], references=["a c"])
print(*packages() - before & {"jiwer", "nltk", "rouge_score", "sacrebleu"})
"""


def test_a_loaded_metric_has_its_packages():
    command = [sys.executable, "-c", IMPORTED_LATE]
    assert not subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
