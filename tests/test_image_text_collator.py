"""Rows with images as batches: a batch is its rows one by one, and its labels are their targets."""

import numpy as np
import pytest
import torch
from PIL import Image
from vision_tester import IMAGE_TOKEN, WITH_IMAGE_TOKEN, VisionTester, processor_of, with_image_token

from encdec_slm.image_text_collator import DataCollatorForImageTextToText


TESTER = VisionTester(**WITH_IMAGE_TOKEN)


@pytest.fixture
def processor(tiny_tokenizer):
    return processor_of(TESTER, with_image_token(tiny_tokenizer))


@pytest.fixture
def rows():
    """Rows with an image, without any, and with two of other sizes."""

    def picture(height, width):
        return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8))

    return [
        {"images": [picture(8, 8)], "source": f"{IMAGE_TOKEN}what is it?", "target": "a dog"},
        {"images": [], "source": "hello", "target": "hi"},
        {"images": [picture(6, 20), picture(20, 7)], "source": f"{IMAGE_TOKEN}or{IMAGE_TOKEN}?", "target": "neither"},
    ]


@torch.no_grad()
def test_the_loss_of_a_batch_is_that_of_its_rows(processor, rows):
    collator, model = DataCollatorForImageTextToText(processor), TESTER.model()
    batch = collator(rows)
    counts = [int((batch["labels"][index] != -100).sum()) for index in range(len(rows))]
    alone = [model(**collator([row])).loss * count for row, count in zip(rows, counts, strict=True)]
    torch.testing.assert_close(model(**batch).loss, sum(alone) / sum(counts))


def test_labels_are_the_targets_as_the_tokenizer_ends_them(processor, rows):
    labels = DataCollatorForImageTextToText(processor)(rows)["labels"]
    for row, line in zip(rows, labels, strict=True):
        kept = line[line != -100].tolist()
        assert kept == processor.tokenizer(text_target=row["target"])["input_ids"]
        # padding is on the right alone
        assert line[: len(kept)].tolist() == kept


def test_a_padding_token_that_is_the_end_too_is_kept_in_labels(processor, rows):
    processor.tokenizer.pad_token = processor.tokenizer.eos_token
    for row in rows:
        row["target"] += processor.tokenizer.eos_token
    labels = DataCollatorForImageTextToText(processor)(rows)["labels"]
    assert [int((line == processor.tokenizer.eos_token_id).sum()) for line in labels] == [1, 1, 1]


def test_rows_without_images_need_no_column_and_rows_without_targets_have_no_labels(processor, rows):
    collator = DataCollatorForImageTextToText(processor)
    assert collator([{"source": "hello"}]).keys() == {"input_ids", "attention_mask"}
    asked = collator([{"source": row["source"], "images": row["images"]} for row in rows])
    assert asked.keys() == {"input_ids", "attention_mask", "pixel_values", "image_sizes"}


def test_lengths_are_multiples_on_request(processor, rows):
    batch = DataCollatorForImageTextToText(processor, pad_to_multiple_of=16)(rows)
    assert batch["input_ids"].shape[1] % 16 == batch["labels"].shape[1] % 16 == 0
    assert batch["input_ids"].shape == batch["attention_mask"].shape


def test_what_does_not_fit_is_refused(processor, rows):
    collator = DataCollatorForImageTextToText(processor)
    with pytest.raises(ValueError, match="2 of 3 rows have a target"):
        collator([{**rows[0], "target": None}, *rows[1:]])
    with pytest.raises(ValueError, match=r"the texts have \[1, 0, 2\] markers .* there are \[1, 1, 2\] images"):
        collator([rows[0], {**rows[1], "images": rows[0]["images"]}, rows[2]])
    processor.tokenizer.pad_token = None
    with pytest.raises(ValueError, match="has no tokenizer with a pad_token"):
        DataCollatorForImageTextToText(processor)
