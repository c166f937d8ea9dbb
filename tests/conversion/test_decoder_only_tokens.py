"""Every token of the new model is one of the source's; what had to be chosen is told, and an end is not lost."""

import pytest
from decoder_only_sources import VOCAB_SIZE, make_source
from transformers import AutoTokenizer, DataCollatorForSeq2Seq, GenerationConfig, LlamaConfig
from word_tokenizers import save_word_tokenizer

from encdec_slm.conversion import convert_decoder_only, from_decoder_only
from encdec_slm.conversion.decoder_only_tokens import TokenIds


WORDS = ["<unk>", "<s>", "</s>", "<end>", "<|reserved_0|>", "<|right_pad|>", *(f"w{i}" for i in range(6, VOCAB_SIZE))]


@pytest.fixture
def tokenizer_with(tmp_path):
    """Returns a tokenizer with these roles, and special tokens without a role."""

    def load(spare=(), **roles):
        folder = save_word_tokenizer(tmp_path / "tokenizer", WORDS, extra_special_tokens=list(spare), **roles)
        return AutoTokenizer.from_pretrained(folder)

    return load


def config(**ids):
    return LlamaConfig(vocab_size=VOCAB_SIZE, **{"bos_token_id": None, "eos_token_id": None, **ids})


def test_tokens_of_the_source_are_kept(tokenizer_with):
    tokenizer = tokenizer_with(bos_token="<s>", eos_token="</s>", pad_token="<|right_pad|>")
    tokens = TokenIds.of_decoder_only(config(bos_token_id=7, eos_token_id=2, pad_token_id=9), None, tokenizer)
    assert tokens == TokenIds(bos_token_id=1, eos_token_id=2, pad_token_id=5, decoder_start_token_id=1)


def test_configuration_tells_what_a_missing_tokenizer_cannot():
    tokens = TokenIds.of_decoder_only(config(bos_token_id=7, eos_token_id=[2, 3], pad_token_id=3))
    assert tokens == TokenIds(bos_token_id=7, eos_token_id=[2, 3], pad_token_id=3, decoder_start_token_id=7)


def test_generation_configuration_wins_over_the_configuration():
    generation = GenerationConfig(eos_token_id=[2, 3], pad_token_id=4)
    tokens = TokenIds.of_decoder_only(config(bos_token_id=1, eos_token_id=9, pad_token_id=9), generation)
    assert (tokens.eos_token_id, tokens.pad_token_id, tokens.bos_token_id) == ([2, 3], 4, 1)


@pytest.mark.parametrize(
    ("stated", "expected"), [([2, 3], [2, 3]), ([3], [2, 3]), (2, 2), (None, 2), ([3, 9], [2, 3, 9])]
)
def test_every_end_token_ends(stated, expected, tokenizer_with):
    tokenizer = tokenizer_with(bos_token="<s>", eos_token="</s>", pad_token="<unk>")
    tokens = TokenIds.of_decoder_only(config(), GenerationConfig(eos_token_id=stated), tokenizer)
    assert tokens.eos_token_id == expected


@pytest.mark.parametrize(
    ("spare", "pad"),
    [
        (["<|reserved_0|>", "<|right_pad|>"], 5),
        (["<|reserved_0|>"], 4),
        ([], 0),
    ],
)
@pytest.mark.parametrize("borrowed", [{}, {"pad_token": "</s>"}])
def test_padding_is_a_spare_special_token(spare, pad, borrowed, tokenizer_with):
    tokenizer = tokenizer_with(spare, bos_token="<s>", eos_token="</s>", **borrowed)
    tokens = TokenIds.of_decoder_only(config(bos_token_id=1, eos_token_id=2, pad_token_id=2), None, tokenizer)
    assert tokens.pad_token_id == pad
    (note,) = tokens.notes
    assert f"pads with {pad} ({WORDS[pad]!r})" in note


def test_padding_that_only_the_configuration_tells_is_kept(tokenizer_with):
    tokenizer = tokenizer_with(["<|reserved_0|>", "<end>"], bos_token="<s>", eos_token="</s>")
    tokens = TokenIds.of_decoder_only(config(pad_token_id=3), None, tokenizer)
    assert (tokens.pad_token_id, tokens.notes) == (3, ())
    # a word cannot be for padding
    assert TokenIds.of_decoder_only(config(pad_token_id=9), None, tokenizer).pad_token_id == 4


def test_padding_with_the_end_is_explained(tokenizer_with):
    # the unknown token has a role already
    tokenizer = tokenizer_with(bos_token="<unk>", eos_token="</s>")
    tokens = TokenIds.of_decoder_only(config(), None, tokenizer)
    assert tokens.pad_token_id == tokens.eos_token_id == 2
    assert "by the length of a row" in tokens.notes[0]
    assert TokenIds.of_decoder_only(config(eos_token_id=2)).pad_token_id == 2


def test_padding_of_its_own_stays_even_if_it_may_end_a_sequence(tokenizer_with):
    # Qwen2.5-Instruct: <|im_end|> ends a text, <|endoftext|> pads and also stops
    tokenizer = tokenizer_with(eos_token="<end>", pad_token="</s>")
    tokens = TokenIds.of_decoder_only(config(bos_token_id=2), GenerationConfig(eos_token_id=[3, 2]), tokenizer)
    assert (tokens.eos_token_id, tokens.pad_token_id) == ([3, 2], 2)
    assert (tokens.bos_token_id, tokens.decoder_start_token_id) == (None, 2)
    (note,) = tokens.notes
    assert "no bos token: the decoder starts with 2 ('</s>')" in note


def test_ids_outside_the_vocabulary_are_none():
    tokens = TokenIds.of_decoder_only(config(bos_token_id=1, eos_token_id=2, pad_token_id=-1))
    assert tokens.pad_token_id == 2
    tokens = TokenIds.of_decoder_only(config(bos_token_id=1, eos_token_id=VOCAB_SIZE))
    assert (tokens.eos_token_id, tokens.pad_token_id) == (None, 1)
    assert "no end token" in tokens.notes[-1]


def test_a_source_without_special_tokens_is_refused():
    with pytest.raises(ValueError, match="no sequence could start"):
        TokenIds.of_decoder_only(config())


def test_labels_end_where_padding_is_not_the_end(tokenizer_with, tmp_path):
    """What the choice is for: a collator that pads does not mask the end."""
    tokenizer = tokenizer_with(bos_token="<s>", eos_token="</s>", pad_token="</s>", padding_side="left")
    convert_decoder_only(make_source(pad_token_id=2), tmp_path / "out", tokenizer=tokenizer)
    assert (tokenizer.pad_token, tokenizer.padding_side) == ("</s>", "left")
    saved = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = from_decoder_only(make_source(pad_token_id=2), tokenizer=tokenizer)
    rows = [{"input_ids": [8, 9], "labels": [8, 9, 2]}, {"input_ids": [8], "labels": [9, 2]}]
    batch = DataCollatorForSeq2Seq(saved, model=model)(rows)
    assert batch["input_ids"].tolist() == [[8, 9], [8, 0]]
    assert batch["labels"].tolist() == [[8, 9, 2], [9, 2, -100]]
    assert batch["decoder_input_ids"].tolist() == [[1, 8, 9], [1, 9, 2]]


def test_sampling_defaults_are_not_carried(warnings_of_the_library):
    source = make_source()
    source.generation_config = GenerationConfig(do_sample=True, temperature=0.6, max_length=7, eos_token_id=[2, 3])
    generation = from_decoder_only(source).generation_config
    assert generation.eos_token_id == [2, 3]
    assert not generation.do_sample
    assert generation.max_length != 7
    assert "samples by default" in " ".join(warnings_of_the_library())


def test_tokenizer_must_fit_into_the_vocabulary(tokenizer_with):
    tokenizer = tokenizer_with(bos_token="<s>", eos_token="</s>", pad_token="<unk>")
    with pytest.raises(ValueError, match=f"token id {VOCAB_SIZE - 1}, but the model has only 40 tokens"):
        from_decoder_only(make_source(vocab_size=40), tokenizer=tokenizer)
