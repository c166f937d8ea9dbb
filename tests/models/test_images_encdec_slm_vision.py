"""What becomes of an image in the model: tower, projector, tiles, compression, and what is refused."""

import copy
from dataclasses import replace

import pytest
import torch
from generation_laws import GREEDY, generate, until_end
from model_tester import ModelTester
from torch.nn.functional import adaptive_avg_pool2d, gelu, interpolate
from transformers import AutoModel, AutoModelForImageTextToText, AutoModelForSeq2SeqLM
from vision_tester import IMAGE_TOKEN_ID, SIZES, VisionTester
from vision_variants import CNN, VISION_VARIANTS, close, features_of

from encdec_slm import EncDecSLMVisionForConditionalGeneration, EncDecSLMVisionModel
from encdec_slm.models.image_tokens_encdec_slm import image_layout


@pytest.fixture(params=VISION_VARIANTS.values(), ids=VISION_VARIANTS)
def tester(request):
    return request.param


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def test_features_are_as_many_as_tokens(tester):
    model, sizes = tester.model(), [*SIZES, (1, 1), (1, 300), (300, 1), (24, 24), (13, 40)]
    row = tester.row_with_images(2, *sizes)
    counts = [image_layout(*size, model.config.encoder.image_geometry).num_tokens for size in sizes]
    assert [len(features) for features in features_of(model, row)] == counts
    assert (row["input_ids"] == IMAGE_TOKEN_ID).sum() == sum(counts)


def test_mixed_rows_are_read_as_if_alone(tester):
    # in float64, since processors round float32 differently, and logits of 9 by more than 1e-4
    model = tester.model().double()
    rows = [
        tester.words(6),
        tester.row_with_images(3, (8, 8)),
        tester.row_with_images(5, (6, 20), (41, 30), (8, 8)),
        tester.words(2),
    ]
    for side in ("left", "right"):
        batch, decoder_input_ids = tester.batch(rows, side), tester.targets(4)
        logits = model(**batch, decoder_input_ids=decoder_input_ids).logits
        for i, row in enumerate(rows):
            close(logits[i : i + 1], model(**row, decoder_input_ids=decoder_input_ids[i : i + 1]).logits)
        tokens = generate(model, batch, **GREEDY)
        for row, expected in zip(rows, tokens, strict=True):
            assert until_end(model, generate(model, row, **GREEDY)[0]) == until_end(model, expected)


def test_saved_and_loaded_again_it_is_the_same(tester, tmp_path):
    model, row, decoder_input_ids = tester.model(), tester.row_with_images(4, *SIZES), tester.targets(1)
    model.save_pretrained(tmp_path)
    expected = model(**row, decoder_input_ids=decoder_input_ids)
    loaded, report = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is EncDecSLMVisionForConditionalGeneration
    assert not any(report.values())
    assert torch.equal(loaded(**row, decoder_input_ids=decoder_input_ids).logits, expected.logits)
    assert type(AutoModelForSeq2SeqLM.from_pretrained(tmp_path)) is EncDecSLMVisionForConditionalGeneration
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is EncDecSLMVisionModel
    states = base(**row, decoder_input_ids=decoder_input_ids)
    assert torch.equal(states.encoder_last_hidden_state, expected.encoder_last_hidden_state)


def test_every_pixel_counts(tester):
    model = tester.model()
    row = tester.row_with_images(3, (30, 41))
    features = features_of(model, row)[0]
    for view in range(row["pixel_values"].shape[1] if row["pixel_values"].dim() == 5 else 1):
        other = {**row, "pixel_values": row["pixel_values"].clone()}
        target = other["pixel_values"][0]
        (target[view] if target.dim() == 4 else target).add_(1)
        assert not torch.equal(features_of(model, other)[0], features)


def by_hand(model, views):
    """Tower and projector, written out: shape (views, patches, hidden)."""
    encoder = model.get_encoder()
    states = encoder.vision_tower(views, output_hidden_states=True).hidden_states[-2][:, 1:]
    projector = encoder.multi_modal_projector
    hidden = gelu(states @ projector.linear_1.weight.T + projector.linear_1.bias)
    return hidden @ projector.linear_2.weight.T + projector.linear_2.bias


@pytest.mark.parametrize("first", ["features", "tower", "hidden states"])
def test_square_image_of_one_tile_is_tower_and_projector(first):
    tester = VISION_VARIANTS["unlimited"]
    model, row = tester.model(), tester.row_with_images(2, (8, 8))
    # whatever was asked for before: the library's hooks that record the layers are not to be installed twice
    if first == "tower":
        model.get_encoder().vision_tower(row["pixel_values"][0], output_hidden_states=True)
    if first == "hidden states":
        model(**row, decoder_input_ids=tester.targets(1), output_hidden_states=True)
    (features,) = features_of(model, row)
    grid = by_hand(model, row["pixel_values"][0, 1:]).view(4, 4, 32)
    newline = model.get_encoder().image_newline.weight.expand(4, 1, 32)
    close(features, torch.cat((grid, newline), dim=1).view(20, 32))


def test_padding_is_cut_off_and_rows_end_with_a_newline():
    tester = VISION_VARIANTS["unlimited"]
    # two tiles beside each other; scaled to 16 pixels of width, the image is four high
    model, row = tester.model(), tester.row_with_images(2, (3, 12))
    (features,) = features_of(model, row)
    thumbnail, left, right = by_hand(model, row["pixel_values"][0, :3])
    close(features[:16], thumbnail)
    lines = features[16:].view(2, 9, 32)
    for i in range(2):
        # the first and the last row of patches show padding
        patches = slice(4 * (i + 1), 4 * (i + 2))
        close(lines[i, :8], torch.cat((left[patches], right[patches])))
        close(lines[i, 8], model.get_encoder().image_newline.weight[0])


@pytest.mark.parametrize("compression", ["bilinear", "average_pool"])
def test_budget_resamples_thumbnail_and_grid(compression):
    tester = VisionTester(encoder={"image_token_compression": compression, "max_image_tokens": 40})
    model, row = tester.model(), tester.row_with_images(2, (16, 16))
    (features,) = features_of(model, row)
    thumbnail, *tiles = by_hand(model, row["pixel_values"][0, :5]).view(5, 4, 4, 32)
    whole = torch.cat((torch.cat(tiles[:2], dim=1), torch.cat(tiles[2:], dim=1)))
    layout = image_layout(16, 16, model.config.encoder.image_geometry)
    assert (layout.thumbnail_side, layout.rows, layout.columns) == (2, 5, 5)

    def resampled(grid, side):
        grid = grid.permute(2, 0, 1)[None]
        if compression == "bilinear":
            return interpolate(grid, (side, side), mode="bilinear")[0].permute(1, 2, 0)
        return adaptive_avg_pool2d(grid, side)[0].permute(1, 2, 0)

    close(features[:4], resampled(thumbnail, 2).reshape(4, 32))
    close(features[4:].view(5, 6, 32)[:, :5], resampled(whole, 5))


def test_pixel_shuffle_joins_neighbours_before_the_projector():
    model = VISION_VARIANTS["pixel_shuffle"].model()
    assert model.config.encoder.pixel_shuffle_factor == 2
    row = VISION_VARIANTS["pixel_shuffle"].row_with_images(2, (8, 8))
    (features,) = features_of(model, row)
    states = model.get_encoder().vision_tower(row["pixel_values"][0, 1:], output_hidden_states=True).hidden_states[-2]
    grid = states[0, 1:].view(4, 4, 16)
    squares = [grid[i : i + 2, j : j + 2].reshape(64) for i in (0, 2) for j in (0, 2)]
    expected = model.get_encoder().multi_modal_projector(torch.stack(squares)).view(2, 2, 32)
    close(features.view(2, 3, 32)[:, :2], expected)


def test_class_token_stands_before_the_first_view():
    tester = VISION_VARIANTS["cls"]
    model, row = tester.model(), tester.row_with_images(2, (8, 8))
    (features,) = features_of(model, row)
    encoder = model.get_encoder()
    states = encoder.vision_tower(row["pixel_values"][0, 1:], output_hidden_states=True).hidden_states[-2]
    close(features[0], encoder.multi_modal_projector(states[0, 0]))
    without = copy.deepcopy(model)
    without.config.encoder.kept_prefix_tokens = 0
    close(features[1:], features_of(without, row)[0])


def test_layers_of_the_tower_are_returned_if_asked_for(tester):
    model, row = tester.model(), tester.row_with_images(2, (8, 8))
    plain = model.get_image_features(row["pixel_values"], row.get("image_sizes"))
    assert plain.hidden_states is None
    outputs = model.get_image_features(row["pixel_values"], row.get("image_sizes"), output_hidden_states=True)
    layer = outputs.hidden_states[model.config.encoder.vision_feature_layer]
    assert torch.equal(layer, outputs.last_hidden_state)
    assert torch.equal(layer, plain.last_hidden_state)
    assert all(states is not None for states in outputs.hidden_states)
    as_tuple = model.get_image_features(row["pixel_values"], row.get("image_sizes"), return_dict=False)
    assert torch.equal(as_tuple[1][0], plain.pooler_output[0])


def test_text_alone_is_the_text_model_bit_for_bit():
    text, tower = ModelTester().model(), AutoModel.from_config(VISION_VARIANTS["clip"].config().encoder.vision_config)
    model = EncDecSLMVisionForConditionalGeneration.from_text_and_vision_pretrained(
        text, tower, image_token_id=IMAGE_TOKEN_ID, image_state_pooling=2
    )
    inputs, decoder_input_ids = ModelTester().inputs(), ModelTester().targets()
    expected = text(**inputs, decoder_input_ids=decoder_input_ids).logits
    assert torch.equal(model(**inputs, decoder_input_ids=decoder_input_ids).logits, expected)
    assert torch.equal(generate(model, inputs, num_beams=3), generate(text, inputs, num_beams=3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: {"pixel_values": row["pixel_values"][:, 0]}, r"pixel_values have shape \(1, 3, 8, 8\)"),
        (lambda row: {"image_sizes": None}, "image_sizes None"),
        (lambda row: {"image_sizes": row["image_sizes"].repeat(2, 1)}, r"image_sizes \(2, 2\)"),
        (lambda row: {"pixel_values": row["pixel_values"][:, :2]}, "have 2 views of an image, but .* ask for 3"),
        (lambda row: {"image_sizes": torch.tensor([[8, 8]])}, r"has 30 image tokens, but the images have 20 features"),
        (lambda row: {"input_ids": row["input_ids"] + 9}, r"has 0 image tokens, but the images have 30 features"),
        (lambda row: {"pixel_values": None}, "image tokens in input_ids, but no pixel_values"),
    ],
)
def test_images_that_do_not_fit_are_refused(change, message):
    tester = VISION_VARIANTS["clip"]
    model, row = tester.model(), tester.row_with_images(3, (8, 16))
    row.update(change(row))
    with pytest.raises(ValueError, match=message):
        model(**row, decoder_input_ids=tester.targets(1))


def test_images_need_a_token_that_stands_for_them():
    tester = VISION_VARIANTS["clip"]
    model, row = tester.model(image_token_id=None), tester.row(3)
    with pytest.raises(ValueError, match="no image_token_id"):
        model(**row, decoder_input_ids=tester.targets(1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patches_per_side": 5}, "17 states for a view, fewer than kept_prefix_tokens .0. and the square of .* .5."),
        ({"kept_prefix_tokens": 2}, "17 states for a view, fewer than kept_prefix_tokens .2."),
        (
            {"vision_config": CNN, "patches_per_side": 3, "image_size": 32, "vision_hidden_size": 256},
            r"patches_per_side is 3, but the tower gives a map of \(2, 2\)",
        ),
    ],
)
def test_sizes_that_are_not_the_tower_s_are_refused(fields, message):
    tester = VisionTester(encoder=fields)
    with pytest.raises(ValueError, match=message):
        features_of(tester.model(), tester.row(3))


def test_budget_may_change_after_training():
    tester = VISION_VARIANTS["clip"]
    model = tester.model()
    model.config.encoder.max_image_tokens = 12
    geometry = replace(tester.config().encoder.image_geometry, max_image_tokens=12)
    row = tester.row_with_images(3, (16, 16))
    assert len(features_of(model, row)[0]) == image_layout(16, 16, geometry).num_tokens <= 12
