"""Hubs on 127.0.0.1, to which the huggingface_hub of this process is connected, and what is loaded from them."""

import os
import sys

import pytest
import torch
from checkpoint_tester import file_bytes, save_checkpoint
from fresh_process import run_python
from huggingface_hub import constants, hf_api
from local_hub import LocalHub
from model_tester import ModelTester

from encdec_slm.hub import clean_process


REPO = "tester/model"


def connection():
    """Returns all by which this process knows its hub."""
    environment = {name: value for name, value in os.environ.items() if name.startswith("HF_")}
    return environment, dict(vars(constants)), hf_api.api.endpoint


@pytest.fixture(autouse=True)
def _connection_stays():
    """No test leaves the process connected to its hub, or to any network."""
    before = connection()
    yield
    assert connection() == before


@pytest.fixture
def local_hub(tmp_path, monkeypatch):
    """A Hub that large files reach by Git LFS. A request that it does not know fails the test."""
    yield from connected_hub(tmp_path, monkeypatch, use_xet=False)


@pytest.fixture
def local_hub_with_xet(tmp_path, monkeypatch):
    """A Hub that large files reach by Xet, as they do the real one."""
    yield from connected_hub(tmp_path, monkeypatch, use_xet=True)


def connected_hub(tmp_path, monkeypatch, *, use_xet):
    with LocalHub(use_xet=use_xet) as hub, hub.connected(tmp_path / "hf_home"):
        yield hub
        # what the test changed meanwhile, before the connection itself is taken back
        monkeypatch.undo()
    assert hub.unhandled == []


@pytest.fixture
def quick_clean_process(monkeypatch):
    """Lets the check of a folder start its process from one that has imported PyTorch."""

    def run(command, *, cwd, env, **_):
        python, is_safe_path, *program = command
        assert (python, is_safe_path) == (sys.executable, "-P")
        return run_python(*program, cwd=cwd, env=env)

    monkeypatch.setattr(clean_process.subprocess, "run", run)


@pytest.fixture(scope="session")
def saved(tmp_path_factory, tiny_tokenizer):
    """The tiny model with its tokenizer and code, in a folder that no test changes."""
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "saved", tiny_tokenizer)


@pytest.fixture
def repository(local_hub, saved):
    """The hub, with that folder as `tester/model`."""
    local_hub.add_repository(REPO, file_bytes(saved))
    return local_hub


@pytest.fixture(scope="session")
def inputs():
    """A batch of the tiny model, with the decoder's."""
    torch.manual_seed(0)
    return {**ModelTester().inputs(), "decoder_input_ids": ModelTester().targets()}
