"""A checkpoint of a causal language model, and adapters of it."""

import pytest
from teacher_tester import adapter, llama_again


@pytest.fixture
def checkpoint(tmp_path, tiny_tokenizer):
    """The folder of a causal language model with its tokenizer."""
    folder = tmp_path / "llama"
    llama_again().save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def adapters(tmp_path):
    """Folders of two adapters of that model, by name."""
    return {name: adapter(tmp_path / name, seed) for seed, name in enumerate(("first", "second"))}
