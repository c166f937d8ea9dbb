"""A text is cut to as many tokens as fit, and what is left of it is its own characters in their order."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from encdec_slm.distillation.text_tokens import count_tokens, cut_text, frame_text, token_spans


TEXT = "The café's  menu: 3 naïve 🍰🍰, one piñata\nand a very, very long sentence at its end."
TRUNCATIONS = ("end", "start", "middle")


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([TEXT, "a very long sentence and the end"], trainer)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def words():
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


# bytes of a tokenizer that cannot tell its spans; tokens with blanks, and without
TOKENIZERS = {"bytes": ByT5Tokenizer, "byte-level": byte_level, "words": words}


@pytest.fixture(params=sorted(TOKENIZERS))
def tokenizer(request):
    return TOKENIZERS[request.param]()


def cut(tokenizer, text, most, truncation):
    return cut_text(
        text,
        max_tokens=most,
        count=lambda part: count_tokens(tokenizer, part),
        spans=lambda: token_spans(tokenizer, text),
        truncation=truncation,
    )


@pytest.mark.parametrize("truncation", TRUNCATIONS)
def test_what_is_left_fits_and_is_of_the_text(tokenizer, truncation):
    whole = count_tokens(tokenizer, TEXT)
    lengths = []
    for most in range(3, whole + 2):
        left = cut(tokenizer, TEXT, most, truncation)
        lengths.append(len(left))
        assert left == TEXT if most >= whole else count_tokens(tokenizer, left) <= most
        if truncation == "end":
            assert TEXT.startswith(left)
        elif truncation == "start":
            assert TEXT.endswith(left)
        else:
            assert any(TEXT.startswith(left[:i]) and TEXT.endswith(left[i:]) for i in range(len(left) + 1))
    assert lengths == sorted(lengths)
    assert lengths[0] < len(TEXT) / 2


@pytest.mark.parametrize("truncation", TRUNCATIONS)
def test_no_more_of_the_text_would_have_fitted(tokenizer, truncation):
    # a character has at most four tokens, and none is cut
    for most in range(10, count_tokens(tokenizer, TEXT)):
        assert count_tokens(tokenizer, cut(tokenizer, TEXT, most, truncation)) > most - 5


def test_words_on_both_sides_of_a_cut_stay_words():
    assert cut(words(), "a b c d e f", 4, "middle") == "a b f"
    assert cut(words(), "a b c d e f", 4, "end") == "a b c"
    assert cut(words(), "a b c d e f", 4, "start") == "d e f"


def test_nothing_is_left_where_nothing_fits(tokenizer):
    for truncation in TRUNCATIONS:
        # special tokens alone
        assert cut(tokenizer, TEXT, count_tokens(tokenizer, ""), truncation) == ""


def test_spans_of_a_part_are_counted_from_its_start():
    text = "one: two three four"
    assert token_spans(words(), text, start=5, end=14) == [(0, 3), (4, 9)]
    # a token that reaches into the part
    assert token_spans(words(), text, start=2, end=8) == [(0, 2), (3, 6)]
    assert token_spans(words(), text) == [(0, 4), (5, 8), (9, 14), (15, 19)]
    assert token_spans(ByT5Tokenizer(), text) is None


def test_a_frame_is_what_the_tokenizer_adds_and_not_what_the_text_has():
    framed = frame_text(byte_level(), "<s> a</s>")
    assert (framed.before, framed.after, framed.is_empty) == (1, 1, False)
    assert framed.ids[:2] == [0, 0]
    assert framed.ids[-2:] == [1, 1]
    assert frame_text(byte_level(), "").is_empty
    assert frame_text(words(), "\n").is_empty
    assert frame_text(ByT5Tokenizer(), "", target=True).is_empty
    assert frame_text(ByT5Tokenizer(), "a", target=True) == frame_text(ByT5Tokenizer(), "a")
