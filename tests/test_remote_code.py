"""A saved folder works on a machine that has Transformers but not this package, and so does what is saved from there.

Fresh processes: in this one the registered classes would win over the files of the folder.
"""

import json
from pathlib import Path

import pytest
import torch
from fresh_process import run_python
from model_tester import ModelTester
from transformers import pipeline

import encdec_slm


# those of images are shipped with models that read images: `test_remote_code_vision.py`
SHIPPED = {
    path.name
    for path in (Path(encdec_slm.__file__).parent / "models").glob("[!_]*.py")
    if "vision" not in path.name and "image" not in path.name
}
TEXTS = ["abc", "no"]
HIDE_THE_PACKAGE = """
import importlib, sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "encdec_slm":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
try:
    importlib.import_module("encdec_slm")
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("the package can be imported: this process would test nothing")
"""
USE_FOLDER = (
    HIDE_THE_PACKAGE
    + """
import json
from pathlib import Path
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoModelForTextEncoding
from transformers import AutoTokenizer, pipeline

folder, results, texts = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
try:
    AutoModelForSeq2SeqLM.from_pretrained(folder)
except ValueError as error:
    refusal = str(error)
trust = {"trust_remote_code": True}
arguments = torch.load(results / "arguments.pt")
inputs = {name: value for name, value in arguments.items() if not name.startswith("decoder")}
with torch.no_grad():
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, **trust)
    parts = {
        "full": model,
        "base": AutoModel.from_pretrained(folder, **trust),
        "encoder": AutoModelForTextEncoding.from_pretrained(folder, **trust),
    }
    states = {
        "full": model(**arguments).logits,
        "base": parts["base"](**arguments).last_hidden_state,
        "encoder": parts["encoder"](**inputs).last_hidden_state,
    }
config = AutoConfig.from_pretrained(folder, **trust)
tokenizer = AutoTokenizer.from_pretrained(folder, **trust)
named = pipeline("text2text-generation", model=str(folder), **trust)
report = {
    "refusal": refusal,
    "modules": [type(part).__module__.split(".")[0] for part in (*parts.values(), config, named)],
    "classes": {name: type(part).__name__ for name, part in parts.items()},
    "config": config.to_dict(),
    "tokens": tokenizer(texts)["input_ids"],
    "named": named(texts, max_new_tokens=6),
    "unnamed": pipeline(model=str(folder), **trust)(texts, max_new_tokens=6),
}

# fine-tune and save again, from here
model.train()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(**inputs, labels=arguments["decoder_input_ids"]).loss.backward()
optimizer.step()
model.eval()
tokenizer.save_pretrained(results / "tuned")
model.save_pretrained(results / "tuned")
with torch.no_grad():
    states["tuned"] = model(**arguments).logits
torch.save(states, results / "states.pt")
(results / "report.json").write_text(json.dumps(report))
"""
)


def use_without_the_package(folder, results, arguments):
    """Uses a folder in a process without the package: what it reports, the states it computed, the folder it saved."""
    results.mkdir()
    torch.save(arguments, results / "arguments.pt")
    done = run_python("-c", USE_FOLDER, folder, results, json.dumps(TEXTS), cwd=results)
    assert done.returncode == 0, done.stderr
    return json.loads((results / "report.json").read_text()), torch.load(results / "states.pt"), results / "tuned"


@pytest.fixture(scope="module")
def model():
    return ModelTester().model()


@pytest.fixture(scope="module")
def arguments():
    torch.manual_seed(0)
    return {**ModelTester().inputs(), "decoder_input_ids": ModelTester().targets()}


@pytest.fixture(scope="module")
def folder(model, tiny_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "a-model.v1"
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def used(folder, arguments, tmp_path_factory):
    return use_without_the_package(folder, tmp_path_factory.mktemp("used") / "results", arguments)


@pytest.fixture(scope="module")
def tuned(used, arguments, tmp_path_factory):
    """What was fine-tuned and saved without the package, used in another process without it."""
    return use_without_the_package(used[2], tmp_path_factory.mktemp("again") / "results", arguments)


def code_in(folder):
    return {path.name for path in folder.glob("*.py")}


def test_folder_holds_all_the_code(folder):
    package = Path(encdec_slm.__file__).parent / "models"
    assert code_in(folder) == SHIPPED
    for name in SHIPPED:
        assert (folder / name).read_text() == (package / name).read_text()


def test_parts_are_saved_with_all_the_code(model, tmp_path):
    for name, part in {"base": model.base_model, "encoder": ModelTester.encoder_class(model.config)}.items():
        part.save_pretrained(tmp_path / name)
        assert code_in(tmp_path / name) == SHIPPED


def test_every_class_comes_from_the_folder(used):
    report, *_ = used
    assert report["modules"] == ["transformers_modules"] * 5
    assert report["classes"] == {
        "full": "EncDecSLMForConditionalGeneration",
        "base": "EncDecSLMModel",
        "encoder": "EncDecSLMEncoder",
    }


def test_code_is_not_run_without_trust(used):
    assert "trust_remote_code=True" in used[0]["refusal"]


def test_states_are_those_of_the_source(used, model, arguments):
    _, states, _ = used
    with torch.no_grad():
        base = model.base_model(**arguments)
        assert torch.equal(states["full"], model(**arguments).logits)
        assert torch.equal(states["base"], base.last_hidden_state)
        assert torch.equal(states["encoder"], base.encoder_last_hidden_state)


def test_configuration_is_that_of_the_source(used, folder):
    written = used[0]["config"]
    for half in ("encoder", "decoder"):
        tester = ModelTester()
        for name, value in getattr(tester, half).items():
            assert written[half][name] == value
    assert written["_name_or_path"] == str(folder)


def test_pipeline_answers_as_here(used, folder, tiny_tokenizer):
    report, *_ = used
    assert report["tokens"] == tiny_tokenizer(TEXTS)["input_ids"]
    expected = pipeline("text2text-generation", model=str(folder))(TEXTS, max_new_tokens=6)
    assert report["named"] == report["unnamed"] == expected


def test_what_is_saved_from_there_works_there_and_here(used, tuned, model, arguments):
    report, states, _ = tuned
    _, before, folder = used
    assert code_in(folder) == SHIPPED
    assert report["modules"] == ["transformers_modules"] * 5
    # it has learnt something, and this is not lost
    assert not torch.equal(before["tuned"], before["full"])
    assert torch.equal(states["full"], before["tuned"])
    here = pipeline("text2text-generation", model=str(folder))
    assert type(here.model) is type(model)
    with torch.no_grad():
        assert torch.equal(here.model(**arguments).logits, states["full"])
    assert report["named"] == report["unnamed"] == here(TEXTS, max_new_tokens=6)
