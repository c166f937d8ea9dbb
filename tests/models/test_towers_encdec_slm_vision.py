"""Vision towers: by checkpoint or configuration, of the library or of timm, frozen or with a rate of their own."""

import json

import pytest
import timm
import torch
from model_tester import ModelTester
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    CLIPConfig,
    CLIPModel,
    ConvNextV2Config,
    Dinov2Config,
    DINOv3ViTConfig,
    ResNetConfig,
    SiglipConfig,
    SiglipModel,
    SwinConfig,
    T5Config,
    ViTConfig,
)
from vision_tester import CLIP, IMAGE_TOKEN_ID, SIZES, VisionTester
from vision_variants import CNN, DINO, SIGLIP, VISION_VARIANTS, VIT

from encdec_slm import EncDecSLMVisionForConditionalGeneration
from encdec_slm.models.image_tokens_encdec_slm import image_layout
from encdec_slm.parameter_groups import freeze, parameter_groups


@pytest.fixture(params=VISION_VARIANTS.values(), ids=VISION_VARIANTS)
def tester(request):
    return request.param


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def join(vision, **fields):
    """A model of a text model and a tower, and the views of an image of two tiles."""
    model = EncDecSLMVisionForConditionalGeneration.from_text_and_vision_pretrained(
        ModelTester().model(), vision, image_token_id=IMAGE_TOKEN_ID, **fields
    )
    size = model.config.encoder.image_size
    return model, torch.randn(1, 3, 3, size, size), torch.tensor([[size, 2 * size]])


@pytest.mark.parametrize(
    ("part", "whole"),
    # the checkpoints of SigLIP 2 with a fixed resolution are of SigLIP's type
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


WIDTH = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
OTHERS = {
    "vit": (ViTConfig(**WIDTH, image_size=16, patch_size=4), (16, 4, 16)),
    # tokens of its own stand between CLS and patches
    "dinov3": (DINOv3ViTConfig(**WIDTH, image_size=16, patch_size=4, num_register_tokens=2), (16, 4, 16)),
    # merges patches from layer to layer: its patch_size is not that of the states
    "swin": (SwinConfig(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=2), (32, 4, 16)),
    "convnext": (ConvNextV2Config(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32), (32, 8, 8)),
}


@pytest.mark.parametrize(("config", "sizes"), OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("image_size", [None, 64])
def test_other_towers_of_the_library(config, sizes, image_size):
    fields = {} if image_size is None else {"image_size": image_size}
    model, pixel_values, image_sizes = join(AutoModel.from_config(config), **fields)
    size, side, width = sizes
    half = model.config.encoder
    # larger views have more patches of the same size
    expected = sizes if image_size is None else (image_size, side * image_size // size, width)
    assert (half.image_size, half.patches_per_side, half.vision_hidden_size) == expected
    (features,) = model.get_image_features(pixel_values, image_sizes).pooler_output
    layout = image_layout(*image_sizes[0].tolist(), half.image_geometry)
    assert len(features) == layout.num_tokens
    assert features.std() > 0


@pytest.mark.parametrize(
    ("tower", "size", "layer", "measured"), [(VIT, 8, -2, (4, 24)), (CNN, 64, -1, (2, 512)), (CNN, 64, -2, (4, 256))]
)
def test_timm_towers_are_measured(tower, size, layer, measured):
    values = dict(tower)
    vision = AutoModel.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
    with pytest.raises(ValueError, match=r"timm_wrapper tower does not say how large.*pass image_size"):
        join(vision, vision_feature_layer=layer)
    model, *_ = join(vision, vision_feature_layer=layer, image_size=size)
    half = model.config.encoder
    assert (half.patches_per_side, half.vision_hidden_size) == measured
    ours = model.get_encoder().vision_tower.state_dict()
    assert all(torch.equal(ours[name], weight) for name, weight in vision.state_dict().items())


def test_timm_checkpoint_is_joined(tmp_path):
    """A folder such as timm's on the Hub: without `model_args`, over which the library stumbles with timm 1.0.31."""
    vision = timm.create_model("resnet10t")
    timm.models.save_for_hf(vision, tmp_path, safe_serialization=True)
    written = json.loads((tmp_path / "config.json").read_text())
    written.pop("model_args", None)
    (tmp_path / "config.json").write_text(json.dumps(written))
    model, pixel_values, image_sizes = join(tmp_path)
    assert model.config.encoder.image_size == vision.pretrained_cfg["input_size"][-1]
    model, pixel_values, image_sizes = join(tmp_path, image_size=64, vision_feature_layer=-1)
    ours = model.get_encoder().vision_tower.state_dict()
    theirs = {name: weight for name, weight in vision.state_dict().items() if not name.startswith("fc.")}
    assert len(ours) == len(theirs)
    assert all(torch.equal(ours[f"timm_model.{name}"], weight) for name, weight in theirs.items())
    model.save_pretrained(tmp_path / "joined")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "joined")
    (expected,) = model.get_image_features(pixel_values, image_sizes).pooler_output
    assert torch.equal(loaded.get_image_features(pixel_values, image_sizes).pooler_output[0], expected)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1), "a model of type t5 reads no pixel_values"),
        (CLIPConfig(), "a model of type clip is more than a tower: pass its vision_model"),
        (ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]), "a resnet tower does not say how large"),
    ],
)
def test_what_is_no_tower_is_refused(config, message):
    with torch.device("meta"):
        vision = AutoModel.from_config(config)
    with pytest.raises(ValueError, match=message):
        join(vision)


def test_learning_rates_by_part():
    model = VISION_VARIANTS["clip"].model()
    freeze(model, [r"\.vision_tower\.embeddings\."])
    rates = {r"\.vision_tower\.": 0.1, r"multi_modal_projector|image_newline": 10.0}
    groups = parameter_groups(model, learning_rate=1e-3, weight_decay=0.01, rates=rates)
    rate_of = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        if "vision_tower.embeddings" in name:
            assert parameter not in rate_of
        elif "vision_tower" in name:
            assert rate_of[parameter] == pytest.approx(1e-4)
        elif "multi_modal_projector" in name or "image_newline" in name:
            assert rate_of[parameter] == pytest.approx(1e-2)
        else:
            assert rate_of[parameter] == pytest.approx(1e-3)


def test_projector_alone_may_learn():
    """The first stage of training; its patterns name all that shall stay as it is."""
    model, row = VISION_VARIANTS["clip"].model(), VISION_VARIANTS["clip"].row(3)
    freeze(model, [r"^(?!.*(multi_modal_projector|image_newline))"])
    learns = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[2] for name in learns} == {"multi_modal_projector", "image_newline"}
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with torch.enable_grad():
        model.train()(**row, labels=torch.tensor([[9, 2]])).loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    after = model.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == learns


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
