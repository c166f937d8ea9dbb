"""The processor: what it makes of images and texts, as many tokens as the model has states, and what it refuses."""

import json
import random

import numpy as np
import pytest
import torch
from generation_laws import GREEDY, generate, until_end
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from vision_tester import IMAGE_TOKEN, WITH_IMAGE_TOKEN, VisionTester, processor_of, with_image_token
from vision_variants import close, features_of

from encdec_slm import EncDecSLMVisionProcessor


TESTERS = {
    "tiles": VisionTester(**WITH_IMAGE_TOKEN),
    "original": VisionTester(
        **WITH_IMAGE_TOKEN, encoder={"max_image_tokens": None, "max_tiles": 3, "thumbnail_for_one_tile": True}
    ),
    "pixel_shuffle": VisionTester(
        **WITH_IMAGE_TOKEN, encoder={"image_token_compression": "pixel_shuffle", "max_image_tokens": 60}
    ),
    "cls": VisionTester(**WITH_IMAGE_TOKEN, encoder={"kept_prefix_tokens": 1}),
    "one_view": VisionTester(**WITH_IMAGE_TOKEN, encoder={"image_grid_pinpoints": []}),
}
TILES = TESTERS["tiles"]


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer):
    return with_image_token(tiny_tokenizer)


@pytest.fixture(params=TESTERS.values(), ids=TESTERS)
def tester(request):
    return request.param


@pytest.fixture
def processor(tokenizer):
    return processor_of(TILES, tokenizer)


def picture(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def random_sizes(count, largest, seed=0):
    """Heights and widths from one pixel, small ones as often as large ones."""
    numbers = random.Random(seed)
    return [tuple(int(largest ** numbers.random()) for _ in range(2)) for _ in range(count)]


def image_tokens(processor, inputs):
    return (inputs["input_ids"] == processor.image_token_id).sum(dim=1).tolist()


def counts_agree(tester, tokenizer, sizes):
    """Counted from the sizes, in the encoder's input, and of the model's states."""
    processor, model = processor_of(tester, tokenizer), tester.model()
    counted = processor.count_image_tokens(sizes)
    for start in range(0, len(sizes), 500):
        images = [Image.new("RGB", (width, height)) for height, width in sizes[start : start + 500]]
        inputs = processor(images=images, text=[IMAGE_TOKEN] * len(images), padding=True, return_tensors="pt")
        expected = counted[start : start + 500]
        assert image_tokens(processor, inputs) == expected
        assert [len(features) for features in features_of(model, inputs)] == expected
    return len(set(counted))


def test_counts_are_those_of_the_processor_and_of_the_model(tester, tokenizer):
    kinds = counts_agree(tester, tokenizer, [*random_sizes(200, 60), (1, 1), (1, 30_000), (30_000, 1)])
    assert kinds > 10 or not tester.config().encoder.image_grid_pinpoints


@pytest.mark.slow
def test_counts_of_ten_thousand_sizes(tokenizer):
    # one pixel a patch: views are small, and their numbers and paddings are those of large ones
    tower = {"image_size": 4, "patch_size": 1, "num_hidden_layers": 1}
    tester = VisionTester(
        **WITH_IMAGE_TOKEN, tower=tower, encoder={"vision_feature_layer": -1, "max_image_tokens": 100}
    )
    assert counts_agree(tester, tokenizer, random_sizes(10_000, 60)) > 10


def test_sizes_are_counted_without_a_pixel(processor):
    assert processor.count_image_tokens([(1008, 1008), (1, 1)]) == [21, 20]
    data = processor._get_num_multimodal_tokens(image_sizes=[(8, 8), (24, 24)])
    assert (data.num_image_tokens, data.num_image_patches) == (
        processor.count_image_tokens([(8, 8), (24, 24)]),
        [2, 10],
    )
    with pytest.raises(ValueError, match="0 times 3 pixels shows nothing"):
        processor.count_image_tokens([(0, 3)])


def test_rows_of_a_batch_are_answered_as_if_alone(tester, tokenizer):
    """With one image, several, none, of mixed sizes."""
    processor, model = processor_of(tester, tokenizer), tester.model()
    texts = [f"{IMAGE_TOKEN}what", "no image", f"a {IMAGE_TOKEN} and {IMAGE_TOKEN}{IMAGE_TOKEN}", f"{IMAGE_TOKEN} x"]
    images = [[picture(8, 8, 1)], [], [picture(30, 41, 2), picture(5, 3, 3), picture(7, 20, 4)], [picture(41, 9, 5)]]
    batch = processor(images=images, text=texts, padding=True, return_tensors="pt")
    flat = processor(images=[image for row in images for image in row], text=texts, padding=True, return_tensors="pt")
    assert batch.keys() == flat.keys()
    assert all(torch.equal(batch[name], flat[name]) for name in batch)
    expected = [sum(processor.count_image_tokens([(i.height, i.width) for i in row])) for row in images]
    assert image_tokens(processor, batch) == expected
    tokens = generate(model, batch, **GREEDY)
    beams = generate(model, batch, num_beams=3)
    for i, (text, row) in enumerate(zip(texts, images, strict=True)):
        alone = processor(images=row or None, text=text, return_tensors="pt")
        assert ("pixel_values" in alone) == bool(row)
        assert until_end(model, generate(model, alone, **GREEDY)[0]) == until_end(model, tokens[i])
        assert until_end(model, generate(model, alone, num_beams=3)[0]) == until_end(model, beams[i])


def test_texts_alone_are_tokenized_as_by_the_tokenizer(processor, tokenizer):
    for images in (None, [], [[], []]):
        inputs = processor(images=images, text=["ab", "c"], padding=True, return_tensors="pt")
        expected = tokenizer(["ab", "c"], padding=True, return_tensors="pt", return_token_type_ids=False)
        assert inputs.keys() == expected.keys()
        assert torch.equal(inputs["input_ids"], expected["input_ids"])


def test_images_of_all_kinds_are_the_same(processor, tmp_path):
    image = picture(30, 41)
    path = tmp_path / "image.png"
    image.save(path)
    pixels = np.array(image)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    kinds = [
        image,
        pixels,
        pixels.transpose(2, 0, 1),
        tensor,
        str(path),
        path,
        [image],
        [[path]],
        pixels[None],
        (tensor,),
    ]
    outputs = [processor(images=kind, text=IMAGE_TOKEN, return_tensors="pt") for kind in kinds]
    for output in outputs:
        assert all(torch.equal(output[name], outputs[0][name]) for name in outputs[0])
    assert outputs[0]["image_sizes"].tolist() == [[30, 41]]


def test_grey_images_have_three_channels(processor):
    image = picture(9, 14).convert("L")
    grey = np.array(image)
    tensor = torch.from_numpy(grey)
    kinds = [image, image.convert("RGB"), grey, grey[..., None], tensor, tensor[None]]
    outputs = [processor(images=kind, text=IMAGE_TOKEN, return_tensors="pt")["pixel_values"] for kind in kinds]
    for output in outputs:
        assert output.shape[2] == 3
        assert torch.equal(output, outputs[0])


def test_views_are_thumbnail_and_tiles_on_black(processor):
    white = Image.new("RGB", (16, 4), "white")
    views = processor(images=white, text=IMAGE_TOKEN, return_tensors="pt")["pixel_values"]
    assert views.shape == (1, 3, 3, 8, 8)
    # with mean and deviation of a half, black is -1 and white is 1
    assert (views[0, 0] == 1).all()
    assert (views[0, 1:, :, 2:6] == 1).all()
    assert (views[0, 1:, :, :2] == -1).all()
    assert (views[0, 1:, :, 6:] == -1).all()


def test_chat_template_places_images(processor):
    image, other = picture(8, 8, 1), picture(20, 9, 2)
    chats = [
        [
            {"role": "system", "content": "be short"},
            {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "what"}]},
        ],
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "from"},
                    {"type": "image", "image": other},
                    {"type": "image", "image": image},
                    {"type": "text", "text": "to"},
                ],
            }
        ],
        [{"role": "user", "content": "no image"}],
    ]
    texts = [f"be short\n{IMAGE_TOKEN}\nwhat", f"from\n{IMAGE_TOKEN}\n{IMAGE_TOKEN}\nto", "no image"]
    assert processor.apply_chat_template(chats, tokenize=False) == texts
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    inputs = processor.apply_chat_template(chats, **options, processor_kwargs={"padding": True})
    expected = processor(images=[[image], [other, image], []], text=texts, padding=True, return_tensors="pt")
    assert inputs.keys() == expected.keys()
    assert all(torch.equal(inputs[name], expected[name]) for name in inputs)
    one = processor.apply_chat_template(chats[2], **options)
    assert one.keys() == {"input_ids", "attention_mask"}


def test_saved_and_loaded_again_it_is_the_same(tester, tokenizer, tmp_path):
    processor, model, image = processor_of(tester, tokenizer), tester.model(), picture(30, 41)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is EncDecSLMVisionProcessor
    assert loaded.image_geometry == processor.image_geometry
    assert loaded.chat_template == processor.chat_template
    arguments = {"images": image, "text": f"{IMAGE_TOKEN}what", "return_tensors": "pt"}
    inputs, expected = loaded(**arguments), processor(**arguments)
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)
    # the same from the parts
    views = AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt")
    assert torch.equal(views["pixel_values"], expected["pixel_values"])
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == len(tokenizer)
    written = json.loads((tmp_path / "processor_config.json").read_text())
    assert written["auto_map"]["AutoProcessor"] == "processing_encdec_slm_vision.EncDecSLMVisionProcessor"
    reloaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert torch.equal(generate(reloaded, inputs, **GREEDY), generate(model, expected, **GREEDY))


def test_both_backends_of_the_image_processor_see_nearly_the_same(processor, tokenizer, tmp_path):
    processor.save_pretrained(tmp_path)
    pil = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    other = EncDecSLMVisionProcessor(pil, tokenizer, processor.image_geometry)
    arguments = {"images": picture(30, 41), "text": IMAGE_TOKEN, "return_tensors": "pt"}
    ours, theirs = processor(**arguments), other(**arguments)
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    # one grey level of 255, between -1 and 1
    assert (ours["pixel_values"] - theirs["pixel_values"]).abs().max() < 2.1 / 255


@pytest.mark.parametrize(
    ("images", "texts", "message"),
    [
        (1, ["no marker"], "Found total 0 <image> tokens and 1 images"),
        (1, ["<image> <image>"], "Found total 2 <image> tokens and 1 images"),
        (0, ["<image>"], "Found 1 <image> tokens in the text but no images"),
        (3, ["<image>", "<image>"], "Found total 2 <image> tokens and 3 images"),
        (
            [1, 1],
            ["<image> <image>", "x"],
            r"the texts have \[2, 0\] markers '<image>', but there are \[1, 1\] images",
        ),
        ([2], ["<image>"], r"the texts have \[1\] markers '<image>', but there are \[2\] images"),
        ([1], ["<image>", "<image>"], r"the texts have \[1, 1\] markers '<image>', but there are \[1\] images"),
    ],
)
def test_markers_and_images_that_do_not_match_are_both_counted(processor, images, texts, message):
    given = [[picture(8, 8)] * row for row in images] if isinstance(images, list) else [picture(8, 8)] * images
    with pytest.raises(ValueError, match=message):
        processor(images=given, text=texts)


def test_images_that_cannot_be_read_are_named(processor, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"image 1 \('.*text.png'\) is neither"):
        processor(images=[[picture(8, 8)], [str(tmp_path / "text.png")]], text=[IMAGE_TOKEN] * 2)
    with pytest.raises(ValueError, match="image 0 is 0 times 4 pixels"):
        processor(images=Image.new("RGB", (0, 4)), text=IMAGE_TOKEN)


def test_truncation_does_not_cut_an_image(processor):
    with pytest.raises(ValueError, match="Mismatch in `image` token count"):
        processor(images=picture(30, 41), text=f"{IMAGE_TOKEN}what", truncation=True, max_length=12)


def test_extreme_images_are_answered(processor):
    model = TILES.model()
    for height, width in ((1, 1), (1, 30_000), (30_000, 1), (3, 1000)):
        inputs = processor(images=picture(height, width), text=f"{IMAGE_TOKEN}what", return_tensors="pt")
        assert inputs["pixel_values"].isfinite().all()
        assert generate(model, inputs, **GREEDY).shape[1] > 1


def test_processor_needs_the_token_and_the_views_of_the_model(processor, tokenizer, tiny_tokenizer):
    mean = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    build = EncDecSLMVisionProcessor.for_model
    with pytest.raises(ValueError, match=r"reads '<image>' as the tokens \[.*add_tokens.*resize_token_embeddings"):
        build(TILES.config(), tiny_tokenizer, **mean)
    with pytest.raises(ValueError, match=r"'<image>' is token 60 of the tokenizer, but .* image_token_id=5"):
        build(VisionTester().config(), tokenizer, **mean)
    other = processor_of(TESTERS["one_view"], tokenizer)
    with pytest.raises(ValueError, match=r"has image_grid_pinpoints \[\], but image_geometry has \[\[8, 8\]"):
        EncDecSLMVisionProcessor(other.image_processor, tokenizer, processor.image_geometry)
    larger = processor_of(
        VisionTester(**WITH_IMAGE_TOKEN, encoder={"image_size": 12, "image_grid_pinpoints": []}), tokenizer
    )
    with pytest.raises(ValueError, match="views of 12 times 12 pixels, but image_geometry has image_size 8"):
        EncDecSLMVisionProcessor(larger.image_processor, tokenizer, other.image_geometry)


def test_another_token_may_stand_for_images(tiny_tokenizer):
    # any token of the vocabulary that no text has
    tester = VisionTester(image_token_id=5)
    processor = EncDecSLMVisionProcessor.for_model(
        tester.config(), tiny_tokenizer, image_mean=[0.5] * 3, image_std=[0.5] * 3, image_token=","
    )
    assert image_tokens(processor, processor(images=picture(8, 8), text="a,b", return_tensors="pt")) == [20]
    chat = [{"role": "user", "content": [{"type": "image", "image": picture(8, 8)}]}]
    assert processor.apply_chat_template(chat, tokenize=False) == ","


def test_pixels_are_those_that_the_tower_was_trained_with(tokenizer):
    image = picture(8, 8)
    tester = VisionTester(**WITH_IMAGE_TOKEN, encoder={"image_grid_pinpoints": []})
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    processor = EncDecSLMVisionProcessor.for_model(tester.config(), tokenizer, image_mean=mean, image_std=std)
    pixels = processor(images=image, text=IMAGE_TOKEN, return_tensors="pt")["pixel_values"]
    expected = (torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255).sub(torch.tensor(mean)[:, None, None])
    close(pixels[0], expected / torch.tensor(std)[:, None, None])
