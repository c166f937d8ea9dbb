"""A LoRA adapter is pushed by itself, names its base on the Hub, and works with that for others."""

import pytest
from local_hub import LocalHub
from push_tester import change_json, save_adapter, save_model, writes

from encdec_slm.hub import load, push


BASE, ADAPTER = "tester/base", "tester/adapter"


@pytest.fixture(scope="module")
def base(tiny_tokenizer, tmp_path_factory):
    """The files of a base model as they lie on the Hub."""
    home = tmp_path_factory.mktemp("base")
    with LocalHub() as hub, hub.connected(home / "hf_home"):
        push(save_model(home / "model", tiny_tokenizer), BASE, check=False)
        return hub.files(BASE)


@pytest.mark.usefixtures("quick_clean_process")
def test_an_adapter_works_with_its_base_for_others(local_hub, base, tiny_model, tmp_path):
    local_hub.add_repository(BASE, base)
    folder = save_adapter(tmp_path / "adapter", tiny_model, BASE)
    change_json(folder / "adapter_config.json", revision="main")
    (folder / "README.md").unlink()
    said = []
    result = push(folder, ADAPTER, report=said.append)
    assert said[0].startswith(f"adapter of {BASE} to {ADAPTER}")
    assert said[1] == "checked: works without encdec_slm, and computes the same"
    files = local_hub.files(ADAPTER)
    assert files.keys() - {".gitattributes"} == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert f"base_model: {BASE}".encode() in files["README.md"]
    assert len(local_hub.commits(ADAPTER)) == 2
    assert load(ADAPTER).checkpoint.revision == result.commit


def test_a_model_and_an_adapter_do_not_get_into_one_repository(local_hub, base, tiny_model, tmp_path):
    """`from_pretrained` would read the adapter first, and with it the base that it names."""
    local_hub.add_repository(BASE, base)
    adapter = save_adapter(tmp_path / "adapter", tiny_model, BASE)
    with pytest.raises(ValueError, match=r"tester/base holds a model \(config\.json\).* repository of its own"):
        push(adapter, BASE, check=False)
    push(adapter, ADAPTER, check=False)
    local_hub.requests.clear()
    with pytest.raises(ValueError, match=r"tester/adapter holds an adapter \(adapter_config\.json\)"):
        push(save_model(tmp_path / "model"), ADAPTER, check=False)
    assert writes(local_hub) == []


def test_an_adapter_object_is_saved_first(local_hub, tiny_model):
    from peft import LoraConfig, get_peft_model

    adapter = get_peft_model(tiny_model, LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_2_SEQ_LM"))
    adapter.peft_config["default"].base_model_name_or_path = BASE
    plan = push(adapter, ADAPTER, check=False).plan
    assert plan.base_model == BASE
    assert "adapter_model.safetensors" in local_hub.files(ADAPTER)


def test_an_adapter_whose_base_is_not_there_is_not_sent(local_hub, tiny_model, tmp_path):
    folder = save_adapter(tmp_path / "adapter", tiny_model, "tester/nothing")
    with pytest.raises(OSError, match="tester/nothing"):
        push(folder, ADAPTER)
    assert writes(local_hub) == []
