"""Rows as a user has them, and a model in a folder."""

import json

import pytest
from model_tester import ModelTester


SOURCES = ("cat", "a dog", "the end of it", "x", "many words are in this one", "yes", "no no", "zebra 7")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, tiny_tokenizer):
    """A checkpoint of ours whose answers vary with what it reads."""
    folder = tmp_path_factory.mktemp("model")
    ModelTester().model().save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def write_rows(tmp_path_factory):
    """Returns a function that writes rows to a new file and returns its name."""

    def write(rows, suffix=".jsonl"):
        path = tmp_path_factory.mktemp("rows") / f"rows{suffix}"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture(scope="session")
def rows_file(write_rows):
    """Rows with source and target, of unequal lengths."""
    return write_rows([{"source": source, "target": source[::-1]} for source in SOURCES])
