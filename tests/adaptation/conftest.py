"""Tokenizers that frame a text in the three common ways, with sentinels, and a tiny model of three families."""

from string import ascii_lowercase

import pytest
from model_tester import ModelTester
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)


SENTINELS = 24
WORDS = ["<pad>", "<s>", "</s>", "<unk>", *ascii_lowercase, *(f"w{i}" for i in range(30, 60))]
FIRST_WORD, VOCAB_SIZE = 4, len(WORDS) + SENTINELS
# what T5, BART and decoder-only models have
FRAMES = {"end": "$A </s>", "both": "<s> $A </s>", "start": "<s> $A", "none": None}


@pytest.fixture
def build_tokenizer():
    """Returns a function that makes a tokenizer of words: pad 0, bos 1, eos 2, unknown 3, words 4 to 59."""

    def build(frame="end", sentinels=SENTINELS, **roles):
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        if FRAMES[frame]:
            tokenizer.post_processor = processors.TemplateProcessing(
                single=FRAMES[frame], special_tokens=[("<s>", 1), ("</s>", 2)]
            )
        roles = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **roles}
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, extra_special_tokens=[f"<extra_id_{i}>" for i in range(sentinels)], **roles
        )

    return build


@pytest.fixture
def tokenizer(build_tokenizer):
    return build_tokenizer()


@pytest.fixture
def build_model():
    """Returns a function that makes a tiny random model of a family, for the vocabulary of the tokenizers."""

    def build(family, vocab_size=VOCAB_SIZE):
        set_seed(0)
        if family == "t5":
            config = T5Config(
                vocab_size=vocab_size, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, eos_token_id=2,
                dropout_rate=0.1, decoder_start_token_id=0,
            )  # fmt: skip
            return T5ForConditionalGeneration(config)
        if family == "bart":
            config = BartConfig(
                vocab_size=vocab_size, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
                decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64,
                pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2, init_std=0.1,
            )  # fmt: skip
            return BartForConditionalGeneration(config)
        return ModelTester(both={"vocab_size": vocab_size}).model(initializer_range=0.1)

    return build
