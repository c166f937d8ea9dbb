"""A configuration that contradicts the tensors is refused with both numbers; what it leaves out comes from them."""

import pytest

from encdec_slm.conversion.original_config import OriginalConfig, read_original_config


RELEASED = {
    "n_encoder_layer": 20,
    "n_decoder_layer": 10,
    "n_embd": 1024,
    "qkv_embd": 384,
    "kv_embd": 192,
    "hidden_dim": 4096,
    "vocab_size": 32_128,
}


def test_released_sizes_need_no_configuration(warnings_of_the_library):
    assert OriginalConfig.from_sources({}, RELEASED) == OriginalConfig()
    assert warnings_of_the_library() == []


@pytest.mark.parametrize(
    ("name", "value", "numbers"),
    [
        ("n_encoder_layer", 21, ("21", "20")),
        ("n_decoder_layer", 9, ("9", "10")),
        ("n_embd", 512, ("512", "1024")),
        ("qkv_embd", 192, ("192", "384")),
        ("qkv_embd", None, ("1024", "384")),
        ("hidden_dim", 2048, ("2048", "4096")),
        ("vocab_size", 32_000, ("32000", "32128")),
        ("n_kv_head", 2, ("2", "3")),
    ],
)
def test_contradictions_name_both_numbers(name, value, numbers):
    with pytest.raises(ValueError, match=f"{name} is {numbers[0]} .* {numbers[1]} in the tensors"):
        OriginalConfig.from_sources({name: value}, RELEASED)


def test_all_contradictions_are_listed_at_once():
    with pytest.raises(ValueError, match=r"n_embd is 8 .*n_kv_head is 1 "):
        OriginalConfig.from_sources({"n_embd": 8, "n_kv_head": 1}, RELEASED)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"n_heads": 6}, "unknown fields .n_heads.*n_head"),
        ({"n_head": "6"}, "n_head .*'6'"),
        ({"n_head": True}, "n_head .*True"),
        ({"n_head": 6.0}, "n_head .*6.0"),
        ({"n_head": 0}, "n_head .*positive"),
        ({"n_head": None}, "n_head .*None"),
        ({"is_interleaved": 1}, "is_interleaved .*1"),
        ({"rope_theta": -1}, "rope_theta .*positive"),
        ({"rope_factor": float("inf")}, "rope_factor .*inf"),
        ({"dropout": 1.5}, "dropout .*1.5"),
        ({"block_size": 0}, "block_size .*positive"),
        ({"pad_token_id": 32_128}, "pad_token_id is 32128.*32128 tokens"),
        ({"pad_token_id": -1}, "pad_token_id is -1"),
        ({"bos_token_id": 40_000}, "bos_token_id is 40000"),
        ({"eos_token_id": 40_000}, "eos_token_id is 40000"),
        ({"n_head": 5}, "384 query rows .*n_head = 5 .stated"),
        ({"n_head": 128}, "384 query rows .*n_head = 128"),
        ({"n_head": 8, "n_kv_head": 3}, "n_kv_head is 3 .* 4 in the tensors"),
        ({"n_head": 192, "rope_factor": 2.0}, "rope_factor 2.0"),
    ],
)
def test_impossible_values_are_refused(stated, message):
    with pytest.raises(ValueError, match=message):
        OriginalConfig.from_sources(stated, RELEASED)


def test_default_number_of_heads_that_does_not_fit_asks_for_a_configuration():
    sizes = {**RELEASED, "qkv_embd": 64, "kv_embd": 32}
    with pytest.raises(ValueError, match=r"n_head = 6 \(of the released model.*configuration file"):
        OriginalConfig.from_sources({}, sizes)
    assert OriginalConfig.from_sources({"n_head": 4}, sizes).n_kv_head == 2


@pytest.mark.parametrize("factor", [1, 1.0, 0.5])
def test_factors_up_to_one_do_not_scale(factor):
    rope = OriginalConfig.from_sources({"rope_factor": factor}, RELEASED).rope_parameters
    assert rope == {"rope_type": "default", "rope_theta": 10_000.0}


@pytest.mark.parametrize("text", ["{", "[]", "3", "\ud800"])
def test_what_is_no_json_object_is_refused(text, tmp_path):
    (tmp_path / "config.json").write_bytes(text.encode("utf-16-le", "surrogatepass"))
    with pytest.raises(ValueError, match=r"config\.json"):
        read_original_config(tmp_path / "config.json")


def test_configuration_file_must_exist(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_original_config(tmp_path / "config.json")
