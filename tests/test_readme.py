"""The README's snippets run, one after the other, as a reader would type them."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image
from transformers import SiglipVisionConfig, SiglipVisionModel

from encdec_slm import cli


README = Path(__file__).parent.parent / "README.md"
TEXT = README.read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
# what the snippets of exported models read
EXPORTS = re.findall(r"^encdec-slm (export .*?)(?: +#.*)?$", TEXT, re.MULTILINE)


def test_readme_has_its_snippets():
    assert len(SNIPPETS) == 8
    assert len(EXPORTS) == 2


@pytest.fixture
def demo_folder(tmp_path, monkeypatch):
    """What `make demo` leaves behind, untrained: the model and the tokenizer of the demo."""
    monkeypatch.syspath_prepend(README.parent / "examples")
    build_model = importlib.import_module("spelling_students").build_model
    build_tokenizer = importlib.import_module("spelling_tokenizer").build_tokenizer
    tokenizer = build_tokenizer("abcdefghijklmnopqrstuvwxyz", ["AE", "AO", "D", "G", "K", "T"])
    folder = tmp_path / "outputs/spelling_to_sound"
    build_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def picture_and_tower(tmp_path):
    """What a reader has who lets a model see: a picture, and a vision model as that of SigLIP."""
    Image.new("RGB", (96, 64), "white").save(tmp_path / "chart.png")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=32)).save_pretrained(tmp_path / "outputs/tower")


@pytest.mark.usefixtures("demo_folder", "picture_and_tower")
def test_snippets_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for export in EXPORTS:
        assert cli.main(shlex.split(export)) == 0
    namespace = {}
    for snippet in SNIPPETS:
        exec(compile(snippet, str(README), "exec"), namespace)
    answers = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    # of pipelines and of tokenizers; those of the pipelines are dictionaries, one or more for a text
    assert [line[:20].lstrip("[").startswith("{'generated_text'") for line in answers] == [
        True,
        False,
        False,
        True,
        True,
    ]
    assert all(line.startswith("['") for line in answers[1:3])
    assert "generated_text" in answers[0]
    assert (tmp_path / "outputs/spelling_int8/config.json").is_file()
    assert (tmp_path / "outputs/vision/processor_config.json").is_file()
    assert (tmp_path / "outputs/mine/model.safetensors").is_file()
    assert (tmp_path / "outputs/mine/modeling_encdec_slm.py").is_file()
