"""Chunks are the texts, in order and whole, whether they are streamed or not."""

import pytest
from datasets import Dataset, IterableDataset

from encdec_slm.adaptation import chunk_texts


LETTERS = "abcdefghij"
DOCUMENTS = [" ".join(LETTERS[row % 10] for _ in range(length)) for row, length in enumerate([3, 20, 0, 1, 9, 7, 30])]
ROWS = {"text": [*DOCUMENTS, " \n", None], "other": list(range(9))}


@pytest.fixture
def dataset():
    return Dataset.from_dict(ROWS)


@pytest.fixture
def ids(tokenizer):
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in DOCUMENTS if text]


def test_packed_chunks_are_the_documents_in_a_row(dataset, tokenizer, ids):
    chunks = chunk_texts(dataset, tokenizer, chunk_length=16, min_chunk_length=2)
    assert chunks.column_names == ["input_ids"]
    row = [token for document in ids for token in [*document, 2]]
    assert [token for chunk in chunks["input_ids"] for token in chunk] == row
    assert {len(chunk) for chunk in chunks["input_ids"][:-1]} == {16}


def test_chunks_of_documents_apart_mix_nothing(dataset, tokenizer, ids):
    chunks = chunk_texts(dataset, tokenizer, chunk_length=8, min_chunk_length=2, pack=False)["input_ids"]
    assert all(len(set(chunk)) == 1 and 2 <= len(chunk) <= 8 for chunk in chunks)
    # of the documents nothing is missing but rests of one token
    expected = [8 * (len(document) // 8) + (len(document) % 8) * (len(document) % 8 > 1) for document in ids]
    assert [sum(len(c) for c in chunks if c[0] == document[0]) for document in ids] == expected


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("batch_size", [2, 1000])
def test_streaming_gives_the_same_chunks(dataset, tokenizer, pack, batch_size):
    options = {"chunk_length": 8, "min_chunk_length": 3, "pack": pack, "batch_size": batch_size}
    expected = chunk_texts(dataset, tokenizer, **options).to_list()
    assert expected
    stream = dataset.to_iterable_dataset()
    chunks = chunk_texts(stream, tokenizer, **options)
    assert isinstance(chunks, IterableDataset)
    assert list(chunks) == expected
    # it can be read again, also where it does not know its columns
    assert list(chunks) == expected
    unknown = IterableDataset.from_generator(lambda: iter(dataset.to_list()))
    assert unknown.column_names is None
    assert list(chunk_texts(unknown, tokenizer, **options)) == expected


def test_short_rests_are_left_out(dataset, tokenizer):
    assert len(chunk_texts(dataset, tokenizer, chunk_length=60, min_chunk_length=17)) == 1
    assert len(chunk_texts(dataset, tokenizer, chunk_length=60, min_chunk_length=16)) == 2
    assert len(chunk_texts(dataset.select([2, 7, 8]), tokenizer, chunk_length=60)) == 0


def test_another_column_may_have_the_text(dataset, tokenizer):
    renamed = dataset.rename_column("text", "body")
    chunks = chunk_texts(renamed, tokenizer, chunk_length=16, text_column="body")
    assert chunks.to_list() == chunk_texts(dataset, tokenizer, chunk_length=16).to_list()


@pytest.mark.parametrize("streaming", [False, True])
def test_a_missing_column_is_named(dataset, tokenizer, streaming):
    dataset = dataset.to_iterable_dataset() if streaming else dataset
    with pytest.raises(ValueError, match=r"no column 'body', it has \['text', 'other'\]"):
        chunk_texts(dataset, tokenizer, chunk_length=16, text_column="body")


@pytest.mark.parametrize(("chunk_length", "min_chunk_length"), [(4, 8), (8, 1)])
def test_lengths_that_do_not_fit_are_refused(dataset, tokenizer, chunk_length, min_chunk_length):
    with pytest.raises(ValueError, match=f"min_chunk_length is {min_chunk_length} and chunk_length {chunk_length}"):
        chunk_texts(dataset, tokenizer, chunk_length=chunk_length, min_chunk_length=min_chunk_length)


def test_packed_documents_need_an_end(dataset, build_tokenizer):
    tokenizer = build_tokenizer("none", eos_token=None)
    with pytest.raises(ValueError, match="no eos_token"):
        chunk_texts(dataset, tokenizer, chunk_length=16)
    assert len(chunk_texts(dataset, tokenizer, chunk_length=16, pack=False))
