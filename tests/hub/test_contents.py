"""What is published of a folder: all that others need, nothing else, and the folder stays as it is."""

import json
import shutil

import pytest
import torch
from model_tester import ModelTester
from push_tester import CODE, FAKE_TOKEN, change_json, save_adapter, save_model, save_shards
from transformers import AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration

from encdec_slm.hub import shipped_code
from encdec_slm.hub.code_files import INSTALLED
from encdec_slm.hub.contents import staged


TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}
MODEL = {"config.json", "generation_config.json", "model.safetensors"}
AUTO_CLASSES = {"AutoConfig", "AutoModel", "AutoModelForSeq2SeqLM", "AutoModelForTextEncoding"}


@pytest.fixture(scope="module")
def saved(tiny_tokenizer, tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("saved") / "model", tiny_tokenizer)


@pytest.fixture
def folder(saved, tmp_path):
    """A model folder that a test may change."""
    return shutil.copytree(saved, tmp_path / "model")


def content_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(folder, **options):
    before = content_of(folder)
    with pytest.raises(ValueError, match=r".") as error, staged(folder, **options):
        pass
    assert content_of(folder) == before
    return str(error.value)


def test_what_others_need_goes_and_what_a_training_leaves_stays(folder):
    before = content_of(folder)
    with staged(folder) as contents:
        assert set(contents.files()) == MODEL | CODE | TOKENIZER
        for name in MODEL | TOKENIZER:
            assert (contents.folder / name).read_bytes() == (folder / name).read_bytes()
        assert (contents.folder / "model.safetensors").samefile(folder / "model.safetensors")
        assert contents.left_out == ("checkpoint-10/", "optimizer.pt", "trainer_state.json")
        assert contents.written() == []
    assert not contents.folder.exists()
    assert content_of(folder) == before


def test_documents_and_templates_go_too(folder):
    names = {"README.md", "LICENSE", "chat_template.jinja", "additional_chat_templates/tool.jinja"}
    for name in names | {"notes.txt", "additional_chat_templates/old.txt"}:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("text")
    with staged(folder) as contents:
        assert names < set(contents.files())
        # the folder of which something goes is not left out as a whole
        assert {"notes.txt", "additional_chat_templates/old.txt"} < set(contents.left_out)


def test_images_that_the_card_shows_go_too(folder):
    for name in ("speed.png", "plots/loss.svg", "other.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"image")
    (folder / "README.md").write_text(
        "![Speed](speed.png) [![Loss](plots/loss.svg)](a) ![](../x.png) ![](https://host/other.png)"
    )
    with staged(folder) as contents:
        assert {"speed.png", "plots/loss.svg"} < set(contents.files())
        assert "other.png" in contents.left_out


def test_the_configuration_names_all_code(folder):
    change_json(folder / "config.json", auto_map={"AutoConfig": "x--configuration_encdec_slm.EncDecSLMConfig"})
    change_json(folder / "config.json", custom_pipelines=None)
    before = content_of(folder)
    with staged(folder) as contents:
        config = json.loads((contents.folder / "config.json").read_text())
        assert config["auto_map"].keys() == AUTO_CLASSES
        assert config["custom_pipelines"].keys() == {"text2text-generation"}
        assert contents.written() == ["config.json"]
        # all else of it is the user's
        kept = json.loads((folder / "config.json").read_text())
        assert {**config, "auto_map": kept["auto_map"]}.items() >= kept.items()
    assert content_of(folder) == before


def test_references_to_another_repository_become_local(folder):
    config = json.loads((folder / "config.json").read_text())
    moved = {name: f"someone/model--{code}" for name, code in config["auto_map"].items()}
    change_json(folder / "config.json", auto_map=moved)
    # as older releases wrote it for a tokenizer or processor with code
    entry = ["someone/model--modeling_encdec_slm.EncDecSLMModel", None]
    change_json(folder / "tokenizer_config.json", nested={"auto_map": {"AutoTokenizer": entry}})
    with staged(folder) as contents:
        assert json.loads((contents.folder / "config.json").read_text())["auto_map"] == config["auto_map"]
        tokenizer = json.loads((contents.folder / "tokenizer_config.json").read_text())
        assert tokenizer["nested"]["auto_map"] == {"AutoTokenizer": ["modeling_encdec_slm.EncDecSLMModel", None]}


def test_the_code_is_that_of_the_installed_version(folder):
    (folder / "modeling_encdec_slm.py").write_text("an older version")
    (folder / "pipeline_encdec_slm.py").unlink()
    (folder / "train.py").write_text("print()")
    with staged(folder) as contents:
        for name in CODE:
            assert (contents.folder / name).read_bytes() == (INSTALLED / name).read_bytes()
        assert contents.written() == ["modeling_encdec_slm.py", "pipeline_encdec_slm.py"]
        assert "train.py" in contents.left_out
    # nor is a file of the user written, where it was asked for
    with staged(folder, include=["*.py"]) as contents:
        assert (contents.folder / "modeling_encdec_slm.py").read_bytes() != b"an older version"
        assert "train.py" in contents.files()
    assert (folder / "modeling_encdec_slm.py").read_text() == "an older version"


@pytest.mark.parametrize(
    ("part", "auto_class"),
    [("full", "AutoModelForSeq2SeqLM"), ("base", "AutoModel"), ("encoder", "AutoModelForTextEncoding")],
)
def test_the_auto_class_is_that_of_the_saved_class(part, auto_class, tmp_path):
    model = ModelTester().model()
    parts = {"full": model, "base": model.base_model, "encoder": ModelTester.encoder_class(model.config)}
    parts[part].save_pretrained(tmp_path)
    with staged(tmp_path) as contents:
        assert contents.auto_class == auto_class


def test_a_model_of_the_library_goes_without_code(tmp_path):
    config = T5Config(vocab_size=60, d_model=16, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with staged(tmp_path) as contents:
        assert set(contents.files()) == MODEL
        assert (contents.auto_class, contents.written()) == ("AutoModelForSeq2SeqLM", [])


def test_a_model_object_is_saved_first(tiny_model, tiny_tokenizer):
    with staged(tiny_model, processing_class=tiny_tokenizer) as contents:
        assert set(contents.files()) == MODEL | CODE | TOKENIZER
        loaded = AutoModelForSeq2SeqLM.from_pretrained(contents.folder)
        for name, tensor in tiny_model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor)
    assert not contents.source.exists()


def test_a_folder_has_its_own_tokenizer(folder, tiny_tokenizer):
    assert "a processing_class was given beside the folder" in refusal(folder, processing_class=tiny_tokenizer)


def test_only_the_shards_that_the_index_names_go(tmp_path):
    names = save_shards(tmp_path)
    (tmp_path / "model-00009-of-00009.safetensors").write_bytes(b"of an older model")
    with staged(tmp_path) as contents:
        assert {path for path in contents.files() if "safetensors" in path} == {
            *names,
            "model.safetensors.index.json",
        }
        assert contents.left_out == ("model-00009-of-00009.safetensors",)
    missing = min(names)
    (tmp_path / missing).unlink()
    assert missing in refusal(tmp_path)


def test_the_index_of_older_weights_stays_behind(tmp_path):
    names = save_shards(tmp_path)
    kept = content_of(tmp_path)
    save_model(tmp_path)
    for path, content in kept.items():
        if "safetensors" in path.name:
            path.write_bytes(content)
    # `from_pretrained` reads the whole file first
    with staged(tmp_path) as contents:
        assert [path for path in contents.files() if "safetensors" in path] == ["model.safetensors"]
        assert {*names, "model.safetensors.index.json"} < set(contents.left_out)


def test_weights_that_were_cut_off_are_refused(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "model.safetensors is no safetensors file, or a damaged one" in refusal(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_pickles_do_not_go(folder, name):
    (folder / name).write_bytes(b"pickle")
    with staged(folder) as contents:
        assert name in contents.left_out
    assert f"{name} would run code where it is read" in refusal(folder, include=[name])
    (folder / "model.safetensors").unlink()
    message = refusal(folder)
    assert name in message
    assert "save_pretrained" in message


def test_what_is_included_goes_too(folder):
    for name in ("onnx/encoder.onnx", "onnx/deep/data.txt", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("text")
    with staged(folder, include=["onnx/*"]) as contents:
        assert {path for path in contents.files() if "onnx" in path} == {"onnx/encoder.onnx", "onnx/deep/data.txt"}
        assert "notes.txt" in contents.left_out
    assert "no file of the model folder matches 'openvino/*'" in refusal(folder, include=["openvino/*"])


def test_code_of_others_is_refused(folder):
    change_json(folder / "config.json", auto_map={"AutoModel": "modeling_mine.Model"})
    (folder / "modeling_mine.py").write_text("")
    assert "config.json needs modeling_mine.py for AutoModel" in refusal(folder)
    change_json(folder / "config.json", auto_map=None, model_type="mine")
    assert "model type 'mine', which is not known here" in refusal(folder)


def test_a_folder_that_is_no_model_is_refused(folder, tmp_path):
    assert "there is no model folder" in refusal(tmp_path / "nothing")
    (folder / "config.json").unlink()
    assert "no config.json" in refusal(folder)
    (folder / "config.json").write_text("[")
    assert "cannot be read as JSON" in refusal(folder)


@pytest.mark.parametrize("name", [".env", "checkpoint-10/credentials.json", "id_rsa"])
def test_a_secret_file_in_the_folder_is_refused_even_if_it_would_stay(folder, name):
    (folder / name).write_text("x")
    assert f"secrets in {folder}: {name} (" in refusal(folder)


def test_a_secret_in_a_text_that_goes_is_refused_and_not_said(folder):
    (folder / "notes.txt").write_text(FAKE_TOKEN)
    with staged(folder):
        pass
    (folder / "README.md").write_text(f"# Mine\n\nexport HF_TOKEN={FAKE_TOKEN}\n")
    message = refusal(folder)
    assert "README.md, line 3 (Hugging Face token)" in message
    assert FAKE_TOKEN not in message
    (folder / "README.md").unlink()
    assert "notes.txt, line 1" in refusal(folder, include=["notes.txt"])


def test_a_linked_folder_is_not_followed(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "private.json").write_text("{}")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    with staged(folder) as contents:
        assert "linked/" in contents.left_out
    assert "no file of the model folder matches" in refusal(folder, include=["linked/*"])


def test_an_adapter_goes_as_it_is_and_names_its_base(tmp_path, tiny_model):
    folder = save_adapter(tmp_path / "adapter", tiny_model, "acme/base")
    change_json(folder / "adapter_config.json", revision="v1")
    with staged(folder) as contents:
        assert set(contents.files()) == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
        assert (contents.base_model, contents.base_revision) == ("acme/base", "v1")
        assert (contents.written(), contents.left_out) == ([], ())


@pytest.mark.parametrize("base", [".", "/models/base", "../base", "~/base", ""])
def test_an_adapter_of_a_folder_is_refused(tmp_path, tiny_model, base):
    folder = save_adapter(tmp_path / "adapter", tiny_model, base)
    assert "push the base first" in refusal(folder)


def test_an_adapter_beside_a_model_is_refused(folder, tiny_model):
    save_adapter(folder, tiny_model, "acme/base")
    assert "both a model and an adapter" in refusal(folder)


def test_a_class_that_the_code_does_not_define_names_no_file(monkeypatch, folder, tmp_path):
    """The check of the code does not depend on which modules this version has."""
    monkeypatch.setattr(shipped_code, "INSTALLED", tmp_path)
    assert "configuration_encdec_slm.py for AutoConfig, which is not code of encdec_slm" in refusal(folder)
