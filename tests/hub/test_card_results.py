"""Results are read whole, with their command and machine, or refused."""

import json

import pytest
from card_tester import REPO_ID, front_matter
from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index
from model_tester import ModelTester

from encdec_slm.hub.card import card_for_folder
from encdec_slm.hub.card_results import evaluations, read_results


RECORDS = [
    {
        "task": {"type": "text-generation", "name": "translation of code"},
        "dataset": {"type": "code_x_glue", "name": "CodeXGLUE", "split": "test"},
        "metrics": [{"type": "bleu", "value": 45.25, "name": "BLEU"}, {"type": "exact_match", "value": 0.5}],
        "source": {"name": "python -m evaluate", "machine": "a machine"},
    },
    {
        "task": {"type": "text-generation"},
        "dataset": {"type": "xsum", "name": "XSum"},
        "metrics": [{"type": "rouge", "value": 21}],
        "source": {"name": "python -m evaluate", "machine": "a machine", "url": "https://example.org"},
    },
]


def test_who_verified_a_result_is_for_the_hub_to_say():
    record = {**RECORDS[0], "metrics": [{"type": "bleu", "value": 1.0, "verified": True, "verifyToken": "x"}]}
    (evaluation,) = evaluations([record], origin="a test")
    assert evaluation.results[0].verified is evaluation.results[0].verify_token is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": {"name": "a command"}}, "'machine'"),
        ({"source": None}, "misshapen"),
        ({"source": {"name": "a command", "machine": " "}}, "which command and machine"),
        ({"source": {"name": "", "machine": "a machine"}}, "which command and machine"),
        ({"metrics": [{"type": "bleu", "value": float("nan")}]}, "must be a finite number, but is nan"),
        ({"metrics": [{"type": "bleu", "value": "45 to 50"}]}, "must be a finite number"),
        ({"metrics": [{"type": "bleu", "value": True}]}, "must be a finite number"),
        ({"metrics": [{"type": "bleu"}]}, "'value'"),
        ({"task": {"type": ["a", "b"]}}, "must be a text, but is ['a', 'b']"),
        ({"dataset": {"type": "xsum", "name": ""}}, "must be a text, but is ''"),
        ({"dataset": {"type": "xsum", "name": "XSum", "split": {"a": 1}}}, "must be a text, but is {'a': 1}"),
    ],
)
def test_results_that_nobody_can_repeat_or_read_are_refused(change, message):
    with pytest.raises(ValueError, match="result 1 in a file") as error:
        evaluations([RECORDS[0], {**RECORDS[0], **change}], origin="a file")
    assert message in str(error.value)


@pytest.mark.parametrize(("content", "message"), [("{}", "must hold a JSON list"), ("[", "is not JSON")])
def test_a_file_without_results_is_refused(tmp_path, content, message):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=rf"results\.json {message}"):
        read_results(tmp_path / "results.json")


def test_model_index_holds_the_results_beside_the_model(tmp_path):
    config = {**ModelTester().config().to_dict(), "architectures": ["EncDecSLMForConditionalGeneration"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "results.json").write_text(json.dumps(RECORDS))
    text = card_for_folder(tmp_path, REPO_ID)
    results = [
        EvalResult("text-generation", "code_x_glue", "CodeXGLUE", "bleu", 45.25, "translation of code",
                   dataset_split="test", metric_name="BLEU"),
        EvalResult("text-generation", "code_x_glue", "CodeXGLUE", "exact_match", 0.5, "translation of code",
                   dataset_split="test"),
        EvalResult("text-generation", "xsum", "XSum", "rouge", 21,
                   source_name="python -m evaluate", source_url="https://example.org"),
    ]  # fmt: skip
    data = front_matter(text)
    assert data["model-index"] == eval_results_to_model_index("a-model.v1", results)
    assert data["metrics"] == ["bleu", "exact_match", "rouge"]
    assert ModelCard(text).data.eval_results == results
    # once for both, since it is the same
    assert text.count("Measured by `python -m evaluate` on a machine.") == 1
