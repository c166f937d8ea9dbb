"""Folder, object and GGUF file of one model give the same start; what is not a whole model is told apart."""

import importlib.util
import json

import pytest
import torch
from decoder_only_sources import LAYERS, VOCAB_SIZE, assert_same, make_source, tokens, write_gguf
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer
from word_tokenizers import save_word_tokenizer

from encdec_slm.conversion import convert_decoder_only, from_decoder_only, gguf_checkpoint


ALL = {"layers": f"0-{LAYERS - 1}/0-{LAYERS - 1}"}
# the library adds <|endoftext|> to a byte-level tokenizer of a GGUF file that lacks it
VOCABULARY = ["<|endoftext|>", "<bos>", "<eos>", "a", "b", "ab", *(f"w{i}" for i in range(6, VOCAB_SIZE))]

needs_gguf = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="the package gguf is not installed")


@torch.no_grad()
def assert_same_models(model, other):
    batch = {"input_ids": tokens(2, 7), "decoder_input_ids": tokens(2, 9)}
    assert_same(model.eval()(**batch).logits, other.eval()(**batch).logits)


@pytest.fixture(scope="module")
def source():
    return make_source()


def test_folder_gives_what_the_object_gives(source, tmp_path):
    source.save_pretrained(tmp_path)
    assert_same_models(from_decoder_only(tmp_path, **ALL), from_decoder_only(source, **ALL))
    assert_same_models(from_decoder_only(str(tmp_path), **ALL), from_decoder_only(source, **ALL))


def test_folder_without_a_tokenizer_is_converted_and_told(source, tmp_path, warnings_of_the_library):
    source.save_pretrained(tmp_path / "source")
    convert_decoder_only(tmp_path / "source", tmp_path / "out")
    assert "no tokenizer" in " ".join(warnings_of_the_library())
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_damaged_tokenizer_is_refused(source, tmp_path):
    source.save_pretrained(tmp_path)
    save_word_tokenizer(tmp_path, ["<unk>", "a"])
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="no tokenizer can be loaded"):
        from_decoder_only(tmp_path)


def test_missing_weights_are_not_drawn_at_random(source, tmp_path):
    source.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights, model\.layers\.1\.mlp\.up_proj\.weight among them"):
        from_decoder_only(tmp_path)


def test_widths_that_do_not_fit_are_named(source, tmp_path):
    source.save_pretrained(tmp_path / "source")
    config = json.loads((tmp_path / "source" / "config.json").read_text())
    config["intermediate_size"] += 8
    (tmp_path / "source" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"has the shape \(\d+, \d+\) in the checkpoint .* but \(\d+, \d+\) by its"):
        convert_decoder_only(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_that_are_no_model_are_told_apart(source, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="is a file: name the folder"):
        from_decoder_only(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match=r"no config\.json, but a\.gguf: name one by gguf_file"):
        from_decoder_only(tmp_path)
    with pytest.raises(ValueError, match=r"there is no b\.gguf in .*, but a\.gguf"):
        from_decoder_only(tmp_path, gguf_file="b.gguf")
    with pytest.raises(ValueError, match=r"there is no b\.gguf in"):
        from_decoder_only(tmp_path / "b.gguf")
    with pytest.raises(ValueError, match="there is no folder someone/something"):
        from_decoder_only("someone/something/b.gguf")
    with pytest.raises(ValueError, match="leave one of them out"):
        from_decoder_only(tmp_path / "a.gguf", gguf_file="a.gguf")
    with pytest.raises(ValueError, match="loaded model"):
        from_decoder_only(source, gguf_file="a.gguf")
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere, and no repository on the Hub"):
        from_decoder_only(tmp_path / "nowhere")


@needs_gguf
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_gguf_file_gives_what_the_model_gives(family, tied, tmp_path):
    source = make_source(family, tie_word_embeddings=tied)
    path = write_gguf(tmp_path / "model.gguf", source)
    expected = from_decoder_only(source, **ALL)
    assert_same_models(from_decoder_only(path, **ALL), expected)
    assert_same_models(from_decoder_only(tmp_path, gguf_file="model.gguf", **ALL), expected)


@needs_gguf
def test_gguf_file_brings_its_tokenizer(source, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", source, VOCABULARY)
    convert_decoder_only(path, tmp_path / "out", dtype="bfloat16")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("ab", add_special_tokens=False)["input_ids"] == [5]
    assert tokenizer.eos_token == "<eos>"
    assert tokenizer.pad_token == "<|endoftext|>"
    assert load_file(tmp_path / "out" / "model.safetensors")["model.decoder.norm.weight"].dtype == torch.bfloat16


@needs_gguf
@pytest.mark.parametrize(
    ("extra", "lost"),
    [
        ({"extra_tensors": {"rope_freqs.weight": torch.ones(8)}}, r"rope_freqs\.weight"),
        ({"extra_tensors": {"blk.0.attn_q.bias": torch.ones(8)}}, r"blk\.0\.attn_q\.bias"),
        ({"extra_fields": {"llama.rope.scaling.type": "yarn"}}, r"llama\.rope\.scaling"),
    ],
)
def test_gguf_file_of_which_something_would_be_lost_is_refused(extra, lost, source, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", source, **extra)
    with pytest.raises(ValueError, match=f"would leave out {lost} of"):
        from_decoder_only(path)


@needs_gguf
@pytest.mark.parametrize("damage", [lambda whole: whole[:100], lambda whole: b"", lambda whole: b"text" * 9])
def test_damaged_gguf_files_are_refused(damage, source, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", source)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"model\.gguf is no GGUF file, or damaged"):
        convert_decoder_only(path, tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.gguf"]


def test_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_checkpoint, "is_gguf_available", lambda: False)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ImportError, match=r"reading model\.gguf needs gguf: pip install gguf"):
        from_decoder_only(tmp_path / "model.gguf")
