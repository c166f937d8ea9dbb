"""What is no vision checkpoint of the original, or one with settings that are not carried over, is refused."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from original_variants import contents
from original_vision_variants import TINY
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

from encdec_slm.conversion import convert_original_vision
from encdec_slm.conversion.original_vision_config import read_tower_config, vision_fields
from encdec_slm.models.modeling_encdec_slm_vision import EncDecSLMVisionForConditionalGeneration


TOWER = "vision_tower.vision_tower.vision_model."


@pytest.fixture
def edit(vision_folder):
    """Changes fields of a JSON file of the folder; None takes one out."""

    def change(name="config.json", **fields):
        path = vision_folder / name
        stated = json.loads(path.read_text()) | fields
        path.write_text(json.dumps({key: value for key, value in stated.items() if value is not None}))

    return change


@pytest.fixture
def edit_weights(vision_folder):
    """Changes the tensors of the folder by a function."""

    def change(function):
        path = vision_folder / "pytorch_model.bin"
        torch.save(function(torch.load(path, weights_only=True)), path)

    return change


@pytest.fixture
def refused(vision_folder, tmp_path):
    """Converts what must be refused: checks that nothing on disk changed and returns the message."""

    def convert(source=vision_folder, error=ValueError, **options):
        before = contents(tmp_path)
        with pytest.raises(error) as raised:
            convert_original_vision(source, tmp_path / "new" / "out", **options)
        assert contents(tmp_path) == before
        assert not (tmp_path / "new").exists()
        return str(raised.value)

    return convert


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mm_patch_merge_type", "spatial_maxpool2x2"),
        ("mm_patch_merge_type", None),
        ("mm_projector_type", "mlp3x_gelu"),
        ("mm_projector_type", None),
        ("mm_vision_select_feature", "cls_patch"),
        ("mm_resampler_type", "perceiver"),
        ("mm_use_im_start_end", True),
        ("cross_image_pos_embed", True),
        ("use_vision_cross_attn", True),
        ("image_aspect_ratio", "anyres_gating_2"),
        ("image_aspect_ratio", "pad"),
        ("mm_vision_select_layer", 4),
        ("mm_vision_select_layer", "last"),
        ("image_grid_pinpoints", "all"),
        ("image_grid_pinpoints", [[56]]),
        ("image_grid_pinpoints", []),
        ("rope_factor", 4.0),
        ("rope_factor", "none"),
        ("n_head", None),
        ("mm_vision_select_layer", None),
    ],
)
def test_setting_that_is_not_carried_over_is_named(name, value, edit, refused):
    edit(**{name: value})
    message = refused()
    assert name in message
    assert value is None or repr(value) in message


def test_all_settings_are_named_at_once(edit, refused):
    edit(mm_projector_type="linear", use_vision_cross_attn=True, rope_theta=None)
    assert all(name in refused() for name in ("mm_projector_type", "use_vision_cross_attn", "rope_theta is missing"))


def test_sizes_that_contradict_the_tensors_are_named(edit, refused):
    edit(n_decoder_layer=7, n_embd=40)
    assert all(fault in refused() for fault in ("n_decoder_layer is 7", "but 2 in the tensors", "n_embd is 40"))


def test_text_checkpoint_is_sent_to_its_own_command(edit, edit_weights, refused):
    edit_weights(lambda tensors: {name: tensor for name, tensor in tensors.items() if "transformer." in name})
    assert "`encdec-slm convert original`" in refused()
    edit(mm_vision_tower=None)
    assert "`encdec-slm convert original`" in refused()


def test_missing_weights_of_the_tower_ask_for_a_folder(edit_weights, refused):
    edit_weights(lambda tensors: {name: tensor for name, tensor in tensors.items() if TOWER not in name})
    message = refused()
    assert "vision_tower has the weights" in message
    assert "--vision-tower" in message


def test_weights_of_the_tower_come_from_its_folder(vision_folder, edit_weights, tmp_path):
    whole = torch.load(vision_folder / "pytorch_model.bin", weights_only=True)
    tower = AutoModel.from_config(AutoConfig.from_pretrained(vision_folder / "vision_tower"))
    tower.load_state_dict({name: whole[TOWER + name.removeprefix("vision_model.")] for name in tower.state_dict()})
    tower.save_pretrained(tmp_path / "tower")
    edit_weights(lambda tensors: {name: tensor for name, tensor in tensors.items() if TOWER not in name})
    convert_original_vision(TINY, tmp_path / "whole")
    convert_original_vision(vision_folder, tmp_path / "joined", vision_tower=tmp_path / "tower")
    models = [AutoModelForImageTextToText.from_pretrained(tmp_path / name) for name in ("whole", "joined")]
    expected, joined = (model.state_dict() for model in models)
    assert expected.keys() == joined.keys()
    assert all(torch.equal(tensor, joined[name]) for name, tensor in expected.items())


def test_one_missing_tensor_and_an_unknown_one_are_named(edit_weights, refused):
    def change(tensors):
        del tensors["mm_projector.2.bias"], tensors[TOWER + "encoder.layers.2.mlp.fc1.bias"], tensors["lm_head.bias"]
        return tensors | {"vision_resampler.query": torch.ones(2), "image_newline": torch.ones(48, dtype=torch.int8)}

    edit_weights(change)
    message = refused()
    for fault in (
        "mm_projector.2.bias",
        TOWER + "encoder.layers.2.mlp.fc1.bias",
        "lm_head.bias",
        "unknown vision_resampler.query",
        "image_newline has the dtype torch.int8",
    ):
        assert fault in message


def test_tower_of_other_sizes_is_named_with_both(edit, refused):
    edit("vision_tower/config.json", hidden_size=40)
    assert "patch_embedding.weight has the shape (32, 3, 14, 14) instead of (40, 3, 14, 14)" in refused()


def test_tower_of_other_views_is_named(edit, refused):
    edit("vision_tower/config.json", image_size=70)
    edit("vision_tower/preprocessor_config.json", crop_size={"height": 70, "width": 70}, size=70)
    edit(image_grid_pinpoints=[[70, 70]])
    assert "position_embedding.weight has the shape (17, 32) instead of (26, 32)" in refused()


def test_pinpoints_that_are_not_of_whole_views_are_refused(edit, refused):
    edit(image_grid_pinpoints=[[56, 100]])
    assert "multiples of image_size (56)" in refused()


def test_clip_large_is_the_tower_if_none_is_given(vision_folder, edit, refused):
    shutil.rmtree(vision_folder / "vision_tower")
    edit(image_grid_pinpoints=[[336, 336]])
    # so that the tiny weights do not fit
    assert "(32, 3, 14, 14) instead of (1024, 3, 14, 14)" in refused()


def test_clip_large_has_the_published_sizes():
    tower = read_tower_config({"mm_vision_tower": "openai/clip-vit-large-patch14-336"}, None)
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size")
    assert [getattr(tower, name) for name in sizes] == [1024, 4096, 24, 16, 336]
    assert (tower.patch_size, tower.hidden_act, tower.layer_norm_eps) == (14, "quick_gelu", 1e-5)


def test_another_tower_has_to_be_given(vision_folder, edit, refused):
    shutil.rmtree(vision_folder / "vision_tower")
    edit(mm_vision_tower="laion/CLIP-ViT-L-14")
    message = refused()
    assert "laion/CLIP-ViT-L-14" in message
    assert "--vision-tower" in message


def test_tower_that_is_no_clip_is_refused(edit, refused):
    edit("vision_tower/config.json", model_type="siglip_vision_model")
    assert "siglip_vision_model" in refused()


def test_vision_half_of_a_clip_is_taken(vision_folder, tmp_path):
    tower = json.loads((vision_folder / "vision_tower/config.json").read_text())
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": tower}))
    convert_original_vision(vision_folder, tmp_path / "out", vision_tower=tmp_path / "clip")
    assert AutoConfig.from_pretrained(tmp_path / "out").encoder.vision_config.hidden_size == tower["hidden_size"]


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"do_normalize": False}, "do_normalize is False"),
        ({"crop_size": 28}, "crop_size is 28"),
        ({"size": {"shortest_edge": 84}}, "size is {'shortest_edge': 84}"),
    ],
)
def test_other_image_processing_is_refused(fields, fault, edit, refused):
    edit("vision_tower/preprocessor_config.json", **fields)
    assert fault in refused()


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        # (width, height) in the original, (height, width) in ours
        ([[112, 56]], [[56, 112]]),
        ("[[112, 56], [56, 168]]", [[56, 112], [168, 56]]),
        ("[(112, 56)]", [[56, 112]]),
        ("(1x1),...,(2x3)", [[56, 56], [112, 56], [168, 56], [56, 112], [112, 112], [168, 112]]),
    ],
)
def test_every_form_of_pinpoints(stated, expected):
    tower = AutoConfig.from_pretrained(TINY / "vision_tower")
    config = json.loads((TINY / "config.json").read_text()) | {"image_grid_pinpoints": stated}
    assert vision_fields(config, tower)["image_grid_pinpoints"] == expected


def test_layers_are_counted_from_the_last():
    tower = AutoConfig.from_pretrained(TINY / "vision_tower")
    config = json.loads((TINY / "config.json").read_text())
    layers = [vision_fields(config | {"mm_vision_select_layer": i}, tower)["vision_feature_layer"] for i in range(4)]
    assert layers == [-4, -3, -2, -1]


def test_files_that_are_not_there_are_named(vision_folder, refused, tmp_path):
    assert "config.json" in refused(tmp_path / "nowhere", FileNotFoundError)
    assert "has no config.json" in refused(vision_tower=tmp_path)
    assert "nowhere does not exist" in refused(tokenizer=tmp_path / "nowhere")
    (vision_folder / "pytorch_model.bin").unlink()
    assert "neither pytorch_model.bin nor model.safetensors" in refused(error=FileNotFoundError)


def test_a_pickle_of_more_than_tensors_is_not_opened(edit_weights, refused):
    edit_weights(lambda tensors: {**tensors, "path": Path("x")})
    assert "was not opened" in refused()


def test_a_full_tokenizer_leaves_no_place_for_images(vision_folder, edit, edit_weights, tiny_tokenizer, refused):
    size = len(tiny_tokenizer)
    cut = ("transformer.wte.weight", "lm_head.weight", "lm_head.bias")
    edit_weights(lambda tensors: tensors | {name: tensors[name][:size].clone() for name in cut})
    edit(vocab_size=size)
    tiny_tokenizer.save_pretrained(vision_folder)
    assert f"its {size} are all taken" in refused()


def test_no_tokenizer_is_told(vision_folder, tmp_path, warnings_of_the_library):
    convert_original_vision(vision_folder, tmp_path / "out")
    assert "image_token_id is 511" in " ".join(warnings_of_the_library())


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_conversion_leaves_nothing(error, refused, monkeypatch):
    save = EncDecSLMVisionForConditionalGeneration.save_pretrained

    def interrupted(model, folder):
        save(model, folder)
        raise error("enough")

    monkeypatch.setattr(EncDecSLMVisionForConditionalGeneration, "save_pretrained", interrupted)
    assert refused(error=error) == "enough"


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_output_that_holds_something(overwrite, vision_folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with nullcontext() if overwrite else pytest.raises(ValueError, match="already holds something"):
        convert_original_vision(vision_folder, tmp_path / "out", overwrite=overwrite)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "out" / "config.json").exists() == overwrite
    with pytest.raises(ValueError, match="lies in the output folder"):
        convert_original_vision(vision_folder, vision_folder, overwrite=True)
