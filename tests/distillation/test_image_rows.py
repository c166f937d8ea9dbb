"""Rows with images keep their texts, each side with its own token where an image is, until a batch is made."""

import pytest
from datasets import Dataset, Features, Image, IterableDataset, List, Value
from distillation_tester import BOS, word_tokenizer
from image_tester import image_rows, image_teacher, image_tokenizer, picture

from encdec_slm.distillation.columns import is_encoded
from encdec_slm.distillation.rows import RowEncoder, encode_rows


IMAGE = picture(4, 4)
# two messages for the teacher, the second with a picture between words
MESSAGES = [
    {"role": "system", "content": [{"type": "text", "text": "a"}]},
    {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "image"}, {"type": "text", "text": "c"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "d"}]},
]


def encoder(teacher="qwen2_vl", **options):
    processor = None if teacher is None else image_teacher(teacher)[1]
    tokenizer = word_tokenizer(end=None) if processor is None else processor.tokenizer
    given = {
        "tokenizer": image_tokenizer(),
        "teacher_tokenizer": tokenizer,
        "teacher_processor": processor,
        "image_token": "<image>",
        "decoder_start_token_id": BOS,
    }
    return RowEncoder(**{**given, **options})


def encode(encoder, *rows):
    """The encoded columns of rows, which may lack some columns."""
    columns = {name: [row.get(name) for row in rows] for row in rows for name in row}
    return encoder(columns)


def texts(encoder, **row):
    found = encode(encoder, {"target": "d", **row})
    return found["source_text"][0], found["teacher_prompt_text"][0]


# of Qwen2-VL
SEEN = "<|vision_start|><|image_pad|><|vision_end|> "


class TestPlacesOfImages:
    def test_come_first_by_default(self):
        assert texts(encoder(), images=[IMAGE, IMAGE], source="a b") == ("<image>\n<image>\na b", SEEN * 2 + "a b z ")

    def test_are_where_the_source_has_them(self):
        assert texts(encoder(), images=[IMAGE], source="a\n<image>\nb") == ("a\n<image>\nb", f"a {SEEN}b z ")

    def test_are_in_the_templates_where_the_source_is(self):
        found = texts(
            encoder(source_template="q {source} r", teacher_template="s {source} t"), images=IMAGE, source="a"
        )

        assert found == ("q <image>\na r", "s <|image_pad|>\na t")

    def test_are_first_for_a_teacher_without_a_chat_template(self):
        assert texts(encoder("smolvlm"), images=IMAGE, source="a") == ("<image>\na", "<image>\na\n")

    def test_of_a_row_without_images_are_none(self):
        assert texts(encoder(), images=None, source="a") == ("a", "a z ")

    def test_of_messages_are_their_parts(self):
        found = encode(encoder(), {"images": [IMAGE], "messages": MESSAGES})

        assert found["source_text"] == ["a\n\nb\n<image>\nc"]
        assert found["teacher_prompt_text"] == [f"a b {SEEN}c z "]
        assert image_tokenizer().decode(found["labels"][0]) == "d </s>"

    def test_of_messages_without_such_parts_are_first_in_the_users(self):
        messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]

        assert texts(encoder(), images=IMAGE, messages=messages, source="c")[1] == f"a {SEEN}b z "

    def test_of_a_prompt_of_the_rows_own_are_first_or_told(self):
        assert texts(encoder(), images=IMAGE, source="a", teacher_prompt="b")[1] == "<|image_pad|>\nb"
        assert texts(encoder(), images=IMAGE, source="a", teacher_prompt="b <|image_pad|>")[1] == "b <|image_pad|>"

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"source": "<image> <image> a"}, "source has 2 image tokens '<image>', but the row has 1 images"),
            ({"source": "a", "teacher_prompt": "<|image_pad|> <|image_pad|>"}, "teacher_prompt has 2 image tokens"),
            ({"source": "a", "messages": [*MESSAGES[1:2], *MESSAGES[1:2]]}, "messages have 2 parts of type image"),
            ({"source": "a", "messages": [{"role": "user", "content": [{"type": "video"}]}]}, "list of parts"),
            (
                {"source": "a", "messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]},
                "column images",
            ),
        ],
    )
    def test_are_refused_where_they_are_not_as_many_as_images(self, row, message):
        with pytest.raises(ValueError, match=f"row 0: .*{message}"):
            texts(encoder(), images=[IMAGE], **row)


class TestCuttingASource:
    def test_leaves_the_images_whole(self):
        # three words and the end
        assert texts(encoder(max_source_length=4), images=IMAGE, source="a b c d e")[0] == "<image>\na b c"

    @pytest.mark.parametrize(("truncation", "source"), [("end", "a b c <image>"), ("start", "<image> a b c d")])
    def test_is_refused_where_it_would_cut_off_an_image(self, truncation, source):
        with pytest.raises(ValueError, match="max_source_length is 3, which would cut off image tokens"):
            texts(encoder(max_source_length=3, source_truncation=truncation), images=IMAGE, source=source)


class TestATeacherThatReadsNoImages:
    def test_is_told_of_them_in_words(self):
        found = encode(encoder(None), {"images": [IMAGE], "source": "a", "target": "d", "teacher_prompt": "b c"})

        assert found["source_text"] == ["<image>\na"]
        assert found["teacher_prompt_ids"] == [word_tokenizer(end=None)("b c")["input_ids"]]

    @pytest.mark.parametrize("row", [{"source": "a", "target": "d"}, {"messages": MESSAGES}])
    def test_is_refused_if_nobody_tells(self, row):
        with pytest.raises(ValueError, match="has images, but the teacher reads none"):
            encode(encoder(None), {"images": [IMAGE], **row})

    def test_reads_rows_without_images(self):
        found = encode(encoder(None), {"images": [], "source": "a", "target": "d"})

        assert found["teacher_prompt_ids"] == [word_tokenizer(end=None)("a")["input_ids"]]


class TestAStudentThatReadsNoImages:
    def test_is_refused(self):
        with pytest.raises(ValueError, match="the dataset has images, but the student reads none"):
            encode_rows(image_rows(2), encoder(image_token=None))


@pytest.mark.parametrize("token", ["<image>", "<|image_pad|>"])
def test_image_tokens_in_a_target_are_refused(token):
    with pytest.raises(ValueError, match="its target has the image token"):
        texts(encoder(), images=IMAGE, source="a", target=f"b {token}")


@pytest.mark.parametrize(("side", "token"), [("source", "<image>"), ("teacher", "<|image_pad|>")])
def test_image_tokens_in_a_template_are_refused(side, token):
    with pytest.raises(ValueError, match=f"{side}_template has the image token"):
        encoder(**{f"{side}_template": f"{token} {{source}}"})


def test_image_tokens_without_a_column_of_images_are_refused():
    with pytest.raises(ValueError, match="1 image tokens '<image>', but the dataset has no column images"):
        encode(encoder(), {"source": "<image> a", "target": "d"})


class TestADataset:
    def test_keeps_its_images_as_they_are(self):
        data = image_rows(6).shuffle(seed=1).add_column("other", list(range(6)))

        encoded = encode_rows(data, encoder())

        assert set(encoded.column_names) == {"source_text", "teacher_prompt_text", "labels", "images", "other"}
        assert is_encoded(encoded.column_names)
        assert encoded.features["images"] == List(Image())
        for row, original in zip(encoded, data, strict=True):
            assert row["images"] == original["images"]
            assert row["source_text"] == "<image>\n" * len(original["images"]) + original["source"]

    def test_is_encoded_without_opening_an_image(self):
        data = Dataset.from_dict({"images": [["nowhere.png"], []], "source": ["a", "b"], "target": ["c", "d"]})

        encoded = encode_rows(data, encoder())

        assert encoded["source_text"] == ["<image>\na", "b"]

    def test_of_messages_with_parts_has_the_empty_fields_of_its_types(self):
        parts = List({"type": Value("string"), "text": Value("string")})
        features = Features({"images": List(Image()), "messages": List({"role": Value("string"), "content": parts})})
        data = Dataset.from_dict({"images": [[IMAGE]], "messages": [MESSAGES]}, features=features)

        encoded = encode_rows(data, encoder())

        assert encoded["teacher_prompt_text"] == [f"a b {SEEN}c z "]

    @pytest.mark.parametrize("known", [True, False])
    def test_may_be_a_stream(self, known):
        listed = image_rows(4)
        stream = listed.to_iterable_dataset() if known else IterableDataset.from_generator(lambda: iter(listed))

        encoded = list(encode_rows(stream, encoder()))

        expected = encode_rows(listed, encoder())
        for name in ("source_text", "teacher_prompt_text", "labels"):
            assert [row[name] for row in encoded] == list(expected[name])
        assert [len(row["images"]) for row in encoded] == [1, 0, 2, 1]
