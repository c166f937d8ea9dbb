"""Teacher and student read the same source, and the target's ids are the same whatever stands before them."""

import struct
from hashlib import sha256

import pytest
from datasets import Dataset, IterableDataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from encdec_slm.distillation.cache import row_key
from encdec_slm.distillation.columns import is_encoded
from encdec_slm.distillation.rows import RowEncoder, encode_rows


# the padding token is that of unknown words, as in the original's tokenizer
WORDS = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>", "Question:", "Answer:", "Say:", *"abcdefghij"]
IDS = {word: i for i, word in enumerate(WORDS)}
CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LONG = "a b c d e f g h i j"
FRAMES = {"t5": "$A </s>", "bart": "<s> $A </s>", "llama": "<s> $A", "none": None}


def build(frame="t5", chat_template=None, words=WORDS, **roles):
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if FRAMES[frame]:
        special = [(word, words.index(word)) for word in ("<s>", "</s>")]
        tokenizer.post_processor = processors.TemplateProcessing(single=FRAMES[frame], special_tokens=special)
    roles = {"pad_token": "<unk>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"} | roles
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=chat_template, **roles)


def encoder(frame="t5", teacher_frame="llama", chat_template=None, **options):
    options = {"decoder_start_token_id": 0} | options
    return RowEncoder(tokenizer=build(frame), teacher_tokenizer=build(teacher_frame, chat_template), **options)


def ids(text):
    return [IDS.get(word, 0) for word in text.split()]


def words(tokens):
    return " ".join(WORDS[token] for token in tokens)


@pytest.mark.parametrize(
    ("frame", "start", "labels"),
    [
        ("t5", 0, "b c </s>"),
        # the first label is the beginning, as BART learns it
        ("bart", 2, "<s> b c </s>"),
        # ... unless the decoder starts with it
        ("bart", 1, "b c </s>"),
        ("llama", 1, "b c </s>"),
        ("none", 0, "b c </s>"),
    ],
)
def test_a_target_is_framed_and_ends_once(frame, start, labels):
    row = encoder(frame, decoder_start_token_id=start).encode({"source": "a", "target": "b c"})
    assert row["labels"] == ids(labels)
    assert row["input_ids"] == build(frame)("a")["input_ids"]


def test_an_unknown_word_that_has_the_start_tokens_id_stays():
    row = encoder(decoder_start_token_id=0).encode({"source": "? a ?", "target": "? b ?"})
    assert row["labels"] == [0, IDS["b"], 0, 2]
    assert row["input_ids"] == [0, IDS["a"], 0, 2]


@pytest.mark.parametrize("most", range(1, 6))
def test_a_target_that_is_cut_has_no_end(most):
    labels = encoder(max_target_length=most).encode({"source": "a", "target": "b c d"})["labels"]
    assert labels == ids("b c d </s>")[:most]


@pytest.mark.parametrize("template", [None, "Question: {source} Answer:"])
@pytest.mark.parametrize(("truncation", "shown"), [("end", "a b c d"), ("start", "g h i j"), ("middle", "a b i j")])
def test_both_read_the_same_part_of_a_source_and_templates_stay_whole(template, truncation, shown):
    framing = 1 if template is None else 3
    built = encoder(
        source_template=template, teacher_template="Say: {source} Answer:", max_source_length=4 + framing,
        source_truncation=truncation,
    )  # fmt: skip
    row = built.encode({"source": LONG, "target": "b"})
    expected = shown if template is None else template.replace("{source}", shown)
    assert row["input_ids"] == ids(f"{expected} </s>")
    assert row["teacher_prompt_ids"] == ids(f"<s> Say: {shown} Answer:")


def test_a_tokenizer_without_spans_cuts_between_characters():
    built = RowEncoder(
        tokenizer=ByT5Tokenizer(), teacher_tokenizer=ByT5Tokenizer(), max_source_length=9, source_template="«{source}»"
    )
    row = built.encode({"source": "größer als", "target": "ja"})
    assert ByT5Tokenizer().decode(row["input_ids"], skip_special_tokens=True) == "«grö»"
    assert len(row["input_ids"]) == 9
    assert ByT5Tokenizer().decode(row["teacher_prompt_ids"]) == "grö\n"


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_source_of_which_nothing_fits_is_refused(length):
    built = encoder(source_template="Question: {source} Answer:", max_source_length=length)
    with pytest.raises(ValueError, match=f"max_source_length is {length}, which has no room for any of the source"):
        built.encode({"source": LONG, "target": "b"})


MESSAGES = [
    {"role": "user", "content": "a b"},
    {"role": "assistant", "content": "c"},
    {"role": "user", "content": "d"},
]


@pytest.mark.parametrize(
    ("row", "options", "prompt"),
    [
        ({"teacher_prompt": "Say: e"}, {"teacher_template": "Say: {source}", "chat_template": CHAT}, "<s> Say: e"),
        ({"messages": MESSAGES[:1]}, {"chat_template": CHAT}, "<|user|> a b <|end|> <|assistant|>"),
        ({}, {"teacher_template": "Say: {source}", "chat_template": CHAT}, "<s> Say: a"),
        ({}, {"chat_template": CHAT}, "<|user|> a <|end|> <|assistant|>"),
        ({}, {}, "<s> a"),
        # an end of the tokenizer's is no part of an open prompt
        ({}, {"teacher_frame": "bart"}, "<s> a"),
    ],
)
def test_the_teachers_prompt_is_the_rows_own_or_else_the_source_in_a_template(row, options, prompt):
    encoded = encoder(**options).encode({"source": "a", "target": "b"} | row)
    assert encoded["teacher_prompt_ids"] == ids(prompt)
    assert encoded["input_ids"] == ids("a </s>")
    assert encoded["labels"] == ids("b </s>")


def test_an_answer_at_the_end_of_a_conversation_is_the_target_and_never_in_the_prompt():
    built = encoder(chat_template=CHAT)
    prompt = ids("<|user|> a b <|end|> <|assistant|> c <|end|> <|user|> d <|end|> <|assistant|>")
    answered = {"messages": [*MESSAGES, {"role": "assistant", "content": "e f"}]}
    row = built.encode(answered)
    assert row == {"input_ids": ids("a b c d </s>"), "labels": ids("e f </s>"), "teacher_prompt_ids": prompt}
    # a target or source of the row's own has the last word, and the answer is in no prompt either
    row = built.encode(answered | {"target": "g", "source": "h"})
    assert row == {"input_ids": ids("h </s>"), "labels": ids("g </s>"), "teacher_prompt_ids": prompt}
    assert built.encode({"messages": MESSAGES, "target": "g"})["teacher_prompt_ids"] == prompt


def test_a_source_of_messages_is_their_contents_with_blank_lines_between():
    tokenizer = ByT5Tokenizer()
    built = RowEncoder(tokenizer=tokenizer, teacher_tokenizer=build(chat_template=CHAT))
    row = built.encode({"messages": [*MESSAGES, {"role": "assistant", "content": "e"}]})
    assert tokenizer.decode(row["input_ids"], skip_special_tokens=True) == "a b\n\nc\n\nd"


def test_it_is_told_where_only_the_students_source_is_cut(warnings_of_the_library):
    built = encoder(chat_template=CHAT, max_source_length=3)
    built.encode({"source": LONG, "target": "b"})
    assert warnings_of_the_library() == []
    built.encode({"source": LONG, "target": "b", "teacher_prompt": LONG})
    assert "it may know more than the student" in warnings_of_the_library()[0]


def test_each_row_has_its_adapter():
    built = encoder(adapter_indices={"french": 0, "german": 1})
    columns = {"source": ["a", "b"], "target": ["c", "d"], "teacher": ["german", "french"]}
    assert built(columns)["teacher_index"] == [1, 0]
    with pytest.raises(ValueError, match=r"row 1: its teacher is 'latin', .* \['french', 'german'\]"):
        built(columns | {"teacher": ["german", "latin"]})


# another tokenizer with other ids
OTHER = ["<pad>", "</s>", "<unk>", "<s>", *"jihgfedcba"]


def align(ours, theirs, tokenizer, teacher_tokenizer):
    """Of tokens that are words: places of the same word."""
    mine, others = tokenizer.convert_ids_to_tokens(ours), teacher_tokenizer.convert_ids_to_tokens(theirs)
    return [(i, i) for i, (one, other) in enumerate(zip(mine, others, strict=True)) if one == other]


@pytest.mark.parametrize(("most", "theirs"), [(None, "b c d </s>"), (4, "b c d </s>"), (3, "b c d"), (2, "b c")])
def test_another_tokenizer_reads_as_much_of_the_target(most, theirs):
    built = RowEncoder(tokenizer=build(), teacher_tokenizer=build(words=OTHER), align=align, max_target_length=most)
    row = built.encode({"source": "a", "target": "b c d"})
    assert row["teacher_labels"] == [OTHER.index(word) for word in theirs.split()]
    assert row["labels"] == ids("b c d </s>")[:most]
    assert row["aligned"] == [[i, i] for i in range(len(row["labels"]))]


def test_another_tokenizers_end_is_that_of_its_answers():
    built = RowEncoder(
        tokenizer=build(), teacher_tokenizer=build(words=OTHER), align=align, teacher_eos_token_id=OTHER.index("a")
    )
    assert built.encode({"source": "a", "target": "b"})["teacher_labels"][-1] == OTHER.index("a")
    with pytest.raises(ValueError, match="give teacher_eos_token_id"):
        RowEncoder(tokenizer=build(), teacher_tokenizer=build(words=OTHER, eos_token=None), align=align)


def test_bytes_that_are_cut_within_a_character_leave_the_teacher_whole_characters():
    built = RowEncoder(
        tokenizer=ByT5Tokenizer(), teacher_tokenizer=ByT5Tokenizer(), max_target_length=4,
        align=lambda ours, theirs, *_: [],
    )  # fmt: skip
    row = built.encode({"source": "a", "target": "größe"})
    assert ByT5Tokenizer().decode(row["teacher_labels"]) == "grö"
    assert row["labels"] == row["teacher_labels"]
    with pytest.raises(ValueError, match="max_target_length is 4, which leaves nothing of the target"):
        RowEncoder(
            tokenizer=ByT5Tokenizer(), teacher_tokenizer=build(), max_target_length=4, align=lambda *_: []
        ).encode({"source": "a", "target": "    ö"})


def test_a_row_that_the_teacher_cannot_read_is_named():
    built = encoder(teacher_max_length=6)
    columns = {"source": ["a b c", "a b c d"], "target": ["b", "b"]}
    with pytest.raises(
        ValueError, match=r"row 1: the teacher would read a prompt of 5 and a target of 2 tokens, .* 6"
    ):
        built(columns)
    assert len(built({name: values[:1] for name, values in columns.items()})["labels"]) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"target": ""}, "row 7: its target is ''"),
        ({"target": " \n"}, "row 7: its target is"),
        ({"target": None}, "row 7: its target is None"),
        ({"source": ""}, "row 7: its source is ''"),
        ({"source": None}, "row 7: its source is None"),
        ({"teacher_prompt": ""}, "row 7: its teacher_prompt is ''"),
        ({"messages": []}, "row 7: its messages have nothing that the assistant could answer"),
        ({"messages": None}, "row 7: its messages have nothing that the assistant could answer"),
        ({"messages": [{"role": "assistant", "content": "b"}]}, "nothing that the assistant could answer"),
        ({"messages": [{"role": "user", "content": None}]}, "row 7: it has the message .* both text"),
    ],
)
def test_rows_of_which_nothing_is_learned_are_refused(row, message):
    columns = {name: [value] for name, value in ({"source": "a", "target": "b"} | row).items()}
    with pytest.raises(ValueError, match=message):
        encoder(chat_template=CHAT)(columns, [7])


def test_a_target_that_the_tokenizer_makes_nothing_of_is_refused():
    tokenizer = build()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split("~", "removed")
    built = RowEncoder(tokenizer=tokenizer, teacher_tokenizer=build())
    with pytest.raises(ValueError, match="the target '~' has no tokens but special ones"):
        built.encode({"source": "a", "target": "~"})


def test_messages_without_an_answer_need_a_target():
    with pytest.raises(ValueError, match="row 0: its target is None"):
        encoder(chat_template=CHAT)({"messages": [MESSAGES]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source_truncation": "left"}, "source_truncation is 'left'"),
        ({"source_template": "Question:"}, r"source_template is 'Question:', but it has \{source\} once"),
        ({"teacher_template": "{source} {source}"}, "teacher_template is"),
        ({"max_source_length": 0}, "max_source_length is 0"),
        ({"max_target_length": -1}, "max_target_length is -1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        encoder(**options)


def test_targets_need_an_end():
    with pytest.raises(ValueError, match="the student's tokenizer has no eos_token"):
        RowEncoder(tokenizer=build(eos_token=None), teacher_tokenizer=build())


ROWS = {"source": ["a", "b c", LONG], "target": ["b", LONG, "c"], "number": [1, 2, 3]}


def streamed(rows, *, is_known=True):
    dataset = Dataset.from_dict(rows)
    return dataset.to_iterable_dataset() if is_known else IterableDataset.from_generator(lambda: iter(dataset))


@pytest.mark.parametrize("batch_size", [1, 2, 1000])
def test_datasets_of_all_kinds_are_encoded_alike(batch_size):
    built = encoder(max_source_length=5)
    rows = [built.encode({"source": one, "target": other}) for one, other, _ in zip(*ROWS.values(), strict=True)]
    expected = [row | {"number": number} for row, number in zip(rows, ROWS["number"], strict=True)]
    for dataset in (Dataset.from_dict(ROWS), streamed(ROWS), streamed(ROWS, is_known=False)):
        encoded = encode_rows(dataset, built, batch_size=batch_size)
        assert isinstance(encoded, type(dataset))
        assert list(encoded) == expected
        # a stream can be read again
        assert list(encoded) == expected
        assert is_encoded(next(iter(encoded)))


def test_columns_have_types_also_where_the_first_rows_are_empty():
    # no pair in the first batch that is written, and one in the second
    built = RowEncoder(
        tokenizer=build(), teacher_tokenizer=build(words=OTHER), adapter_indices={"one": 3},
        align=lambda ours, *_: [(0, 0)] * (len(ours) - 2),
    )  # fmt: skip
    rows = {"source": ["a"] * 2, "target": ["b", "b c"], "teacher": ["one"] * 2}
    for dataset in (Dataset.from_dict(rows), streamed(rows)):
        encoded = encode_rows(dataset, built, batch_size=1)
        assert [row["aligned"] for row in encoded] == [[], [[0, 0]]]
        assert [row["teacher_index"] for row in encoded] == [3, 3]
        assert encoded.features["aligned"].feature.feature.dtype == "int32"


def test_a_dataset_of_conversations_needs_no_other_column():
    dataset = Dataset.from_dict({"messages": [[*MESSAGES, {"role": "assistant", "content": "e f"}]]})
    encoded = encode_rows(dataset, encoder(chat_template=CHAT))
    assert sorted(encoded.column_names) == ["input_ids", "labels", "teacher_prompt_ids"]
    assert words(encoded[0]["labels"]) == "e f </s>"


def test_the_same_texts_are_found_in_the_cache_of_datasets(tmp_path):
    dataset = Dataset.from_dict(ROWS)
    dataset.save_to_disk(tmp_path)
    built = encoder(max_source_length=5)
    first, second = (encode_rows(Dataset.load_from_disk(tmp_path), built) for _ in range(2))
    assert first._fingerprint == second._fingerprint
    assert first.cache_files == second.cache_files
    assert first.cache_files


def test_the_row_of_a_dataset_is_named():
    dataset = Dataset.from_dict({"source": ["a"] * 5, "target": ["b", "b", "b", " ", "b"]})
    for given in (dataset, dataset.to_iterable_dataset()):
        with pytest.raises(ValueError, match="row 3: its target is ' '"):
            list(encode_rows(given, encoder(), batch_size=2))


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["source"], r"no column target, it has \['source'\]: rename"),
        (["text"], r"no column source and no column target, it has \['text'\]"),
        (["source", "target", "teacher_prompt", "messages"], "has teacher_prompt and messages"),
        (["source", "target", "teacher"], "column teacher, but the teacher has no named adapters"),
        (["source", "target", "labels"], r"also the columns \['labels'\]"),
    ],
)
def test_columns_that_cannot_be_encoded_are_refused_at_once(columns, message, is_known):
    with pytest.raises(ValueError, match=message):
        encode_rows(streamed({name: ["a"] for name in columns}, is_known=is_known), encoder())


def test_encoded_rows_are_recognised():
    assert is_encoded(["labels", "teacher_prompt_ids", "input_ids", "number"])
    assert not is_encoded(["labels", "input_ids"])
    assert not is_encoded(["source", "target"])


def test_a_row_has_a_key_of_its_own():
    rows = [([1, 2], [3]), ([1], [2, 3]), ([1, 2, 3], []), ([2, 1], [3]), ([1, 2], [4]), ([2, 1, 2], [3])]
    keys = [row_key(*row) for row in rows]
    assert len(set(keys)) == len(rows)
    assert keys == [row_key(tuple(prompt), tuple(target)) for prompt, target in rows]
    # what a cache that was written elsewhere is searched by
    assert keys[0] == sha256(struct.pack("<4q", 2, 1, 2, 3)).hexdigest()
