"""A LoRA adapter is loaded onto the base that it names, and both are checked."""

import shutil

import pytest
import torch
from checkpoint_tester import commit, edit_json, file_bytes, head, logits
from huggingface_hub import constants
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSeq2SeqLM

from encdec_slm.hub.load import load


REPO = "tester/model"


@pytest.fixture(scope="module")
def adapter(saved, tmp_path_factory):
    """A LoRA adapter that changes the answers of the saved model."""
    model = get_peft_model(
        AutoModelForSeq2SeqLM.from_pretrained(saved),
        LoraConfig(r=2, target_modules=["o_proj", "up_proj"], task_type="SEQ_2_SEQ_LM", init_lora_weights=False),
    )
    folder = tmp_path_factory.mktemp("load") / "adapter"
    model.save_pretrained(folder)
    edit_json(folder / "adapter_config.json", base_model_name_or_path=REPO)
    return folder


def test_an_adapter_is_loaded_onto_its_base(repository, adapter, inputs, tiny_tokenizer):
    repository.add_repository("tester/adapter", file_bytes(adapter))
    loaded = load("tester/adapter", verify=True)
    expected = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(REPO), adapter)
    assert isinstance(loaded.model, PeftModel)
    assert torch.equal(logits(loaded.model, inputs), logits(expected, inputs))
    assert not torch.equal(logits(loaded.model, inputs), logits(load(REPO).model, inputs))
    assert loaded.processing_class("abc").input_ids == tiny_tokenizer("abc").input_ids
    assert loaded.checkpoint.revision == head(repository, "tester/adapter")
    assert (loaded.checkpoint.base.name, loaded.checkpoint.base.revision) == (REPO, head(repository, REPO))


def test_without_a_connection_both_are_read_from_the_cache(repository, adapter, inputs, monkeypatch):
    repository.add_repository("tester/adapter", file_bytes(adapter))
    expected = logits(load("tester/adapter").model, inputs)
    repository.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(logits(load("tester/adapter", verify=True).model, inputs), expected)
    assert repository.requests == []


def test_an_adapter_pins_its_base(repository, adapter, saved, tmp_path):
    first = head(repository, REPO)
    commit(repository, REPO, **{"added.txt": b"new"})
    pinned = shutil.copytree(adapter, tmp_path / "pinned")
    edit_json(pinned / "adapter_config.json", revision=first)
    assert load(pinned).checkpoint.base.revision == first
    assert load(adapter).checkpoint.base.revision == head(repository, REPO) != first


def test_the_base_of_an_adapter_is_checked_too(repository, adapter, saved):
    commit(repository, REPO, **{"modeling_encdec_slm.py": b"raise SystemExit"})
    load(adapter)
    with pytest.raises(ValueError, match=r"tester/model would run .*modeling_encdec_slm\.py \(different\)"):
        load(adapter, verify=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 10**9}, "says r=1000000000"),
        ({"peft_type": "PROMPT_TUNING"}, "only LORA"),
        ({"base_model_name_or_path": None}, "does not name its base"),
        ({"revision": 7}, "revision=7, which is no"),
        ({"revision": "../../../refs/main"}, "revision='../../../refs/main', which is no"),
    ],
)
def test_hostile_adapters_are_refused(repository, adapter, tmp_path, changes, message):
    hostile = shutil.copytree(adapter, tmp_path / "hostile")
    edit_json(hostile / "adapter_config.json", **changes)
    with pytest.raises(ValueError, match=message):
        load(hostile)


def test_an_adapter_of_itself_and_one_of_pickles_are_refused(adapter, tmp_path):
    hostile = shutil.copytree(adapter, tmp_path / "hostile")
    edit_json(hostile / "adapter_config.json", base_model_name_or_path=str(hostile))
    with pytest.raises(ValueError, match="is an adapter itself"):
        load(hostile)
    (hostile / "adapter_model.safetensors").rename(hostile / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"no adapter_model\.safetensors, but adapter_model\.bin"):
        load(hostile)
