"""Images are opened when they are needed, kept by row, and joined as a processor joins those of a batch."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from distillation_tester import student
from image_tester import image_rows, image_teacher, image_tokenizer, picture, vision_student
from PIL import Image as Pillow

from encdec_slm.distillation.image_text import ImageTextReader, image_token, message_parts, with_image_tokens
from encdec_slm.distillation.images import RowImages, count_images, image_counts, open_images
from encdec_slm.distillation.prompts import text_prompt


SIZES = ((8, 8), (30, 41), (6, 20))


def row_images():
    """Of three rows: one image, none, two images with more tiles."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(*shape, generator=generator) for shape in ((1, 2, 3), (2, 4, 3)))
    return RowImages(({"pixel_values": first, "sizes": torch.tensor([[7, 8]])}, {}, {"pixel_values": second}))


class TestRowImages:
    def test_are_joined_behind_each_other_and_padded(self):
        images = row_images()

        joined = images.joined(student("t5"))

        first, second = images.rows[0]["pixel_values"], images.rows[2]["pixel_values"]
        assert torch.equal(joined["pixel_values"][:1, :2], first)
        assert torch.equal(joined["pixel_values"][1:], second)
        assert not joined["pixel_values"][0, 2:].any()
        assert joined["sizes"].tolist() == [[7, 8]]

    def test_are_in_the_dtype_of_the_model_that_reads_them(self):
        joined = row_images().joined(student("t5").bfloat16())

        assert (joined["pixel_values"].dtype, joined["sizes"].dtype) == (torch.bfloat16, torch.int64)

    def test_are_those_of_the_chosen_rows(self):
        images = row_images()

        assert images[torch.tensor([2, 0])].rows == (images.rows[2], images.rows[0])
        assert images[torch.tensor([1])].joined(student("t5")) == {}

    def test_are_told_apart_by_their_content(self):
        images, others = row_images(), row_images()

        assert images.digests() == others.digests()
        assert images.digests()[1] == ""
        others.rows[0]["pixel_values"][0, 0, 0] += 1
        assert [a == b for a, b in zip(images.digests(), others.digests(), strict=True)] == [False, True, True]


@pytest.mark.parametrize("name", ["llava", "smolvlm", "qwen2_vl", "ours"])
def test_rows_joined_are_what_a_processor_makes_of_a_batch(name):
    model, processor = vision_student() if name == "ours" else image_teacher(name)
    pictures = [[picture(*SIZES[0])], [picture(*SIZES[1]), picture(*SIZES[2])]]
    texts = ["".join(image_token(processor) for _ in images) + " a b" for images in pictures]
    reader = ImageTextReader(processor=processor)

    rows = [reader(text, images) for text, images in zip(texts, pictures, strict=True)]
    joined = RowImages(tuple(row.images for row in rows)).joined(model)

    batch = processor(text=texts, images=pictures, padding=True, return_tensors="pt")
    for row, ids, mask in zip(rows, batch["input_ids"], batch["attention_mask"], strict=True):
        assert row.ids.tolist() == ids[mask.bool()].tolist()
    for key, value in joined.items():
        if key == "pixel_values" and name == "smolvlm":
            # it has rows of images
            value, batch[key] = (part.flatten(0, 1) for part in (value, batch[key]))
        torch.testing.assert_close(value, batch[key])


class TestReader:
    @pytest.mark.parametrize("end", [None, "</s>"])
    def test_reads_a_prompt_without_images_like_text(self, end):
        _, processor = image_teacher("llava")
        processor.tokenizer = image_tokenizer(end=end)

        read = ImageTextReader(processor=processor, is_prompt=True)("a b c")

        assert read.ids.tolist() == text_prompt(processor.tokenizer, "a b c")
        assert (read.images, read.token_types) == ({}, {})

    @pytest.mark.parametrize(("text", "images"), [("<image> a", 0), ("a", 1), ("<image> <image> a", 1)])
    def test_refuses_other_numbers_of_images_than_places(self, text, images):
        _, processor = image_teacher("llava")

        with pytest.raises(ValueError, match=rf"{text.count('<image>')} image tokens '<image>', .* {images} images"):
            ImageTextReader(processor=processor)(text, [picture(8, 8)] * images)


def test_places_of_images_are_in_front_unless_they_are_told():
    assert with_image_tokens("a", "<image>", 2, what="source") == "<image>\n<image>\na"
    assert with_image_tokens("a <image> b", "<image>", 1, what="source") == "a <image> b"
    assert with_image_tokens("a", "<image>", 0, what="source") == "a"
    with pytest.raises(ValueError, match="its source has 1 image tokens '<image>', but the row has 2 images"):
        with_image_tokens("a <image> b", "<image>", 2, what="source")


def test_parts_of_a_message_have_the_images_where_the_text_has_them():
    image = {"type": "image"}
    assert message_parts("<i>\n<i>\na\nb", "<i>") == [image, image, {"type": "text", "text": "a\nb"}]
    assert message_parts("a\n<i>\nb\n", "<i>") == [
        {"type": "text", "text": "a"},
        image,
        {"type": "text", "text": "b\n"},
    ]


class TestOpening:
    def test_gives_the_same_image_from_wherever_it_is(self, tmp_path):
        image = picture(5, 6)
        path = tmp_path / "image.png"
        image.save(path)

        opened = open_images([image, path, str(path), {"bytes": path.read_bytes(), "path": None}, {"path": str(path)}])

        assert len(opened) == 5
        assert all(np.array_equal(np.asarray(one), np.asarray(image)) for one in opened)
        assert [len(open_images(value)) for value in (None, [], image)] == [0, 0, 1]

    def test_turns_a_photograph_upright(self, tmp_path):
        image = picture(5, 6)
        exif = Pillow.Exif()
        exif[0x0112] = 6
        image.save(tmp_path / "turned.png", exif=exif)

        (opened,) = open_images(tmp_path / "turned.png")

        assert np.array_equal(np.asarray(opened), np.rot90(np.asarray(image), -1))

    @pytest.mark.parametrize("kind", ["cut off", "no image", "missing"])
    def test_tells_which_file_is_no_image(self, kind, tmp_path):
        path = tmp_path / "image.png"
        if kind == "cut off":
            picture(50, 60).save(path)
            path.write_bytes(path.read_bytes()[:200])
        elif kind == "no image":
            path.write_text("a text")

        with pytest.raises(ValueError, match=r"image\.png cannot be read as an image"):
            open_images([str(path)])


def test_counting_opens_no_image(tmp_path):
    data = image_rows(6)
    expected = [1, 0, 2, 1, 0, 2]
    assert image_counts(data) == expected
    assert image_counts(data.select([5, 4, 2])) == [2, 0, 2]
    # of one image for a row, and of paths that do not exist
    assert image_counts(Dataset.from_dict({"images": ["nowhere.png", None]})) == [1, 0]
    assert image_counts(Dataset.from_dict({"images": [["nowhere.png"], None, []]})) == [1, 0, 0]
    assert [count_images(row) for row in ([1, 2], None, "nowhere.png", [])] == [2, 0, 1, 0]
