"""The configuration of the vision model: sizes taken from the tower, compression worked out, misfits refused."""

import json

import pytest
from model_tester import ModelTester
from transformers import AutoConfig, CLIPVisionConfig, Dinov2Config, SiglipVisionConfig
from vision_tester import CLIP, IMAGE_TOKEN_ID, VisionTester

import encdec_slm.models.configuration_encdec_slm_vision as module
from encdec_slm import EncDecSLMConfig, EncDecSLMVisionConfig
from encdec_slm.models.image_tokens_encdec_slm import most_image_tokens


TIMM = {"model_type": "timm_wrapper", "architecture": "vit_tiny_patch16_224"}


def encoder(**changes):
    return VisionTester(encoder=changes).config().encoder


def test_default_is_the_tower_of_the_original():
    config = EncDecSLMVisionConfig.from_preset("330m", image_token_id=32_011)
    half = config.encoder
    assert (half.image_size, half.patches_per_side, half.vision_hidden_size) == (336, 24, 1024)
    assert (half.vision_feature_layer, half.kept_prefix_tokens, half.max_image_tokens) == (-2, 0, 2304)
    assert [1008, 1008] in half.image_grid_pinpoints
    assert most_image_tokens(half.image_geometry) == 2304
    assert config.image_token_id == half.image_token_id == 32_011


@pytest.mark.parametrize(
    ("tower", "sizes"),
    [
        (CLIPVisionConfig(hidden_size=24, image_size=56, patch_size=14), (56, 4, 24)),
        (SiglipVisionConfig(hidden_size=24, image_size=60, patch_size=14), (60, 4, 24)),
        (Dinov2Config(hidden_size=24, image_size=42, patch_size=14).to_dict(), (42, 3, 24)),
    ],
)
def test_sizes_are_those_of_the_tower(tower, sizes):
    half = encoder(vision_config=tower)
    assert (half.image_size, half.patches_per_side, half.vision_hidden_size) == sizes
    # or of larger views
    assert encoder(vision_config=tower, image_size=70).patches_per_side == 5


def test_tower_that_does_not_say_its_sizes_is_refused_or_told():
    with pytest.raises(ValueError, match=r"timm_wrapper.*image_size and patches_per_side and vision_hidden_size"):
        encoder(vision_config=TIMM)
    half = encoder(vision_config=TIMM, image_size=64, patches_per_side=4, vision_hidden_size=192)
    assert half.image_geometry.grid_pinpoints[0] == (64, 64)


def test_written_and_read_again_it_is_the_same(tmp_path):
    config = VisionTester(tower={"hidden_size": 24}).config()
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["model_type"] == "encdec_slm_vision"
    assert written["encoder"]["vision_config"]["hidden_size"] == 24
    assert set(written["auto_map"]) == {
        "AutoConfig",
        "AutoModel",
        "AutoModelForImageTextToText",
        "AutoModelForSeq2SeqLM",
    }
    read = AutoConfig.from_pretrained(tmp_path)
    assert type(read) is EncDecSLMVisionConfig
    assert type(read.encoder.vision_config) is CLIPVisionConfig
    assert read.to_dict() == {**config.to_dict(), "_name_or_path": str(tmp_path)}


def test_text_configuration_is_kept():
    text = ModelTester(decoder={"num_key_value_heads": 1}, lm_head_bias=True, decoder_start_token_id=3).config()
    config = EncDecSLMVisionConfig.from_text_config(text, vision_config=CLIP, image_token_id=IMAGE_TOKEN_ID)
    assert config.decoder.to_dict() == text.decoder.to_dict()
    assert config.decoder is not text.decoder
    ours, theirs = config.encoder.to_dict(), text.encoder.to_dict()
    assert {name: ours[name] for name in theirs if name != "model_type"} == {
        name: value for name, value in theirs.items() if name != "model_type"
    }
    for name in ("lm_head_bias", "decoder_start_token_id", "eos_token_id", "vocab_size", "tie_word_embeddings"):
        assert getattr(config, name) == getattr(text, name)


@pytest.mark.parametrize("budget", [300, 96, 40])
def test_pixel_shuffle_meets_the_budget_alone(budget):
    half = encoder(
        vision_config={**CLIP, "image_size": 24}, image_token_compression="pixel_shuffle", max_image_tokens=budget
    )
    factor = half.pixel_shuffle_factor
    assert 12 % factor == 0
    geometry = half.image_geometry
    assert geometry.patches_per_side == 12 // factor
    most = {i: most_image_tokens(half._geometry(i, None)) for i in (1, 2, 3, 4, 6, 12)}
    assert most[factor] <= budget
    assert all(most[i] > budget for i in most if i < factor)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_feature_layer": 1}, "vision_feature_layer .1. is counted from the last"),
        ({"image_token_id": 60}, "image_token_id .60. is outside the vocabulary of 60 .*resize_token_embeddings"),
        ({"image_state_pooling": 0}, "image_state_pooling .0. must be at least 1"),
        ({"kept_prefix_tokens": -1}, "kept_prefix_tokens .-1. must be at least 0"),
        ({"image_token_compression": "resampler"}, "unknown image_token_compression 'resampler'.*bilinear"),
        ({"pixel_shuffle_factor": 2}, "pixel_shuffle_factor is 2, but image_token_compression 'bilinear'"),
        (
            {"pixel_shuffle_factor": 3, "image_token_compression": "pixel_shuffle"},
            "pixel_shuffle_factor .3. must divide the 4 patches",
        ),
        (
            {"pixel_shuffle_factor": 2, "image_token_compression": "pixel_shuffle", "kept_prefix_tokens": 1},
            "kept_prefix_tokens is 1, but pixel shuffle",
        ),
        ({"image_token_compression": "pixel_shuffle", "max_image_tokens": None}, "needs max_image_tokens"),
        (
            {"image_token_compression": "pixel_shuffle", "max_image_tokens": 8},
            "max_image_tokens .8. is less than the 13",
        ),
        ({"max_image_tokens": 2}, "max_image_tokens .2. must be at least 3"),
        ({"image_grid_pinpoints": [[8, 9]]}, r"multiples of image_size .8.*\[8, 9\]"),
        ({"vision_config": {"hidden_size": 3}}, "names no model_type"),
    ],
)
def test_misfits_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        encoder(**changes)


def test_fields_of_the_encoder_are_not_lost_on_top():
    with pytest.raises(ValueError, match=r"max_image_tokens=9 was given.*encoder.max_image_tokens is 2304.*encoder="):
        EncDecSLMVisionConfig(max_image_tokens=9)


def test_old_releases_are_refused_for_images_alone(monkeypatch):
    def refuse(requirement, hint):
        raise ImportError(f"{requirement} {hint}")

    monkeypatch.setattr(module, "require_version", refuse)
    EncDecSLMConfig()
    with pytest.raises(ImportError, match=r"transformers>=5.12.*the text model does not"):
        EncDecSLMVisionConfig()
