"""Tokenizers of converted and new models: loaded, held against the model, and made to pad as it was trained."""

from os import PathLike
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase


def load_tokenizer(folder: str | PathLike[str], vocab_size: int | None = None) -> PreTrainedTokenizerBase:
    """Returns the tokenizer of a local folder.

    Args:
        folder: Folder of a saved tokenizer; nothing is fetched from the Hub.
        vocab_size: Number of embeddings; every token must have one.

    Raises:
        ValueError: If there is no such folder, no tokenizer in it, or one with a token id outside the vocabulary.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"the folder {folder} does not exist")
    return load_checkpoint_tokenizer(folder, vocab_size, local_files_only=True, trust_remote_code=False)


def load_checkpoint_tokenizer(
    name_or_path: str | PathLike[str], vocab_size: int | None = None, **options: Any
) -> PreTrainedTokenizerBase:
    """Returns the tokenizer of a folder or a repository.

    Args:
        name_or_path: As in `AutoTokenizer.from_pretrained`, which `options` are for.
        vocab_size: Number of embeddings; every token must have one.
        options: `revision`, `gguf_file` and others.

    Raises:
        ValueError: If no tokenizer can be loaded, or it has a token id outside the vocabulary.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, **options)
    # a damaged tokenizer.json is a bare Exception of the tokenizers library
    except Exception as error:
        raise ValueError(f"no tokenizer can be loaded from {name_or_path}: {error}") from error
    if vocab_size is not None:
        check_vocab_size(tokenizer, vocab_size)
    return tokenizer


def check_vocab_size(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    """Checks that every token has an embedding.

    Raises:
        ValueError: If a token id is outside the vocabulary.
    """
    if smallest_vocab_size(tokenizer) > vocab_size:
        raise ValueError(
            f"the tokenizer in {tokenizer.name_or_path} has the token id {smallest_vocab_size(tokenizer) - 1}, but "
            f"the model has only {vocab_size} tokens"
        )


def smallest_vocab_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns how many embeddings a model needs for every token of the tokenizer, whose ids may have gaps."""
    return 1 + max(tokenizer.get_vocab().values(), default=-1)


def add_image_token(tokenizer: PreTrainedTokenizerBase, vocab_size: int, token: str) -> int:
    """Returns the id of the token that stands for an image, which the tokenizer is given if it has none.

    Raises:
        ValueError: If the model has no embedding left for it.
    """
    if token not in tokenizer.get_vocab():
        tokenizer.add_tokens([token], special_tokens=True)
    token_id = tokenizer.get_vocab()[token]
    if token_id >= vocab_size:
        raise ValueError(
            f"the tokenizer in {tokenizer.name_or_path} has no {token!r}, and the model has no embedding left for it: "
            f"its {vocab_size} are all taken. Rename a token of the tokenizer that no text needs to {token!r}"
        )
    return token_id


def agree_on_token_id(name: str, stated: int | None, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Returns the id that is stated for the special token `name`, or else the tokenizer's.

    Raises:
        ValueError: If both have one and they differ.
    """
    found = getattr(tokenizer, name)
    if stated is not None and found is not None and stated != found:
        raise ValueError(f"{name} is {stated} in the configuration but {found} in the tokenizer: change one of them")
    return found if stated is None else stated


def pad_like_the_model(tokenizer: PreTrainedTokenizerBase, pad_token_id: int) -> None:
    """Lets the tokenizer pad with the model's token, on the right (labels too: they start the decoder input).

    A tokenizer without a padding token of its own, or that borrows another special token, is changed; the released
    model's is one, whose model pads with `<unk>`.

    Raises:
        ValueError: If the tokenizer has a padding token of its own, or the model's is an ordinary token or one with
            another role in the tokenizer.
    """
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id == pad_token_id:
        return
    if tokenizer.pad_token_id not in (None, tokenizer.eos_token_id, tokenizer.unk_token_id):
        raise ValueError(
            f"pad_token_id is {pad_token_id} in the model but {tokenizer.pad_token_id} in the tokenizer: state the "
            "model's in a configuration file, or change the tokenizer's"
        )
    token = tokenizer.convert_ids_to_tokens(pad_token_id)
    if pad_token_id not in tokenizer.all_special_ids or pad_token_id in (
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
    ):
        raise ValueError(
            f"the model pads with the token id {pad_token_id}, which is {token!r} in the tokenizer and not for "
            "padding: they do not belong together"
        )
    tokenizer.pad_token = token
