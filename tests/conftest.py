"""What all tests share: no network, one thread, a seed per test, and the smallest model, tokenizer and pipeline."""

import gc
import os
from string import ascii_lowercase, ascii_uppercase, digits


# read when the libraries are imported, here and in the processes that tests start
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

import pytest
import torch
from model_tester import ModelTester
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, set_seed
from transformers.utils import logging as transformers_logging


torch.set_num_threads(1)

SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
# "▁" is how tokenizers of this kind write a blank
CHARACTERS = ".,!?▁" + ascii_lowercase + digits + ascii_uppercase[:15]


def pytest_collection_modifyitems(items):
    """The library gives the `__init__` of a configuration the docstring of the class: its example is run once."""
    names = {item.name for item in items}
    items[:] = [item for item in items if not (item.name.endswith(".__init__") and item.name[:-9] in names)]


def pytest_collection_finish():
    """What is imported by now stays: each training ends with a search for garbage, which need not look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed():
    set_seed(0)


@pytest.fixture
def warnings_of_the_library(monkeypatch, caplog):
    """Returns a function that lists what was logged as a warning since the test began, as the user sees it."""
    # "once" is once per process: what other tests have warned about counts anew here
    transformers_logging.warning_once.cache_clear()
    for name in ("transformers", "encdec_slm"):
        monkeypatch.setattr(transformers_logging.logging.getLogger(name), "propagate", True)
    return lambda: [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """One token per character, 60 in all: pad 0, bos 1, eos 2, unknown 3, punctuation 4 to 7, blank 8, letters."""
    tokens = [*SPECIAL_TOKENS.values(), *CHARACTERS]
    tokenizer = Tokenizer(models.Unigram([(token, 0.0) for token in tokens], unk_id=tokens.index("<unk>")))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="right", **SPECIAL_TOKENS)


@pytest.fixture
def tiny_config():
    """The configuration of `tiny_model`, whose vocabulary is that of `tiny_tokenizer`."""
    return ModelTester().config()


@pytest.fixture
def tiny_model():
    """A text model with random weights, for inference; how its answers differ is told in `ModelTester`."""
    return ModelTester().model()
