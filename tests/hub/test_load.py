"""`load` gives what `from_pretrained` gives, of one commit, with installed classes, and asks the Hub as little."""

import json
import logging
import shutil

import pytest
import torch
from checkpoint_tester import commit, file_bytes, head, logits, save_checkpoint
from foreign_models import t5
from huggingface_hub import constants
from local_hub import LocalHub
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

from encdec_slm import EncDecSLMForConditionalGeneration, EncDecSLMModel
from encdec_slm.cli import main
from encdec_slm.hub.checkpoint import fetch_checkpoint
from encdec_slm.hub.code_files import CodeStatus
from encdec_slm.hub.load import load


REPO = "tester/model"


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def test_a_repository_is_loaded_as_by_from_pretrained(repository, inputs, tiny_tokenizer):
    loaded = load(REPO)
    assert type(loaded.model) is EncDecSLMForConditionalGeneration
    assert torch.equal(logits(loaded.model, inputs), logits(AutoModelForSeq2SeqLM.from_pretrained(REPO), inputs))
    assert loaded.processing_class("abc").input_ids == tiny_tokenizer("abc").input_ids
    # where an adapter of it will look for its base
    assert loaded.model.config.name_or_path == REPO
    assert loaded.checkpoint.revision == head(repository, REPO)
    assert {file.status for file in loaded.checkpoint.code_files} == {CodeStatus.SAME}


def test_a_folder_is_loaded_as_by_from_pretrained(saved, inputs):
    loaded = load(saved, verify=True, dtype=torch.float64, decoder_start_token_id=5)
    expected = AutoModelForSeq2SeqLM.from_pretrained(saved, dtype=torch.float64, decoder_start_token_id=5)
    assert torch.equal(logits(loaded.model, inputs), logits(expected, inputs))
    assert loaded.model.dtype == torch.float64
    assert loaded.model.config.to_dict() == expected.config.to_dict()
    assert (loaded.checkpoint.folder, loaded.checkpoint.revision) == (saved, None)


def test_other_classes_and_types_are_loaded_too(saved, tmp_path):
    assert type(load(saved, auto_class=AutoModel).model) is EncDecSLMModel
    loaded = load(save_checkpoint(tmp_path, model=t5()))
    assert type(loaded.model).__name__ == "T5ForConditionalGeneration"
    assert loaded.processing_class is None


def test_all_templates_of_a_tokenizer_are_loaded(local_hub, saved):
    templates = {"chat_template.jinja": b"a", "additional_chat_templates/tools.jinja": b"b", "README.md": b"c"}
    local_hub.add_repository(REPO, file_bytes(saved) | templates)
    assert load(REPO).processing_class.chat_template == {"default": "a", "tools": "b"}


def test_a_revision_is_one_commit_for_all_files(repository, saved, inputs):
    first = head(repository, REPO)
    changed = json.loads((saved / "config.json").read_text()) | {"decoder_start_token_id": 5}
    second = commit(repository, REPO, **{"config.json": json.dumps(changed).encode(), "added.txt": b"new"})
    for revision, expected, token_id in ((first, first, 1), ("main", second, 5), (None, second, 5)):
        repository.requests.clear()
        loaded = load(REPO, revision=revision)
        assert loaded.checkpoint.revision == expected
        assert loaded.model.config.decoder_start_token_id == token_id
        read = {path.split("/resolve/")[1].split("/")[0] for _, path in repository.requests if "/resolve/" in path}
        assert read <= {expected}


def test_what_is_cached_costs_one_question_and_a_pinned_commit_none(repository):
    load(REPO)
    repository.requests.clear()
    load(REPO)
    assert [method for method, _ in repository.requests] == ["GET"]
    repository.requests.clear()
    load(REPO, revision=head(repository, REPO))
    assert repository.requests == []


def test_nothing_is_asked_for_that_is_not_there(repository):
    load(REPO)
    asked = {path.split("/resolve/")[1].split("/")[1] for _, path in repository.requests if "/resolve/" in path}
    assert asked == repository.files(REPO).keys()


def test_without_a_connection_the_cache_is_used(repository, monkeypatch, inputs):
    expected = logits(load(REPO).model, inputs)
    sha = head(repository, REPO)
    repository.requests.clear()

    def answers(**options):
        return logits(load(REPO, **options).model, inputs)

    assert torch.equal(answers(local_files_only=True), expected)
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert torch.equal(answers(), expected)
        assert load(REPO).checkpoint.revision == sha
    assert repository.requests == []
    # nobody listens at port 9
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", "http://127.0.0.1:9")
    assert torch.equal(answers(), expected)


def test_a_cache_that_from_pretrained_filled_is_used(repository, monkeypatch, inputs):
    expected = logits(AutoModelForSeq2SeqLM.from_pretrained(REPO), inputs)
    AutoTokenizer.from_pretrained(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(logits(load(REPO).model, inputs), expected)
    # no code was run, so that none is there
    with pytest.raises(ValueError, match=r"modeling_encdec_slm\.py \(missing\)"):
        load(REPO, verify=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    load(REPO, verify=True)


def test_what_is_nowhere_is_said_plainly(local_hub, monkeypatch):
    with pytest.raises(OSError, match="404"):
        load("tester/nothing")
    with pytest.raises(OSError, match="was found in the local cache"):
        load("tester/nothing", local_files_only=True)
    with pytest.raises(OSError, match="local"):
        load("tester/nothing", revision="0" * 40, local_files_only=True)
    with pytest.raises(ValueError, match="Repo id"):
        load("no/such/folder")


def test_pickles_are_neither_fetched_nor_opened(repository, saved):
    commit(
        repository, REPO, **{"pytorch_model.bin": b"\x80\x04", "training_args.bin": b"\x80\x04", "onnx/x.json": b"{}"}
    )
    folder = load(REPO).checkpoint.folder
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        path.name for path in saved.iterdir()
    }


def test_a_repository_of_pickles_is_refused_by_their_name(local_hub, saved):
    files = file_bytes(saved)
    files["pytorch_model.bin"] = files.pop("model.safetensors")
    local_hub.add_repository(REPO, files)
    with pytest.raises(ValueError, match=r"no model\.safetensors, but pytorch_model\.bin\."):
        load(REPO)
    assert not any("pytorch_model" in path for _, path in local_hub.requests)


def test_what_is_too_large_is_not_even_fetched(repository):
    commit(repository, REPO, **{"tokenizer.json": b" " * 200_000})
    repository.requests.clear()
    with pytest.raises(ValueError, match=r"tokenizer\.json has 200,000 bytes"):
        load(REPO, max_file_bytes=100_000)
    assert not [path for method, path in repository.requests if method == "GET" and "/resolve/" in path]


@pytest.mark.parametrize("name", ["../../../evil.py", "/evil.txt", "a/../../../../evil.jinja", "..\\evil.py"])
def test_a_repository_with_a_path_out_of_it_is_refused(local_hub, saved, tmp_path, name):
    local_hub.add_repository(REPO, {**file_bytes(saved), name: b"{}"})
    with pytest.raises(ValueError, match="evil"):
        load(REPO)
    assert not list(tmp_path.rglob("*evil*"))


def test_a_path_out_of_it_that_is_never_read_is_not_fetched(local_hub, saved, tmp_path):
    local_hub.add_repository(REPO, {**file_bytes(saved), "../../../evil.json": b"{}"})
    load(REPO)
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("name", ["gguf_file", "config", "subfolder", "use_safetensors", "weights_only", "cache_dir"])
def test_arguments_that_go_round_the_checks_are_refused(saved, name):
    with pytest.raises(ValueError, match=name):
        load(saved, **{name: "x"})


def test_the_token_opens_private_repositories_and_is_told_to_nobody(saved, tmp_path, caplog, capfd, monkeypatch):
    token = "hf_secretsecretsecretsecretsecretsecret"
    for name in ("", "huggingface_hub", "transformers", "encdec_slm", "httpx2", "httpcore2"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
        caplog.set_level(logging.DEBUG, logger=name)
    said = []
    with LocalHub(token=token) as hub, hub.connected(tmp_path), monkeypatch.context() as patch:
        patch.delenv("HF_TOKEN")
        hub.add_repository(REPO, file_bytes(saved), private=True)
        for name, wrong in ((REPO, None), (REPO, f"{token[:-1]}X"), ("tester/nothing", token)):
            with pytest.raises(OSError, match=r"40[14]") as refused:
                load(name, token=wrong)
            said += [str(refused.value), repr(refused.value)]
        loaded = load(REPO, token=token)
        # from now on nobody has to be asked
        load(REPO, revision=loaded.checkpoint.revision)
    assert {"transformers", "encdec_slm", "httpx2"} <= {record.name.split(".")[0] for record in caplog.records}
    for text in (*said, caplog.text, *capfd.readouterr(), repr(loaded)):
        assert token[:-1] not in text


def test_the_command_shows_commit_files_and_code(repository, capsys):
    assert main(["load", REPO, "--verify"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{REPO} at commit {head(repository, REPO)}"
    checkpoint = fetch_checkpoint(REPO)
    assert lines[1] == f"folder: {checkpoint.folder}"
    for file in checkpoint.code_files:
        assert [file.name, file.sha256, "same"] in [line.split() for line in lines]
    assert lines[-1].startswith("loaded: EncDecSLMForConditionalGeneration, ")


def test_the_command_passes_its_options(repository, capsys):
    first = head(repository, REPO)
    commit(repository, REPO, **{"added.txt": b"new"})
    assert main(["load", REPO, "--revision", first, "--code-revision", "main"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(first)
    assert main(["load", REPO, "--max-file-bytes", "10"]) == 2
    assert "max_file_bytes" in capsys.readouterr().err
