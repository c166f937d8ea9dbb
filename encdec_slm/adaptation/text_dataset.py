"""Any text dataset of the `datasets` library, map-style or streaming, as chunks of token ids."""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from transformers import PreTrainedTokenizerBase


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    TextDataset = TypeVar("TextDataset", Dataset, IterableDataset)


def chunk_texts(
    dataset: "TextDataset",
    tokenizer: PreTrainedTokenizerBase,
    *,
    chunk_length: int,
    min_chunk_length: int = 8,
    text_column: str = "text",
    pack: bool = True,
    batch_size: int = 1000,
    num_proc: int | None = None,
) -> "TextDataset":
    """Returns a dataset of the same kind with one column, `input_ids`: chunks of the texts without a frame.

    Args:
        dataset: Rows with a document each; empty ones are left out.
        tokenizer: Its special tokens are not added, except as said for `pack`.
        chunk_length: Most tokens of a chunk.
        min_chunk_length: A shorter rest of a document, or of a batch of packed ones, is left out.
        text_column: Where the text is.
        pack: Whether to put documents in a row, each ended by the end-of-sequence token, and cut the row into chunks;
            otherwise no chunk has tokens of two documents.
        batch_size: Rows that are packed together.
        num_proc: Processes; only for a map-style dataset.

    Raises:
        ValueError: If there is no such column, the lengths do not fit, or the tokenizer has no end-of-sequence token.
    """
    if not 2 <= min_chunk_length <= chunk_length:
        raise ValueError(
            f"min_chunk_length is {min_chunk_length} and chunk_length {chunk_length}, but chunks have at least 2 "
            "tokens and at most chunk_length"
        )
    if pack and tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no eos_token to end the packed documents: set it, or keep them apart")
    # a streamed dataset need not know its columns before it is read
    if dataset.column_names is not None and text_column not in dataset.column_names:
        raise ValueError(f"the dataset has no column {text_column!r}, it has {dataset.column_names}")
    # of a function of this module, so that the cache of `datasets` knows it again
    chunk = partial(
        _chunk_batch,
        tokenizer=tokenizer,
        text_column=text_column,
        chunk_length=chunk_length,
        min_chunk_length=min_chunk_length,
        pack=pack,
    )
    options: dict[str, Any] = {"batched": True, "batch_size": batch_size, "remove_columns": [text_column]}
    if _is_map_style(dataset):
        options |= {"num_proc": num_proc, "desc": "Tokenizing"}
    return dataset.select_columns([text_column]).map(chunk, **options)


def _is_map_style(dataset: "Dataset | IterableDataset") -> bool:
    from datasets import Dataset

    return isinstance(dataset, Dataset)


def _chunk_batch(
    batch: dict[str, list[str | None]],
    *,
    tokenizer: PreTrainedTokenizerBase,
    text_column: str,
    chunk_length: int,
    min_chunk_length: int,
    pack: bool,
) -> dict[str, list[list[int]]]:
    texts = [text for text in batch[text_column] if text and not text.isspace()]
    documents = _tokenize(texts, tokenizer)
    if pack:
        documents = [list(chain.from_iterable([*document, tokenizer.eos_token_id] for document in documents))]
    return {
        "input_ids": [
            chunk
            for document in documents
            for chunk in _chunks(document, chunk_length)
            if len(chunk) >= min_chunk_length
        ]
    }


def _tokenize(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> Iterable[list[int]]:
    if not texts:
        return []
    # without `verbose` it does not warn of texts that are longer than the model reads
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    return [ids for ids in encoded["input_ids"] if ids]


def _chunks(document: list[int], length: int) -> Iterator[list[int]]:
    return (document[start : start + length] for start in range(0, len(document), length))
