"""The configuration: complete, strict, and the same after a round trip."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoConfig, T5Config

from encdec_slm import EncDecSLMConfig, EncDecSLMDecoderConfig, EncDecSLMEncoderConfig
from encdec_slm.models.configuration_encdec_slm import PRESETS


HALVES = pytest.mark.parametrize("half", [EncDecSLMEncoderConfig, EncDecSLMDecoderConfig])


def reloaded(config, folder):
    config.save_pretrained(folder)
    return AutoConfig.from_pretrained(folder)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_a_round_trip(name, tmp_path):
    config = EncDecSLMConfig.from_preset(name)
    loaded = reloaded(config, tmp_path)
    assert type(loaded) is EncDecSLMConfig
    assert type(loaded.encoder) is EncDecSLMEncoderConfig
    assert type(loaded.decoder) is EncDecSLMDecoderConfig
    assert loaded.to_dict() == {**config.to_dict(), "_name_or_path": str(tmp_path)}


def test_everything_that_can_be_set_survives_a_round_trip(tmp_path):
    stack = {
        "vocab_size": 90,
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_hidden_layers": 1,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 10,
        "hidden_act": "relu",
        "gated_mlp": True,
        "attention_bias": False,
        "mlp_bias": False,
        "qk_norm": True,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0},
        "max_position_embeddings": 77,
        "dropout": 0.2,
        "attention_dropout": 0.3,
    }
    top = {
        "pad_token_id": 5,
        "bos_token_id": 6,
        "eos_token_id": [7, 8],
        "decoder_start_token_id": 9,
        "tie_word_embeddings": False,
        "lm_head_bias": True,
        "initializer_range": 0.01,
    }
    config = EncDecSLMConfig(encoder=stack, decoder={**stack, "use_cache": False}, **top)
    loaded = reloaded(config, tmp_path)
    default = EncDecSLMConfig()
    for name, value in top.items():
        assert getattr(loaded, name) == value != getattr(default, name), name
    for half in ("encoder", "decoder"):
        for name, value in stack.items():
            assert getattr(getattr(loaded, half), name) == value != getattr(getattr(default, half), name), name
    assert loaded.use_cache is loaded.decoder.use_cache is False
    fields = set(EncDecSLMEncoderConfig.__dataclass_fields__) - set(type(config).mro()[1].__dataclass_fields__)
    assert fields - {"initializer_range"} == set(stack)


def test_what_was_not_given_follows_from_what_was():
    config = EncDecSLMConfig(
        encoder={"hidden_size": 96, "num_attention_heads": 6}, decoder={"hidden_size": 64, "num_attention_heads": 2}
    )
    assert (config.encoder.head_dim, config.encoder.num_key_value_heads) == (16, 6)
    assert (config.decoder.head_dim, config.decoder.num_key_value_heads) == (32, 2)
    assert config.decoder.cross_attention_hidden_size == 96
    assert config.encoder.rope_parameters == {"rope_type": "default", "rope_theta": 10_000.0}
    assert EncDecSLMConfig(initializer_range=0.5).encoder.initializer_range == 0.5


def test_halves_may_be_given_as_configurations():
    encoder, decoder = EncDecSLMEncoderConfig(vocab_size=80), EncDecSLMDecoderConfig(vocab_size=80)
    config = EncDecSLMConfig(encoder=encoder, decoder=decoder)
    assert config.encoder is encoder
    assert config.decoder is decoder
    assert config.vocab_size == 80
    assert config.get_text_config(decoder=True) is decoder


def test_vocabulary_is_one():
    config = EncDecSLMConfig(vocab_size=80)
    assert config.vocab_size == config.encoder.vocab_size == config.decoder.vocab_size == 80
    config.vocab_size = 90
    assert config.vocab_size == config.encoder.vocab_size == config.decoder.vocab_size == 90


def test_only_what_differs_from_the_defaults_is_written(tmp_path):
    EncDecSLMConfig.from_preset("330m").save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["model_type"] == "encdec_slm"
    # a flat size would have no effect: none is written
    assert not {"hidden_size", "num_hidden_layers", "vocab_size"} & written.keys()
    assert written["encoder"]["num_attention_heads"] == 6
    assert written["auto_map"].keys() == {
        "AutoConfig",
        "AutoModel",
        "AutoModelForSeq2SeqLM",
        "AutoModelForTextEncoding",
    }


def test_preset_takes_changes():
    config = EncDecSLMConfig.from_preset("tiny", vocab_size=90, eos_token_id=7, tie_word_embeddings=False)
    assert (config.vocab_size, config.eos_token_id, config.tie_word_embeddings) == (90, 7, False)
    assert config.encoder.hidden_size == PRESETS["tiny"].hidden_size


def test_unknown_preset_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="no preset 'huge'; use one of tiny, small, 330m, 500m, 1b"):
        EncDecSLMConfig.from_preset("huge")


@HALVES
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_attention_heads": 6, "num_key_value_heads": 4},
            r"num_attention_heads \(6\).*num_key_value_heads \(4\)",
        ),
        ({"head_dim": 15}, r"head_dim \(15\) must be even"),
        ({"hidden_size": 60, "num_attention_heads": 4}, r"head_dim \(15\) must be even.*60 // 4"),
        ({"head_dim": 0}, r"head_dim \(0\) must be even and positive"),
        ({"hidden_act": "gellu"}, "unknown hidden_act 'gellu', use one of"),
        ({"rope_parameters": {"rope_type": "longrope", "factor": 2.0}}, "rope_type 'longrope' is not supported"),
        ({"rope_parameters": {"rope_type": "spiral"}}, "rope_type 'spiral' is not supported"),
        ({"vocab_size": 0}, "vocab_size must be at least 1, got 0"),
        ({"hidden_size": -4}, "hidden_size must be at least 1, got -4"),
        ({"intermediate_size": 0}, "intermediate_size must be at least 1"),
        ({"num_attention_heads": 0}, "num_attention_heads must be at least 1"),
        ({"num_key_value_heads": 0}, "num_key_value_heads must be at least 1"),
        ({"num_hidden_layers": -1}, "num_hidden_layers must not be negative"),
    ],
)
def test_sizes_that_nothing_can_be_built_from_are_refused(half, changes, message):
    with pytest.raises(ValueError, match=rf"{half.base_config_key}.*{message}"):
        half(**changes)
    with pytest.raises(ValueError, match=message):
        EncDecSLMConfig(**{half.base_config_key: changes})


@pytest.mark.parametrize("changes", [{"hidden_size": "wide"}, {"gated_mlp": "maybe"}, {"num_hidden_layers": 2.5}])
def test_values_of_another_type_are_refused(changes):
    with pytest.raises(StrictDataclassFieldValidationError, match=next(iter(changes))):
        EncDecSLMEncoderConfig(**changes)


def test_halves_of_another_kind_are_refused():
    with pytest.raises(StrictDataclassFieldValidationError, match="encoder"):
        EncDecSLMConfig(encoder=T5Config())
    with pytest.raises(StrictDataclassFieldValidationError, match="decoder"):
        EncDecSLMConfig(decoder=EncDecSLMEncoderConfig())


@pytest.mark.parametrize("name", ["pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"])
@pytest.mark.parametrize("value", [100, -1])
def test_tokens_outside_the_vocabulary_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name} \({value}\) is outside the vocabulary of 100 tokens"):
        EncDecSLMConfig(vocab_size=100, **{name: value})
    assert getattr(EncDecSLMConfig(vocab_size=100, **{name: 99}), name) == 99


def test_each_of_several_ends_is_checked():
    with pytest.raises(ValueError, match=r"eos_token_id \(100\)"):
        EncDecSLMConfig(vocab_size=100, eos_token_id=[2, 100])


def test_tokens_may_be_missing():
    config = EncDecSLMConfig(pad_token_id=None, bos_token_id=None, eos_token_id=None, decoder_start_token_id=None)
    assert config.eos_token_id is None


def test_vocabularies_must_be_equal():
    with pytest.raises(ValueError, match=r"encoder.vocab_size \(90\) and decoder.vocab_size \(80\).*pass vocab_size"):
        EncDecSLMConfig(encoder={"vocab_size": 90}, decoder={"vocab_size": 80})


@pytest.mark.parametrize("changes", [{"hidden_size": 64}, {"num_hidden_layers": 3}, {"dropout": 0.0}])
def test_sizes_given_on_top_are_refused_with_the_place_for_them(changes):
    (name,) = changes
    with pytest.raises(ValueError, match=rf"{name}=.* was given to EncDecSLMConfig, but decoder.{name} is .*encoder="):
        EncDecSLMConfig(**changes)


def test_sizes_given_on_top_that_agree_change_nothing():
    config = EncDecSLMConfig(hidden_size=1024)
    assert config.decoder.hidden_size == config.encoder.hidden_size == 1024


def test_positions_of_the_library_s_older_names_are_understood():
    config = EncDecSLMConfig(
        encoder={"rope_theta": 500.0}, decoder={"rope_scaling": {"type": "linear", "factor": 2.0}}
    )
    assert config.encoder.rope_parameters["rope_theta"] == 500.0
    assert config.decoder.rope_parameters["rope_type"] == "linear"
    assert config.decoder.rope_parameters["factor"] == 2.0
