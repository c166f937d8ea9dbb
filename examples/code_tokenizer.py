"""A vocabulary for code, small enough for a small model."""

import re
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast


SPECIAL_TOKENS = ("<pad>", "<s>", "</s>")
# the parts of a name: "parseHTTPRequest" is "parse", "HTTP", "Request"
PARTS_OF_NAMES = r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])"
PART_OF_A_NAME = re.compile(PARTS_OF_NAMES)


def train_tokenizer(texts: Iterable[str], vocab_size: int = 4_000) -> PreTrainedTokenizerFast:
    """Byte-level BPE within the parts of names, so that a part has the same tokens in whatever name it stands.

    So it is within what stands between names and digits, where `();}` may be one token. A digit is a token of its own.
    What is decoded is what was encoded, character by character.

    Args:
        texts: To learn the vocabulary from.
        vocab_size: Most tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(rf"{PARTS_OF_NAMES}|[0-9]|[^A-Za-z0-9]+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    pad, bos, eos = SPECIAL_TOKENS
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {eos}", special_tokens=[(eos, tokenizer.token_to_id(eos))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, bos_token=bos, eos_token=eos)
