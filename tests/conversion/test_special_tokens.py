"""A tokenizer is saved with the model only if the two agree about every token id."""

import pytest
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, pipeline
from word_tokenizers import save_word_tokenizer

from encdec_slm.conversion import convert_original
from encdec_slm.conversion.special_tokens import load_tokenizer


PAD = 63  # of the checkpoint


@pytest.fixture
def write_tokenizer(tmp_path):
    """Saves a tokenizer with `[PAD]` 0, `<s>` 1, `</s>` 2, words, and `<unk>` last; which roles they have may vary."""

    def write(size=64, **roles):
        words = ["[PAD]", "<s>", "</s>", *(f"w{i}" for i in range(3, size - 1)), "<unk>"]
        roles = {"bos_token": "<s>", "eos_token": "</s>", "padding_side": "left", **roles}
        return save_word_tokenizer(tmp_path / "tokenizer", words, **roles)

    return write


@pytest.fixture
def checkpoint(variant, tmp_path):
    return variant.save(tmp_path / "model.pt")


def test_ids_come_from_the_tokenizer(variant, checkpoint, write_tokenizer, tmp_path):
    out = tmp_path / "out"
    convert_original(checkpoint, out, config=variant.config_path, tokenizer=write_tokenizer())
    for config in (AutoConfig.from_pretrained(out), GenerationConfig.from_pretrained(out)):
        assert (config.decoder_start_token_id, config.bos_token_id, config.eos_token_id) == (1, 1, 2)
        assert config.pad_token_id == PAD


@pytest.mark.parametrize("borrowed", [None, "</s>", "<unk>"])
def test_saved_tokenizer_pads_with_the_model_token_on_the_right(
    borrowed, variant, checkpoint, write_tokenizer, tmp_path
):
    folder = write_tokenizer(pad_token=borrowed)
    convert_original(checkpoint, tmp_path / "out", config=variant.config_path, tokenizer=folder)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer(["w3 w4", "w5"], padding=True)["input_ids"] == [[3, 4], [5, PAD]]
    assert AutoTokenizer.from_pretrained(folder).padding_side == "left"


def test_folder_runs_in_the_pipeline(variant, checkpoint, write_tokenizer, tmp_path):
    convert_original(checkpoint, tmp_path / "out", config=variant.config_path, tokenizer=write_tokenizer())
    pipe = pipeline("text2text-generation", model=str(tmp_path / "out"))
    (answer,) = pipe("w3 w4 w5", max_new_tokens=5, do_sample=False)
    assert len(answer["generated_text"].split()) <= 5


def test_stated_ids_must_be_those_of_the_tokenizer(variant, checkpoint, write_tokenizer, write_json, refused):
    config = write_json({**variant.config, "eos_token_id": 9})
    assert "eos_token_id is 9 in the configuration but 2" in refused(
        checkpoint, config=config, tokenizer=write_tokenizer()
    )


def test_padding_token_of_its_own_must_be_that_of_the_model(variant, checkpoint, write_tokenizer, refused):
    message = refused(checkpoint, config=variant.config_path, tokenizer=write_tokenizer(pad_token="[PAD]"))
    assert "pad_token_id is 63 in the model but 0 in the tokenizer" in message


@pytest.mark.parametrize(("pad_token_id", "token"), [(5, "w5"), (2, "</s>")])
def test_padding_with_another_token_is_refused(
    pad_token_id, token, variant, checkpoint, write_tokenizer, write_json, refused
):
    config = write_json({**variant.config, "pad_token_id": pad_token_id})
    message = refused(checkpoint, config=config, tokenizer=write_tokenizer())
    assert f"{pad_token_id}, which is {token!r}" in message


def test_tokenizer_must_end_a_sequence(variant, checkpoint, write_tokenizer, refused):
    message = refused(checkpoint, config=variant.config_path, tokenizer=write_tokenizer(eos_token=None))
    assert "no eos_token" in message


def test_tokenizer_must_fit_into_the_vocabulary(variant, checkpoint, write_tokenizer, refused):
    message = refused(checkpoint, config=variant.config_path, tokenizer=write_tokenizer(size=65))
    assert "token id 64" in message
    assert "64 tokens" in message


def test_tokenizer_folder_must_exist(checkpoint, variant, refused, tmp_path):
    assert "does not exist" in refused(checkpoint, config=variant.config_path, tokenizer=tmp_path / "nowhere")


@pytest.mark.parametrize(
    "files",
    [{}, {"tokenizer_config.json": '{"tokenizer_class": "NoSuchTokenizer"}'}, {"tokenizer.json": '{"model": 3}'}],
    ids=["empty", "unknown", "damaged"],
)
def test_folder_without_a_tokenizer_is_refused(files, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"no tokenizer can be loaded from {tmp_path}"):
        load_tokenizer(tmp_path)
