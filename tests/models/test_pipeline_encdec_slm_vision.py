"""Pipelines of the vision model: `image-text-to-text`, and `text2text-generation` of texts alone."""

import numpy as np
import pytest
from PIL import Image
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline
from vision_tester import IMAGE_TOKEN, WITH_IMAGE_TOKEN, VisionTester, processor_of, with_image_token


OPTIONS = {"max_new_tokens": 9}


@pytest.fixture(scope="module")
def processor(tiny_tokenizer):
    return processor_of(VisionTester(**WITH_IMAGE_TOKEN), with_image_token(tiny_tokenizer))


@pytest.fixture(scope="module")
def model():
    model = VisionTester(**WITH_IMAGE_TOKEN).model()
    # random models repeat themselves: answers of varied characters
    model.generation_config.update(suppress_tokens=[0, 1, 3], no_repeat_ngram_size=2, min_new_tokens=3)
    return model


@pytest.fixture(scope="module")
def folder(model, processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two pictures: of Pillow's, and the paths of their files."""
    folder, numbers = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    pictures = [
        Image.fromarray(numbers.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for height, width in ((20, 33), (8, 8))
    ]
    for i, picture in enumerate(pictures):
        picture.save(folder / f"{i}.png")
    return pictures, [str(folder / f"{i}.png") for i in range(2)]


@pytest.fixture
def by_hand(model, processor):
    """Returns the text that `generate` gives for a text and its images."""

    def answer(text, *images, **options):
        inputs = processor(images=list(images) or None, text=text, return_tensors="pt")
        tokens = model.generate(**inputs, do_sample=False, **{**OPTIONS, **options})
        return processor.batch_decode(tokens, skip_special_tokens=True)

    return answer


@pytest.fixture(params=["objects", "folder"])
def pipe(request, model, processor, folder):
    if request.param == "folder":
        return pipeline("image-text-to-text", model=str(folder), device="cpu")
    return pipeline("image-text-to-text", model=model, processor=processor, device="cpu")


def answers(records):
    return [record["generated_text"] for record in records]


def test_nothing_is_said_about_the_class(folder, warnings_of_the_library, caplog):
    pipeline("image-text-to-text", model=str(folder), device="cpu")
    assert warnings_of_the_library() == []
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_images_and_texts(pipe, by_hand, images):
    pictures, paths = images
    texts = [f"{IMAGE_TOKEN}what", f"who{IMAGE_TOKEN}"]
    expected = [by_hand(text, picture)[0] for text, picture in zip(texts, pictures, strict=True)]
    assert len(set(expected)) == 2
    for given in images:
        assert answers(pipe(images=given[0], text=texts[0], return_full_text=False, **OPTIONS)) == expected[:1]
        assert answers(pipe(images=given, text=texts, return_full_text=False, **OPTIONS)) == expected
    # by default the library puts the question before the answer, as for decoder-only models
    assert answers(pipe(images=paths[0], text=texts[0], **OPTIONS)) == [texts[0] + expected[0]]
    several = pipe(
        images=paths,
        text=f"{IMAGE_TOKEN}or{IMAGE_TOKEN}",
        return_full_text=False,
        generate_kwargs={"num_beams": 2},
        **OPTIONS,
    )
    assert answers(several) == by_hand(f"{IMAGE_TOKEN}or{IMAGE_TOKEN}", *pictures, num_beams=2)


def test_chats(pipe, by_hand, images):
    pictures, paths = images
    kinds = [{"image": pictures[0]}, {"path": paths[0]}, {"image": paths[0]}]
    expected = by_hand(f"{IMAGE_TOKEN}\nwhat", pictures[0])
    for kind in kinds:
        chat = [{"role": "user", "content": [{"type": "image", **kind}, {"type": "text", "text": "what"}]}]
        assert answers(pipe(text=chat, return_full_text=False, **OPTIONS)) == expected
    (record,) = pipe(text=chat, **OPTIONS)
    assert record["generated_text"] == [*chat, {"role": "assistant", "content": expected[0]}]


def test_texts_alone(pipe, by_hand):
    assert answers(pipe(text="abc", return_full_text=False, **OPTIONS)) == by_hand("abc")


@pytest.mark.parametrize("batch_size", [1, 2])
def test_text2text_generation_reads_texts_alone(folder, by_hand, batch_size):
    pipe = pipeline("text2text-generation", model=str(folder), device="cpu")
    assert type(pipe.model) is VisionTester.model_class
    records = pipe(["abc", "k"], batch_size=batch_size, **OPTIONS)
    assert answers(records) == [by_hand("abc")[0], by_hand("k")[0]]
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    pipe = pipeline("text2text-generation", model=model, tokenizer=tokenizer, device="cpu")
    assert answers(pipe(["abc"], **OPTIONS)) == by_hand("abc")
    with pytest.raises(ValueError, match="image tokens in input_ids, but no pixel_values"):
        pipe(f"{IMAGE_TOKEN}what", **OPTIONS)
