"""A saved vision model answers about images on a machine that has Transformers but not this package."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fresh_process import run_python
from PIL import Image
from test_remote_code import HIDE_THE_PACKAGE
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline
from vision_tester import IMAGE_TOKEN, WITH_IMAGE_TOKEN, VisionTester, processor_of, with_image_token

import encdec_slm


TEXT = f"{IMAGE_TOKEN}what"
USE_FOLDER = (
    HIDE_THE_PACKAGE
    + """
import json
from pathlib import Path
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoModelForSeq2SeqLM
from transformers import AutoProcessor, pipeline

folder, results, image, text = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
refusals = []
for auto_class in (AutoModelForImageTextToText, AutoProcessor):
    try:
        auto_class.from_pretrained(folder)
    except ValueError as error:
        refusals.append(str(error))
trust = {"trust_remote_code": True}
processor = AutoProcessor.from_pretrained(folder, **trust)
parts = {
    name: auto_class.from_pretrained(folder, **trust)
    for name, auto_class in {
        "config": AutoConfig,
        "base": AutoModel,
        "text": AutoModelForSeq2SeqLM,
        "full": AutoModelForImageTextToText,
    }.items()
}
model = parts["full"]
inputs = processor(images=image, text=text, return_tensors="pt")
named = pipeline("image-text-to-text", model=str(folder), **trust)
plain = pipeline("text2text-generation", model=str(folder), **trust)
options = {"max_new_tokens": 6}
report = {
    "refusals": refusals,
    "modules": [type(part).__module__.split(".")[0] for part in (processor, *parts.values(), named.model, plain)],
    "classes": {name: type(part).__name__ for name, part in parts.items()},
    "image_processor": type(AutoImageProcessor.from_pretrained(folder, **trust)).__name__,
    "answer": model.generate(**inputs, max_new_tokens=6).tolist(),
    "named": named(images=image, text=text, return_full_text=False, **options),
    "plain": plain("abc", **options),
}
# fine-tune and save again, from here
model.train()
model(**inputs, labels=torch.tensor([[9, 2]])).loss.backward()
torch.optim.SGD(model.parameters(), lr=0.1).step()
model.eval()
model.save_pretrained(results / "tuned")
processor.save_pretrained(results / "tuned")
report["tuned"] = model.generate(**inputs, max_new_tokens=6).tolist()
torch.save(dict(inputs), results / "inputs.pt")
(results / "report.json").write_text(json.dumps(report))
"""
)


@pytest.fixture(scope="module")
def folder(tiny_tokenizer, tmp_path_factory):
    tester, folder = VisionTester(**WITH_IMAGE_TOKEN), tmp_path_factory.mktemp("saved") / "a-vision-model.v1"
    tester.model().save_pretrained(folder)
    processor_of(tester, with_image_token(tiny_tokenizer)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 33, 3), dtype=np.uint8)).save(path)
    return str(path)


@pytest.fixture(scope="module")
def results(folder, image, tmp_path_factory):
    """The folder that a process without the package filled."""
    results = tmp_path_factory.mktemp("results")
    done = run_python("-c", USE_FOLDER, folder, results, image, TEXT, cwd=results)
    assert done.returncode == 0, done.stderr
    return results


@pytest.fixture(scope="module")
def report(results):
    return json.loads((results / "report.json").read_text())


def test_every_class_comes_from_the_folder(report):
    assert set(report["modules"]) == {"transformers_modules"}
    assert report["classes"] == {
        "config": "EncDecSLMVisionConfig",
        "base": "EncDecSLMVisionModel",
        "text": "EncDecSLMVisionForConditionalGeneration",
        "full": "EncDecSLMVisionForConditionalGeneration",
    }
    assert report["image_processor"] == "LlavaOnevisionImageProcessor"


def test_code_is_not_run_without_trust(report):
    assert len(report["refusals"]) == 2
    assert all("trust_remote_code=True" in refusal for refusal in report["refusals"])


def test_answers_are_those_of_the_package(report, results, folder, image):
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    inputs, theirs = processor(images=image, text=TEXT, return_tensors="pt"), torch.load(results / "inputs.pt")
    assert inputs.keys() == theirs.keys()
    assert all(torch.equal(inputs[name], theirs[name]) for name in theirs)
    assert model.generate(**inputs, max_new_tokens=6).tolist() == report["answer"]
    named = pipeline("image-text-to-text", model=str(folder))
    assert report["named"] == named(images=image, text=TEXT, return_full_text=False, max_new_tokens=6)
    assert report["plain"] == pipeline("text2text-generation", model=str(folder))("abc", max_new_tokens=6)


def test_what_is_saved_from_there_is_whole(report, results, folder):
    shipped = {path.name for path in (Path(encdec_slm.__file__).parent / "models").glob("[!_]*.py")}
    for saved in (folder, results / "tuned"):
        assert {path.name for path in saved.glob("*.py")} == shipped
        for name in shipped:
            assert (saved / name).read_text() == (Path(encdec_slm.__file__).parent / "models" / name).read_text()
    model = AutoModelForImageTextToText.from_pretrained(results / "tuned")
    assert type(model) is VisionTester.model_class
    assert model.generate(**torch.load(results / "inputs.pt"), max_new_tokens=6).tolist() == report["tuned"]
    assert AutoProcessor.from_pretrained(results / "tuned").image_token == IMAGE_TOKEN
