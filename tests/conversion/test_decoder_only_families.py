"""What our layers cannot hold exactly is refused by its configuration, with the reason; what differs is told."""

import pytest
import torch
from decoder_only_sources import LAYERS, SOURCES, assert_same, make_source, tokens
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from encdec_slm.conversion import convert_decoder_only, from_decoder_only
from encdec_slm.conversion.decoder_only_families import FAMILIES, REFUSED, family_of


def config_of(model_type, **fields):
    return AutoConfig.for_model(model_type, **fields)


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("gemma2", "norms after the sub-layers"),
        ("gemma3", "reads images"),
        ("gemma3_text", "alternates between two attention windows"),
        ("phi3", "longrope"),
        ("granite", "factors of its own"),
        ("smollm3", "no positions"),
        ("mixtral", "mixture of experts"),
        ("qwen2_moe", "mixture of experts"),
        ("qwen3_moe", "mixture of experts"),
        ("olmoe", "mixture of experts"),
        ("deepseek_v3", "mixture of experts"),
        ("gpt2", "not of the Llama family"),
        ("gpt_neox", "not of the Llama family"),
        ("bloom", "not of the Llama family"),
        ("mamba", "not of the Llama family"),
        ("t5", "already an encoder-decoder"),
        ("bart", "already an encoder-decoder"),
        ("encdec_slm", "already an encoder-decoder"),
        ("llava", "reads images"),
        ("qwen2_vl", "reads images"),
        ("idefics3", "reads images"),
    ],
)
def test_other_models_are_refused_with_the_reason(model_type, reason):
    with pytest.raises(ValueError, match=reason) as error:
        family_of(config_of(model_type))
    assert f"the type {model_type!r} " in str(error.value)
    assert ", ".join(FAMILIES) in str(error.value)


def test_reasons_are_about_models_that_there_are():
    assert REFUSED.keys() <= CONFIG_MAPPING_NAMES.keys()
    assert not REFUSED.keys() & FAMILIES.keys()
    assert {config.model_type for config in SOURCES.values()} == FAMILIES.keys()


@pytest.mark.parametrize(
    ("model_type", "fields", "reason"),
    [
        ("llama", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"quantised.*model\.dequantize\(\)"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        (
            "llama",
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "factor": 2.0,
                    "short_factor": [1.0] * 64,
                    "long_factor": [1.0] * 64,
                    "original_max_position_embeddings": 64,
                }
            },
            "'longrope', not of default, linear, dynamic, yarn, llama3",
        ),
    ],
)
def test_settings_that_our_layers_do_not_have_are_refused(model_type, fields, reason):
    with pytest.raises(ValueError, match=reason):
        family_of(config_of(model_type, **fields))


def test_configuration_is_refused_before_the_weights_are_read(tmp_path):
    # the folder has none: reading them would be another error
    config_of("gemma2").save_pretrained(tmp_path / "source")
    with pytest.raises(ValueError, match="norms after the sub-layers"):
        convert_decoder_only(tmp_path / "source", tmp_path / "out")
    make_source().config.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="the source has 5"):
        convert_decoder_only(tmp_path / "other", tmp_path / "out", encoder_layers=9)
    assert not (tmp_path / "out").exists()


def test_models_that_are_not_whole_are_refused():
    source = make_source()
    with pytest.raises(ValueError, match=r"LlamaModel has no lm_head\.weight"):
        from_decoder_only(source.model)
    with pytest.raises(ValueError, match="Linear is neither a PreTrainedModel"):
        from_decoder_only(source.lm_head)
    source.model.layers[0].mlp.up_proj.register_parameter("lora_A", torch.nn.Parameter(torch.ones(2)))
    with pytest.raises(ValueError, match=r"layers\.0\.mlp\.up_proj\.lora_A among them: merge"):
        from_decoder_only(source)


def test_offloaded_and_packed_weights_are_refused():
    with torch.device("meta"):
        source = make_source()
    with pytest.raises(ValueError, match="on meta"):
        from_decoder_only(source)
    source = make_source()
    packed = torch.nn.Parameter(source.lm_head.weight.to(torch.int8), requires_grad=False)
    source.lm_head.weight = packed
    with pytest.raises(ValueError, match="without quantisation"):
        from_decoder_only(source)


@pytest.mark.parametrize(
    ("name", "changes", "positions"),
    [
        ("mistral", {"sliding_window": 24}, 24),
        ("mistral", {"sliding_window": 64}, 64),
        ("mistral", {"sliding_window": None}, 64),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 2, "layer_types": None}, 24),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 2, "layer_types": None}, 24),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 9, "layer_types": None}, 64),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 24, "layer_types": None}, 64),
    ],
)
@torch.no_grad()
def test_window_bounds_the_positions(name, changes, positions, warnings_of_the_library):
    source = make_source(name, **changes)
    model = from_decoder_only(source, layers=f"0/0-{LAYERS - 1}").eval()
    assert model.config.encoder.max_position_embeddings == positions
    assert model.config.decoder.max_position_embeddings == positions
    assert ("sliding_window" in " ".join(warnings_of_the_library())) == (positions == 24)
    decoder_input_ids = tokens(2, positions)
    assert_same(model(tokens(2, 3), decoder_input_ids=decoder_input_ids).logits, source(decoder_input_ids).logits)


@torch.no_grad()
def test_beyond_the_window_the_source_sees_less():
    source = make_source("mistral")
    model = from_decoder_only(source, layers=f"0/0-{LAYERS - 1}").eval()
    decoder_input_ids = tokens(1, 25)
    actual = model(tokens(1, 3), decoder_input_ids=decoder_input_ids).logits
    expected = source(decoder_input_ids).logits
    assert_same(actual[:, :24], expected[:, :24])
    assert not torch.allclose(actual[:, 24], expected[:, 24], atol=1e-3)


def test_gemma_says_why_its_head_is_of_its_own(warnings_of_the_library):
    from_decoder_only(make_source("gemma"))
    told = " ".join(warnings_of_the_library())
    assert "tie_word_embeddings is False" in told
    assert "norms without the 1" in told


def test_a_plain_llama_has_nothing_to_tell(warnings_of_the_library):
    from_decoder_only(make_source("llama"))
    assert warnings_of_the_library() == []


def test_sizes_of_the_configuration_are_those_of_the_source():
    source = make_source("llama3", initializer_range=0.07, attention_dropout=0.25)
    config = from_decoder_only(source).config
    for stack in (config.encoder, config.decoder):
        assert stack.rope_parameters == source.config.rope_parameters
        for name in ("hidden_size", "intermediate_size", "num_key_value_heads", "head_dim", "rms_norm_eps"):
            assert getattr(stack, name) == getattr(source.config, name)
        assert (stack.gated_mlp, stack.hidden_act) == (True, "silu")
        assert (stack.dropout, stack.attention_dropout, stack.initializer_range) == (0.0, 0.25, 0.07)


def test_an_unknown_type_is_refused():
    class OtherConfig(PreTrainedConfig):
        model_type = "some_other_model"

    with pytest.raises(ValueError, match="'some_other_model' cannot be converted: it is not of the Llama family"):
        family_of(OtherConfig())
