"""The tokens that stand for a hidden span: found in a tokenizer, or added to it and to the model."""

from itertools import count as count_from
from typing import cast

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase


# T5's name for them, which UL2 and mT5 share
SENTINEL = "<extra_id_{}>"


def sentinel_ids(tokenizer: PreTrainedTokenizerBase, count: int | None = None) -> list[int]:
    """Returns the ids of the sentinels, from the first on. T5's ids descend.

    Args:
        tokenizer: A tokenizer that has them, such as T5's.
        count: How many; all if not given.

    Raises:
        ValueError: If there are fewer than `count`.
    """
    vocabulary = tokenizer.get_vocab()
    found: list[int] = []
    for index in count_from():
        token = SENTINEL.format(index)
        if token not in vocabulary or len(found) == count:
            break
        found.append(vocabulary[token])
    if count is not None and len(found) < count:
        raise ValueError(
            f"{count} sentinels are needed, but the tokenizer has {len(found)} ({SENTINEL.format(0)} and so on): add "
            "them with `add_sentinels`"
        )
    return found


def add_sentinels(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, count: int) -> list[int]:
    """Gives the tokenizer as many sentinels, as special tokens, and the model an embedding for each.

    What is there already is kept: tokens that the tokenizer has, and the rows of an embedding that is larger than the
    vocabulary. New rows begin near the mean of the old ones. Safe to call again.

    Args:
        tokenizer: Changed in place.
        model: Changed in place. Build an optimizer afterwards.
        count: How many there shall be.

    Returns:
        The ids of the sentinels, from the first on.
    """
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in map(SENTINEL.format, range(count)) if token not in vocabulary]
    if missing:
        tokenizer.add_special_tokens({"extra_special_tokens": missing}, replace_extra_special_tokens=False)
    ids = sentinel_ids(tokenizer, count)
    rows = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
    # by the largest id of all: the vocabulary may have gaps
    needed = 1 + max(tokenizer.get_vocab().values())
    if ids and max(ids) >= rows:
        model.resize_token_embeddings(needed)
    return ids
