"""A memory answers as its pairs do where it knows them, and the model where it does not."""

import copy
import json

import pytest
import remember_pairs
import torch
from datasets import Dataset
from fresh_process import run_python
from model_tester import ModelTester
from scoring import bleu
from tasks import Task
from timed_training import TRAINING
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from encdec_slm.cli import main


PAIRS = [("cat", "tac"), ("a dog", "no dog"), ("the end", "dne"), ("x", "an x y"), ("many", "words"), ("yes", "")]
SOURCES, TARGETS = (list(texts) for texts in zip(*PAIRS, strict=True))
# so near that nothing but the place in a pair that is meant counts, and the model nothing at all
EXACT = {"temperature": 1e-3, "prior": 1e-6}
TOKENS = 12


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, tiny_tokenizer):
    """A model with random weights, and what its training was."""
    folder = tmp_path_factory.mktemp("model")
    ModelTester().model().save_pretrained(folder)
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    tokenizer.save_pretrained(folder)
    (folder / TRAINING).write_text(json.dumps({"label": "random", "minutes": 2.0, "pairs": 6}))
    return folder


@pytest.fixture
def remembering(model_folder, tmp_path, monkeypatch):
    """Returns a function that gives the model a memory, and returns its folder."""
    rows = Dataset.from_dict({"source": SOURCES, "target": TARGETS, "line": range(len(PAIRS))})
    monkeypatch.setattr(remember_pairs, "load_task", lambda *_: Task(rows, rows, "BLEU", bleu))

    def remember(**options):
        given = {"data_dir": "none", "model": model_folder, "output_dir": tmp_path / "memory", "batch_size": 4}
        given |= options
        remember_pairs.main([str(part) for name, value in given.items() for part in (f"--{name}", value)])
        return given["output_dir"]

    return remember


def load(folder, **options):
    return AutoModelForSeq2SeqLM.from_pretrained(folder, **options).eval(), AutoTokenizer.from_pretrained(folder)


def answers(model, tokenizer, texts, **options):
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    tokens = model.generate(
        input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, max_new_tokens=TOKENS, **options
    )
    return tokenizer.batch_decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_what_is_remembered_is_answered(num_beams, remembering):
    folder = remembering(**EXACT)
    assert answers(*load(folder, trust_remote_code=True), SOURCES, num_beams=num_beams) == TARGETS
    # the same folder, without its code
    assert answers(*load(folder), SOURCES, num_beams=num_beams) != TARGETS


def test_a_source_is_answered_alone_as_among_others_and_without_a_mask(remembering):
    model, tokenizer = load(remembering(), trust_remote_code=True)
    texts = ["cats", "a cat", "the dog is here", "z"]
    together = answers(model, tokenizer, texts)
    assert together == [answers(model, tokenizer, [text])[0] for text in texts]
    ids = tokenizer(texts, padding=True, return_tensors="pt").input_ids
    assert tokenizer.batch_decode(model.generate(ids, max_new_tokens=TOKENS), skip_special_tokens=True) == together


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}])
def test_where_the_model_says_all_it_is_the_model_alone(options, dtype, remembering, model_folder):
    remembers = load(remembering(prior=1e12), trust_remote_code=True, dtype=dtype)
    alone = load(model_folder, dtype=dtype)
    assert answers(*remembers, SOURCES, **options) == answers(*alone, SOURCES, **options)


def test_what_is_said_is_a_distribution_and_what_is_forbidden_stays_so(remembering):
    model, tokenizer = load(remembering(**EXACT), trust_remote_code=True)
    inputs = tokenizer(["cat"], return_tensors="pt").input_ids
    given = {"max_new_tokens": 3, "output_scores": True, "return_dict_in_generate": True}
    (first, *others) = model.generate(inputs, **given).scores
    for scores in (first, *others):
        assert torch.allclose(scores.exp().sum(dim=1), torch.ones(1))
    token = first.argmax().item()
    assert tokenizer.decode([token]) == "t"
    assert model.generate(inputs, suppress_tokens=[token], **given).scores[0][0, token] == -torch.inf


def test_it_answers_in_an_evaluation_and_its_training_is_told(remembering, tmp_path, capsys):
    folder = remembering(**EXACT)
    for name, texts in (("a.java", SOURCES[:-1]), ("a.cs", TARGETS[:-1])):
        (tmp_path / name).write_text("".join(f"{text}\n" for text in texts))
    data = ["--data", str(tmp_path / "a.java"), str(tmp_path / "a.cs"), "--output", str(folder / "scores")]
    command = ["evaluate", str(folder), "--trust-remote-code", "--task", "codexglue_java_cs", *data]
    assert main([*command, "--max-new-tokens", str(TOKENS)]) == 0
    assert "| exact match | 100.00 |" in capsys.readouterr().out
    said = json.loads((folder / TRAINING).read_text())
    assert said["label"] == "random, with its pairs in memory"
    assert said["minutes"] >= 2


# prints an answer
PROGRAM = """
import sys
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

sys.modules["encdec_slm"] = None  # as if it was not installed
model = AutoModelForSeq2SeqLM.from_pretrained(sys.argv[1], trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
tokens = model.generate(**tokenizer(["a dog"], return_tensors="pt"), max_new_tokens=12)
print(tokenizer.decode(tokens[0], skip_special_tokens=True))
"""


def test_it_answers_where_this_package_is_not(remembering, tmp_path):
    done = run_python("-c", PROGRAM, remembering(**EXACT), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "no dog"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "neither inputs nor input_ids are given"),
        ({"input_ids": torch.ones(1, 2, dtype=torch.long), "prompt_lookup_num_tokens": 2}, "prompt_lookup_num_tokens"),
    ],
)
def test_what_it_cannot_answer_is_refused(options, message, remembering):
    model, _ = load(remembering(), trust_remote_code=True)
    with pytest.raises(ValueError, match=message):
        model.generate(**options)


def test_bad_numbers_and_full_folders_are_refused(remembering, tmp_path):
    with pytest.raises(ValueError, match=r"prior is 0\.0, but has to be more than 0"):
        remembering(prior=0)
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/mine").write_text("mine")
    with pytest.raises(ValueError, match=r"already holds something \(mine\)"):
        remembering()
    assert [path.name for path in (tmp_path / "memory").iterdir()] == ["mine"]
