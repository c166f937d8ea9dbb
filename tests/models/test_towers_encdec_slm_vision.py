"""Vision towers: by checkpoint or configuration, of the library or of timm, frozen or with a rate of their own."""

import pytest
import torch
from model_tester import ModelTester
from transformers import AutoConfig, AutoModel, CLIPConfig, CLIPModel, Dinov2Config, SiglipConfig, SiglipModel
from vision_tester import CLIP, IMAGE_TOKEN_ID, SIZES, VisionTester
from vision_variants import CNN, DINO, SIGLIP, VISION_VARIANTS, VIT

from encdec_slm import EncDecSLMVisionForConditionalGeneration
from encdec_slm.parameter_groups import freeze


@pytest.fixture(params=VISION_VARIANTS.values(), ids=VISION_VARIANTS)
def tester(request):
    return request.param


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize(
    ("part", "whole"),
    [(CLIP, (CLIPConfig, CLIPModel)), (SIGLIP, (SiglipConfig, SiglipModel)), ({**DINO, "image_size": 8}, None)],
    ids=["clip", "siglip", "dinov2"],
)
def test_checkpoints_are_joined(part, whole, tmp_path):
    text = ModelTester().model().to(torch.bfloat16)
    text.save_pretrained(tmp_path / "text")
    if whole is None:
        tower = expected = AutoModel.from_config(Dinov2Config(**part))
    else:
        sides = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 10}
        tower = whole[1](whole[0](vision_config=part, text_config=sides))
        expected = tower.vision_model
    tower.save_pretrained(tmp_path / "tower")
    model = EncDecSLMVisionForConditionalGeneration.from_text_and_vision_pretrained(
        tmp_path / "text", tmp_path / "tower", image_token_id=IMAGE_TOKEN_ID, max_image_tokens=9
    )
    assert model.dtype == torch.bfloat16
    assert not model.training
    assert model.config.encoder.max_image_tokens == 9
    assert model.generation_config.eos_token_id == text.config.eos_token_id
    loaded, weights = model.get_encoder().vision_tower.state_dict(), expected.state_dict()
    weights = {name.removeprefix("vision_model."): weight for name, weight in weights.items()}
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weight.to(loaded[name].dtype)) for name, weight in weights.items())
    row = VisionTester(encoder={"vision_config": part, "max_image_tokens": 9}).row_with_images(3, (8, 8))
    assert model(**row, labels=torch.tensor([[9, 2]])).loss.isfinite()


@pytest.mark.parametrize(
    ("tower", "size", "layer", "measured"), [(VIT, 8, -2, (4, 24)), (CNN, 64, -1, (2, 512)), (CNN, 64, -2, (4, 256))]
)
def test_timm_towers_are_measured(tower, size, layer, measured):
    values = dict(tower)
    vision = AutoModel.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
    options = {"image_token_id": IMAGE_TOKEN_ID, "vision_feature_layer": layer}
    join = EncDecSLMVisionForConditionalGeneration.from_text_and_vision_pretrained
    with pytest.raises(ValueError, match=r"timm_wrapper tower does not say how large.*pass image_size"):
        join(ModelTester().model(), vision, **options)
    model = join(ModelTester().model(), vision, **options, image_size=size)
    half = model.config.encoder
    assert (half.patches_per_side, half.vision_hidden_size) == measured
    ours = model.get_encoder().vision_tower.state_dict()
    assert all(torch.equal(ours[name], weight) for name, weight in vision.state_dict().items())


def test_gradients_reach_what_is_not_frozen(tester):
    model, row = tester.model(), tester.row_with_images(3, *SIZES[:2])
    encoder = model.get_encoder()
    parts = (encoder.vision_tower, encoder.multi_modal_projector, encoder.image_newline, encoder.layers[0])
    for frozen in (False, True):
        if frozen:
            freeze(model, [r"\.vision_tower\."])
        model.zero_grad()
        with torch.enable_grad():
            model.train()(**row, labels=torch.tensor([[9, 2]])).loss.backward()
        learns = [any(w.grad is not None and w.grad.any() for w in part.parameters()) for part in parts]
        assert learns[:2] == [not frozen, True]
        assert learns[2] == bool(model.config.encoder.image_grid_pinpoints)
        assert learns[3]


def test_frozen_tower_keeps_its_statistics():
    tester = VISION_VARIANTS["timm_cnn"]
    model, row = tester.model(), tester.row(3)
    tower = model.get_encoder().vision_tower
    assert model.train().training
    assert tower.training
    freeze(model, [r"\.vision_tower\."])
    model.train()
    assert model.get_encoder().layers[0].training
    assert not any(module.training for module in tower.modules())
    before = {name: buffer.clone() for name, buffer in tower.named_buffers()}
    model(**row, labels=torch.tensor([[9, 2]]))
    assert all(torch.equal(buffer, before[name]) for name, buffer in tower.named_buffers())


def test_tower_of_another_interface_is_refused():
    tower = {"model_type": "siglip2_vision_model", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    fields = {"vision_config": tower, "image_size": 8, "patches_per_side": 4, "vision_hidden_size": 16}
    with pytest.raises(ValueError, match="siglip2_vision_model tower needs pixel_attention_mask and spatial_shapes"):
        VisionTester(encoder=fields).model()
