"""Code of a checkpoint runs where no class is installed and it is trusted, at a known commit, and else never."""

import json
import shutil

import pytest
import torch
from checkpoint_tester import (
    FOREIGN_AUTO_MAP,
    commit,
    edit_json,
    foreign_code,
    foreign_repository,
    head,
    logits,
)
from transformers import dynamic_module_utils

from encdec_slm import EncDecSLMForConditionalGeneration
from encdec_slm.cli import main
from encdec_slm.hub.checkpoint import fetch_checkpoint
from encdec_slm.hub.code_files import CodeStatus
from encdec_slm.hub.load import load


REPO = "tester/model"


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture(scope="module")
def modules_cache(tmp_path_factory):
    """Code of checkpoints is copied here; one folder for the module, because Python remembers packages."""
    return tmp_path_factory.mktemp("modules")


@pytest.fixture
def remote_code(modules_cache, monkeypatch):
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(modules_cache))


def test_installed_classes_run_and_the_code_beside_them_does_not(folder, tmp_path, inputs, saved):
    marker = tmp_path / "marker"
    for path in folder.glob("*.py"):
        path.write_text(f"from pathlib import Path\nPath({str(marker)!r}).write_text('run')\n")
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate/generate.py").write_text((folder / "modeling_encdec_slm.py").read_text())
    for trust in (False, True):
        loaded = load(folder, trust_remote_code=trust)
        assert torch.equal(logits(loaded.model, inputs), logits(load(saved).model, inputs))
        loaded.model.generate(inputs["input_ids"], max_new_tokens=2)
    with pytest.raises(ValueError, match=r"configuration_encdec_slm\.py \(different\)"):
        load(folder, verify=True)
    assert not marker.exists()


def test_verify_refuses_code_of_another_repository(repository, saved):
    config = json.loads((saved / "config.json").read_text())
    config["auto_map"]["AutoModel"] = "evil/code--modeling_encdec_slm.EncDecSLMModel"
    commit(repository, REPO, **{"config.json": json.dumps(config).encode()})
    with pytest.raises(ValueError, match=r"tester/model would run .*evil/code/modeling_encdec_slm\.py \(foreign\)"):
        load(REPO, verify=True)
    assert not any("evil" in path for _, path in repository.requests)
    # here it would not be run
    assert type(load(REPO, trust_remote_code=True).model) is EncDecSLMForConditionalGeneration


def test_its_own_name_before_its_own_code_is_not_another_repository(repository, saved):
    config = json.loads((saved / "config.json").read_text())
    config["auto_map"] = {name: f"{REPO}--{reference}" for name, reference in config["auto_map"].items()}
    commit(repository, REPO, **{"config.json": json.dumps(config).encode()})
    load(REPO, verify=True)


def test_code_without_an_installed_class_runs_if_it_is_trusted(local_hub, remote_code, tmp_path):
    marker = tmp_path / "marker"
    foreign_repository(local_hub, tmp_path / "foreign", marker)
    sha = head(local_hub, "tester/foreign")
    with pytest.raises(ValueError, match=rf"modeling_foreign\.py\) is not trusted.*revision='{sha}'"):
        load("tester/foreign")
    with pytest.raises(ValueError, match=r"modeling_foreign\.py \(unknown\)"):
        load("tester/foreign", trust_remote_code=True, verify=True)
    assert not marker.exists()
    loaded = load("tester/foreign", trust_remote_code=True)
    assert (marker.exists(), type(loaded.model).__name__) == (True, "Foreign")


def test_code_can_be_of_another_revision(local_hub, remote_code, tmp_path):
    foreign_repository(local_hub, tmp_path / "foreign", tmp_path / "marker")
    first = head(local_hub, "tester/foreign")
    code = foreign_code(tmp_path / "marker")["modeling_foreign.py"].replace('VERSION = "1"', 'VERSION = "2"')
    second = commit(local_hub, "tester/foreign", **{"modeling_foreign.py": code.encode()})
    for options, version in (({}, "2"), ({"code_revision": first}, "1"), ({"revision": first}, "1")):
        loaded = load("tester/foreign", trust_remote_code=True, **options)
        assert loaded.model.version == version
    hashes = [fetch_checkpoint("tester/foreign", code_revision=revision).code_files for revision in (first, second)]
    assert hashes[0] != hashes[1]


def test_code_of_another_repository_runs_only_at_a_commit(local_hub, remote_code, tmp_path):
    auto_map = {name: f"tester/code--{reference}" for name, reference in FOREIGN_AUTO_MAP.items()}
    foreign_repository(local_hub, tmp_path / "foreign", tmp_path / "marker", **auto_map)
    code = {name: text.encode() for name, text in foreign_code(tmp_path / "marker").items()}
    local_hub.add_repository("tester/code", code)
    with pytest.raises(ValueError, match=r"another repository, tester/code, .* as code_revision"):
        load("tester/foreign", trust_remote_code=True)
    loaded = load("tester/foreign", trust_remote_code=True, code_revision=head(local_hub, "tester/code"))
    assert type(loaded.model).__name__ == "Foreign"
    assert {file.status for file in loaded.checkpoint.code_files} == {CodeStatus.FOREIGN}
    assert all(file.sha256 for file in loaded.checkpoint.code_files)


def test_code_of_a_tokenizer_is_refused_without_trust(folder):
    (folder / "evil.py").write_text("raise SystemExit")
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "evil.Tokenizer"]})
    with pytest.raises(ValueError, match=r"no installed class for AutoTokenizer .*evil\.py"):
        load(folder)


def test_a_code_revision_of_nothing_is_refused(folder):
    with pytest.raises(ValueError, match=r"code_revision='main' was given, but the code of .* lies in that folder"):
        load(folder, code_revision="main")
    edit_json(folder / "config.json", auto_map={}, custom_pipelines={})
    with pytest.raises(ValueError, match=r"code_revision='main' was given, but .* names no code"):
        load(folder, code_revision="main")


def test_the_command_shows_the_code_before_it_refuses_it(local_hub, tmp_path, capsys):
    foreign_repository(local_hub, tmp_path / "foreign", tmp_path / "marker")
    assert main(["load", "tester/foreign"]) == 2
    shown = capsys.readouterr()
    assert ["modeling_foreign.py", "unknown"] in [line.split()[::2] for line in shown.out.splitlines()]
    assert "is not trusted" in shown.err
    assert not (tmp_path / "marker").exists()
