"""Who has only Transformers and PEFT fine-tunes a model from the Hub and publishes it with their own methods.

What they publish works for others like them and, by `load`, here.
"""

import json
import os

import pytest
import torch
from checkpoint_tester import file_bytes, logits, save_checkpoint
from fresh_process import run_python
from local_hub import LocalHub
from model_tester import ModelTester
from peft import PeftModel
from test_remote_code import HIDE_THE_PACKAGE
from transformers import AutoModelForSeq2SeqLM, pipeline

from encdec_slm import EncDecSLMForConditionalGeneration
from encdec_slm.hub.load import load


REPO, TUNED, ADAPTER = "tester/model", "tester/tuned", "tester/adapter"
TEXTS = ["abc", "no"]
TRUST = """
import sys
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

trust = {"trust_remote_code": True}
batch, results, (repo, tuned, adapter) = torch.load(sys.argv[1]), sys.argv[2], sys.argv[3:]


@torch.no_grad()
def logits(model):
    return model.eval()(**batch).logits
"""
PUBLISH = (
    HIDE_THE_PACKAGE
    + TRUST
    + """
from peft import LoraConfig, get_peft_model


def after_a_step(model):
    optimizer = torch.optim.SGD([weights for weights in model.parameters() if weights.requires_grad], lr=0.5)
    inputs = {name: value for name, value in batch.items() if not name.startswith("decoder")}
    model.train()(**inputs, labels=batch["decoder_input_ids"]).loss.backward()
    optimizer.step()
    return model


whole = after_a_step(AutoModelForSeq2SeqLM.from_pretrained(repo, **trust))
whole.push_to_hub(tuned)
AutoTokenizer.from_pretrained(repo, **trust).push_to_hub(tuned)

lora = LoraConfig(r=2, target_modules=["o_proj", "up_proj"], task_type="SEQ_2_SEQ_LM", init_lora_weights=False)
small = after_a_step(get_peft_model(AutoModelForSeq2SeqLM.from_pretrained(repo, **trust), lora))
small.push_to_hub(adapter)
torch.save({"whole": logits(whole), "adapter": logits(small)}, results)
"""
)
USE = (
    HIDE_THE_PACKAGE
    + TRUST
    + """
from peft import AutoPeftModelForSeq2SeqLM

answers = pipeline("text2text-generation", model=tuned, **trust)
torch.save(
    {
        "whole": logits(answers.model),
        "adapter": logits(AutoPeftModelForSeq2SeqLM.from_pretrained(adapter, **trust)),
        "answers": [answer["generated_text"] for answer in answers(["abc", "no"], max_new_tokens=6)],
        "modules": {type(part).__module__.split(".")[0] for part in (answers, answers.model)},
    },
    results,
)
"""
)


def run_without_the_package(script, hub, folder, batch):
    """Runs a script in a process of its own with an empty cache, and returns what it has saved."""
    folder.mkdir()
    torch.save(batch, folder / "batch.pt")
    files = [folder / "batch.pt", folder / "results.pt"]
    environment = {"PATH": os.environ["PATH"], **hub.environment(folder / "home")}
    done = run_python("-c", script, *files, REPO, TUNED, ADAPTER, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "results.pt")


@pytest.fixture(scope="module")
def batch():
    torch.manual_seed(0)
    return {**ModelTester().inputs(), "decoder_input_ids": ModelTester().targets()}


@pytest.fixture(scope="module")
def hub(tmp_path_factory, tiny_tokenizer):
    with LocalHub() as hub:
        saved = save_checkpoint(tmp_path_factory.mktemp("remote") / "saved", tiny_tokenizer)
        hub.add_repository(REPO, file_bytes(saved))
        yield hub
        assert hub.unhandled == []


@pytest.fixture(scope="module")
def published(hub, batch, tmp_path_factory):
    return run_without_the_package(PUBLISH, hub, tmp_path_factory.mktemp("published") / "results", batch)


@pytest.fixture(scope="module")
def used(published, hub, batch, tmp_path_factory):
    return run_without_the_package(USE, hub, tmp_path_factory.mktemp("used") / "results", batch)


@pytest.fixture
def here(hub, published, tmp_path):
    """This process, connected to the hub with what was published."""
    with hub.connected(tmp_path):
        yield


def test_what_was_published_keeps_code_and_pipeline(hub, published):
    before, after = (hub.files(name) for name in (REPO, TUNED))
    code = {path: content for path, content in before.items() if path.endswith(".py")}
    assert {path: content for path, content in after.items() if path.endswith(".py")} == code
    configs = [json.loads(files["config.json"]) for files in (before, after)]
    for name in ("auto_map", "custom_pipelines"):
        assert configs[0][name] == configs[1][name]


def test_others_without_the_package_compute_the_same(published, used):
    assert used["modules"] == {"transformers_modules"}
    for name in ("whole", "adapter"):
        assert torch.equal(used[name], published[name])
    assert not torch.equal(used["whole"], used["adapter"])


def test_load_computes_the_same_with_the_installed_class(published, used, here, batch):
    loaded = load(TUNED, verify=True)
    assert type(loaded.model) is EncDecSLMForConditionalGeneration
    assert torch.equal(logits(loaded.model, batch), published["whole"])
    pipe = pipeline("text2text-generation", model=loaded.model, tokenizer=loaded.processing_class)
    assert [answer["generated_text"] for answer in pipe(TEXTS, max_new_tokens=6)] == used["answers"]


def test_load_puts_the_adapter_onto_its_base(published, here, batch):
    loaded = load(ADAPTER, verify=True)
    assert isinstance(loaded.model, PeftModel)
    assert loaded.checkpoint.base.name == REPO
    assert torch.equal(logits(loaded.model, batch), published["adapter"])
    # it has learnt something
    assert not torch.equal(published["adapter"], logits(AutoModelForSeq2SeqLM.from_pretrained(REPO), batch))
