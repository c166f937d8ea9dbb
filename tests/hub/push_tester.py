"""What the tests of a push share: a saved model, and what went to the Hub."""

import json
from pathlib import Path

import torch
from model_tester import ModelTester
from transformers.dynamic_module_utils import get_relative_import_files

from encdec_slm.hub.code_files import INSTALLED


# put together here, so that no file of ours holds what looks like one
FAKE_TOKEN = "hf_" + "aB3" * 12
# what the library copies where it saves the model
_MODELING = INSTALLED / "modeling_encdec_slm.py"
CODE = {Path(file).name for file in (_MODELING, *get_relative_import_files(_MODELING))}


def save_model(folder, tokenizer=None, model=None):
    """Saves a tiny model, and beside it what a training leaves."""
    (ModelTester().model() if model is None else model).save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    (folder / "optimizer.pt").write_bytes(b"state")
    (folder / "trainer_state.json").write_text("{}")
    (folder / "checkpoint-10").mkdir()
    (folder / "checkpoint-10" / "model.safetensors").write_bytes(b"old")
    return folder


def save_shards(folder, tokenizer=None):
    """Saves a tiny model in several files; returns their names."""
    model = ModelTester().model()
    model.save_pretrained(folder, max_shard_size="100KB")
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    names = {path.name for path in folder.glob("model-*.safetensors")}
    assert len(names) > 2
    return names


def save_adapter(folder, base, base_name):
    """Saves a LoRA adapter that changes what a model computes, and names `base_name` as its base."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="SEQ_2_SEQ_LM")
    get_peft_model(base, lora).save_pretrained(folder)
    change_json(folder / "adapter_config.json", base_model_name_or_path=base_name)
    return folder


def change_json(path, **changes):
    """Changes fields of a JSON file; a field that is None is removed."""
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))


def writes(hub):
    """Returns the requests that changed, or were to change, something on the Hub."""
    return [(method, path) for method, path in hub.requests if method not in ("GET", "HEAD")]
