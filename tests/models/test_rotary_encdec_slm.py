"""Rotary positions: the rotation itself, every supported kind of scaling, and lengths beyond those trained on."""

import math

import pytest
import torch
from model_tester import ModelTester

from encdec_slm.models.configuration_encdec_slm import SUPPORTED_ROPE_TYPES
from encdec_slm.models.modeling_encdec_slm_layers import rotate


TRAINED = 16
SCALINGS = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": TRAINED},
    "llama3": {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": TRAINED,
    },
}


def with_scaling(scaling, **both):
    # a small base: all the dimensions turn within the few tokens of a test
    rope = {**SCALINGS[scaling], "rope_theta": 100.0}
    return ModelTester(both={"rope_parameters": rope, "max_position_embeddings": TRAINED, **both})


@pytest.fixture(params=SCALINGS)
def scaled(request):
    return with_scaling(request.param)


@pytest.fixture
def dynamic():
    return with_scaling("dynamic")


def encoded(model, inputs):
    with torch.no_grad():
        return model.get_encoder()(**inputs).last_hidden_state


def test_every_supported_kind_is_tested():
    assert set(SCALINGS) == set(SUPPORTED_ROPE_TYPES)


def test_pairs_of_dimensions_turn_by_their_angle():
    model = with_scaling("default").model()
    positions = torch.tensor([[0, 1, 5, 11]])
    states = torch.randn(1, 2, 4, 16)
    turned = rotate(states, *model.get_encoder().rotary_emb.for_heads(states, positions))
    # dimension i and i + 8 are the two parts of a complex number, turned by position * 100^(-i / 8)
    angles = positions[0, :, None] * 100.0 ** -(torch.arange(8) / 8)
    by_hand = torch.complex(states[..., :8], states[..., 8:]) * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(turned, torch.cat([by_hand.real, by_hand.imag], dim=-1))


def test_rotation_keeps_lengths_but_for_the_scale_of_yarn(scaled):
    rotary, states = scaled.model().get_encoder().rotary_emb, torch.randn(1, 2, 7, 16)
    angles = rotary.for_heads(states, torch.arange(7).unsqueeze(0))
    # √(1/t) of arXiv 2309.00071, section 3.4
    scale = 0.1 * math.log(4) + 1 if rotary.rope_type == "yarn" else 1
    turned = rotate(states, *angles)
    torch.testing.assert_close(turned.norm(dim=-1), scale * states.norm(dim=-1))


def test_only_distances_between_tokens_count(scaled):
    model, inputs = scaled.model(), scaled.inputs((7, 5))
    positions = torch.arange(7).unsqueeze(0)
    with torch.no_grad():
        states = model.get_encoder()(**inputs).last_hidden_state
        shifted = model.get_encoder()(**inputs, position_ids=positions + 9).last_hidden_state
        spread = model.get_encoder()(**inputs, position_ids=2 * positions).last_hidden_state
    shown = inputs["attention_mask"].bool()
    torch.testing.assert_close(shifted[shown], states[shown], atol=1e-4, rtol=1e-4)
    assert (spread - states)[shown].abs().max() > 1e-2


@pytest.mark.parametrize("has_places", [False, True])
def test_cross_attention_compares_places_if_it_is_to(has_places):
    tester = ModelTester(decoder={"cross_attention_rope": has_places})
    model, inputs, targets = tester.model(), tester.inputs((7, 5, 6)), tester.targets()
    places = torch.arange(targets.shape[1]).unsqueeze(0)

    def logits(**changes):
        with torch.no_grad():
            return model(**inputs, decoder_input_ids=targets, **changes).logits

    assert torch.equal(logits(decoder_position_ids=places), logits())
    difference = (logits(decoder_position_ids=places + 4) - logits()).abs().max()
    assert difference > 1e-2 if has_places else difference < 1e-4


def test_cross_attention_does_not_rotate_by_a_base_that_follows_the_length():
    rope = {**SCALINGS["dynamic"], "rope_theta": 100.0}
    with pytest.raises(ValueError, match="cross_attention_rope does not go with rope_type 'dynamic'"):
        ModelTester(decoder={"rope_parameters": rope, "cross_attention_rope": True}).config()


@pytest.mark.parametrize("scaling", ["linear", "yarn", "llama3"])
def test_scaling_turns_more_slowly_at_every_length(scaling):
    tester = with_scaling(scaling)
    rotary, plain = tester.model().get_encoder().rotary_emb, with_scaling("default").model().get_encoder().rotary_emb
    assert (rotary.inv_freq <= plain.inv_freq + 1e-7).all()
    # the slowest dimension by the whole factor
    torch.testing.assert_close(rotary.inv_freq[-1], plain.inv_freq[-1] / 4)
    row = tester.row(6)
    difference = encoded(tester.model(), row) - encoded(with_scaling("default").model(), row)
    assert difference.abs().max() > 1e-2


def test_dynamic_scaling_begins_beyond_the_trained_length(dynamic):
    scaled, plain = dynamic.model(), with_scaling("default").model()
    short, long = dynamic.row(TRAINED), dynamic.row(TRAINED + 1)
    assert torch.equal(encoded(scaled, short), encoded(plain, short))
    assert (encoded(scaled, long) - encoded(plain, long)).abs().max() > 1e-2


def test_dynamic_scaling_goes_by_the_last_position(dynamic):
    """A token of a long sequence is turned as in the whole sequence, also where it comes alone."""
    rotary, positions = dynamic.model().get_encoder().rotary_emb, torch.arange(TRAINED + 8).unsqueeze(0)
    for whole, part in zip(rotary(torch.zeros(1), positions), rotary(torch.zeros(1), positions[:, -2:]), strict=True):
        assert torch.equal(whole[:, -2:], part)


def test_dynamic_scaling_keeps_no_memory_of_other_calls(dynamic):
    model = dynamic.model()
    short, long, longer = dynamic.row(5), dynamic.row(20), dynamic.row(40)
    alone = [encoded(dynamic.model(), row) for row in (short, long, longer)]
    for order in ((2, 1, 0), (0, 1, 2), (1, 2, 0)):
        for i in order:
            assert torch.equal(encoded(model, (short, long, longer)[i]), alone[i])


def test_scaled_generation_with_and_without_a_cache(scaled):
    model, inputs = scaled.model(), scaled.inputs((TRAINED + 8, TRAINED))
    for beams in (1, 3):
        options = {"max_new_tokens": TRAINED - 1, "do_sample": False, "num_beams": beams}
        tokens = model.generate(**inputs, **options)
        assert torch.equal(model.generate(**inputs, **options, use_cache=False), tokens)
        assert torch.equal(model.generate(**inputs, **options, cache_implementation="static"), tokens)


def test_scaled_model_is_saved_with_its_scaling(scaled, tmp_path):
    model, row = scaled.model(), scaled.row(TRAINED + 8)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.config.encoder.rope_parameters == model.config.encoder.rope_parameters
    assert torch.equal(encoded(loaded, row), encoded(model, row))


@pytest.mark.parametrize("beams", [1, 2])
def test_dynamic_generation_beyond_the_trained_length_does_without_a_cache(dynamic, beams, warnings_of_the_library):
    model, inputs = dynamic.model(), dynamic.inputs((7, 5))
    options = {"do_sample": False, "num_beams": beams, "eos_token_id": None, "return_dict_in_generate": True}
    within = model.generate(**inputs, **options, max_new_tokens=TRAINED - 1)
    assert within.past_key_values.get_seq_length() == TRAINED - 1
    assert not any("cache" in text for text in warnings_of_the_library())
    beyond = [model.generate(**inputs, **options, max_new_tokens=TRAINED + 8) for _ in range(2)]
    assert beyond[0].past_key_values is None
    about_cache = [text for text in warnings_of_the_library() if "cache is switched off" in text]
    assert len(about_cache) == 1
    assert f"({TRAINED})" in about_cache[0]
    expected = model.generate(**inputs, **options, max_new_tokens=TRAINED + 8, use_cache=False)
    for outputs in beyond:
        assert torch.equal(outputs.sequences, expected.sequences)
    assert model.generation_config.use_cache is not False


def test_dynamic_scaling_refuses_to_mix_cached_keys(dynamic):
    model, inputs = dynamic.model(), dynamic.inputs((7, 5))
    tokens = dynamic.targets(2, TRAINED + 1)
    cache = model(**inputs, decoder_input_ids=tokens[:, :-1], use_cache=True).past_key_values
    with pytest.raises(ValueError, match=rf"{TRAINED} tokens in the cache.*use_cache=False"):
        model(**inputs, decoder_input_ids=tokens[:, -1:], past_key_values=cache)
    assert model(**inputs, decoder_input_ids=tokens, use_cache=False).logits.isfinite().all()
