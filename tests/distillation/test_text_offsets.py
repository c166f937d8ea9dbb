"""Two tokenizers meet where their texts do, whatever their kind; texts are random, and so are ids."""

import json
import random
import re
import unicodedata
from itertools import pairwise

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from encdec_slm.distillation.text_offsets import aligned_positions, text_offsets


CORPUS = [
    "the cat sat on the mat, and the other cat sat there too",
    "a café in Zürich; naïve façade, smörgåsbord",
    "def add(first, second):\n    return first + second  # 12345",
    "日本語 と 中文 字符 and 😀🎉 emoji",
    "for i in range(100): print(i, i * 2)\t\ttabs",
] * 3
PIECES = [
    *(
        "the",
        "cat",
        "sat",
        "café",
        "naïve",
        "e\u0301",
        "日本",
        "語",
        "😀",
        "👩\u200d🚀",
        "ß",
        "Ω",
        "½",
        "ﬁ",
        "…",
        "12",
        "345",
    ),
    *("def", "f(x):", "return", "x+1", "\t", "\n", "\n    ", "  ", " ", " ", " ", " ", " ", ".", ",", "'s", "{", "</"),
]
SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
METASPACE = "▁"
TEXTS = ["", "the cat", " the cat", "  the  cat ", "\tthe\n\ncat\n", "😀", "😀 😀", "café", "12345", "½ cat"]


def random_text(number):
    source = random.Random(number)
    return "".join(source.choices(PIECES, k=source.randrange(1, 25)))


ALL_TEXTS = TEXTS + [random_text(number) for number in range(60)]


def fast(tokenizer):
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def byte_level():
    """As GPT-2 and SmolLM."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet))
    # an added token is not spelled in the alphabet of the others
    tokenizer.add_tokens([AddedToken("    ", normalized=False)])
    return fast(tokenizer)


def byte_fallback():
    """As Llama 2 and Phi-3."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(METASPACE), normalizers.Replace(" ", METASPACE)])
    tokenizer.train_from_iterator(["the cat sat on a mat 12 café"], trainers.BpeTrainer(vocab_size=60))
    model = json.loads(tokenizer.to_str())["model"]
    tokens = [*SPECIAL.values(), *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    tokenizer.model = models.BPE(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[tuple(merge) for merge in model["merges"]],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(METASPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    return fast(tokenizer)


def unigram():
    """As T5: blanks are lost, and compatibility characters are replaced."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    special = list(SPECIAL.values())
    tokenizer.train_from_iterator(
        [unicodedata.normalize("NFKC", text) for text in (*CORPUS, " ".join(PIECES))],
        trainers.UnigramTrainer(vocab_size=160, special_tokens=special, unk_token="<unk>"),
    )
    return fast(tokenizer)


def word_piece():
    """As BERT, which has the full stop stick to the word before it."""
    words = [*SPECIAL.values(), "the", "cat", "sat", ".", ",", "##s", "##at", "c", "mat"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return fast(tokenizer)


def words(text="<unk> <s> </s> <pad> the cat sat"):
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(text.split())}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return fast(tokenizer)


KINDS = {"byte_level": byte_level, "byte_fallback": byte_fallback, "unigram": unigram, "word_piece": word_piece}
LOSSLESS = ("byte_level", "byte_fallback")


@pytest.fixture(scope="module")
def tokenizers():
    return {name: make() for name, make in KINDS.items()} | {"words": words()}


def encode(tokenizer, text, *, end=True):
    return tokenizer.encode(text, add_special_tokens=False) + [tokenizer.eos_token_id] * end


def decode(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def in_common(text):
    """What is left of a text by T5: not which blanks there are, and how characters are composed."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKD", text)).strip()


def align(tokenizers, first, second, text):
    ids = encode(tokenizers[first], text), encode(tokenizers[second], text)
    return ids, aligned_positions(*ids, tokenizers[first], tokenizers[second])


@pytest.mark.parametrize("second", KINDS)
@pytest.mark.parametrize("first", KINDS)
def test_pairs_are_after_the_same_text(tokenizers, first, second):
    for text in ALL_TEXTS:
        ids, pairs = align(tokenizers, first, second, text)
        for i, j in pairs:
            before = decode(tokenizers[first], ids[0][:i]), decode(tokenizers[second], ids[1][:j])
            if "�" in "".join(before):
                # a part of a character; ByteFallback then has no text for the characters next to it either
                continue
            assert in_common(before[0]) == in_common(before[1])
            if {first, second} <= set(LOSSLESS):
                assert before[0] == before[1]


@pytest.mark.parametrize("second", KINDS)
@pytest.mark.parametrize("first", KINDS)
def test_pairs_increase_and_swap_with_the_sides(tokenizers, first, second):
    for text in ALL_TEXTS:
        ids, pairs = align(tokenizers, first, second, text)
        assert pairs[0] == (0, 0)
        assert all(i < k and j < m for (i, j), (k, m) in pairwise(pairs))
        swapped = aligned_positions(ids[1], ids[0], tokenizers[second], tokenizers[first])
        assert swapped == [(j, i) for i, j in pairs]


@pytest.mark.parametrize("kind", [*KINDS, "words"])
def test_equal_tokenizers_give_the_diagonal(tokenizers, kind):
    for text in ALL_TEXTS:
        (ids, _), pairs = align(tokenizers, kind, kind, text)
        assert pairs == [(i, i) for i in range(len(ids))]


@pytest.mark.parametrize("kind", [*KINDS, "words"])
def test_sampled_ids_give_the_diagonal_and_their_text(tokenizers, kind):
    tokenizer = tokenizers[kind]
    source = random.Random(0)
    for _ in range(30):
        # some ids are in the model and not in its tokenizer
        ids = source.choices(range(len(tokenizer) + 3), k=20)
        assert aligned_positions(ids, ids, tokenizer, tokenizer) == [(i, i) for i in range(20)]
        text = text_offsets(ids, tokenizer).text.replace(b"\xff", b"")
        if tokenizer.unk_token_id not in ids and "�" not in tokenizer.decode(ids):
            assert text.decode().lstrip() == decode(tokenizer, ids).lstrip()


@pytest.mark.parametrize("sides", [("byte_level", "byte_fallback"), ("byte_fallback", "byte_level")])
def test_no_pair_is_missed_where_nothing_is_lost(tokenizers, sides):
    for text in ALL_TEXTS:
        ids, pairs = align(tokenizers, *sides, text)
        # without the ends, and without the dummy blank of one side, which is in front of no text of the other
        before = [
            [tokenizers[side].decode(ids_of_side[:i]) for i in range(len(ids_of_side))]
            for side, ids_of_side in zip(sides, ids, strict=True)
        ]
        expected = {
            (i, j)
            for i, text_of_first in enumerate(before[0])
            for j, text_of_second in enumerate(before[1])
            if text_of_first == text_of_second and "�" not in text_of_first and (i > 0) == (j > 0)
        }
        assert expected <= set(pairs)
        assert all("�" in before[0][i] for i, _ in set(pairs) - expected)
        assert not text or pairs[-1] == (len(ids[0]) - 1, len(ids[1]) - 1)


@pytest.mark.parametrize("sides", [("byte_level", "byte_fallback"), ("byte_level", "unigram")])
def test_ends_are_paired_after_the_same_whole_text(tokenizers, sides):
    first, second = (tokenizers[side] for side in sides)
    text = "the cat sat"
    ended = [encode(tokenizer, text) for tokenizer in (first, second)]
    ends = len(ended[0]) - 1, len(ended[1]) - 1
    assert aligned_positions(*ended, first, second)[-1] == ends
    for cut in ((ended[0][:-1], ended[1]), (ended[0], ended[1][:-1])):
        assert aligned_positions(*cut, first, second) == aligned_positions(*ended, first, second)[:-1]


def test_where_one_side_ends_and_the_other_goes_on(tokenizers):
    """Both say what comes after the same text: the end too has a probability."""
    first, second = tokenizers["byte_level"], tokenizers["unigram"]
    ids = encode(first, "the cat"), encode(second, "the cat sat")
    pairs = aligned_positions(*ids, first, second)
    assert pairs[-1][0] == len(ids[0]) - 1
    assert decode(second, ids[1][: pairs[-1][1]]) == "the cat"


@pytest.mark.parametrize("other", ["the\n\ncat  sat", "  the cat sat", "\tthe cat\t sat"])
@pytest.mark.parametrize("kind", LOSSLESS)
def test_blanks_may_differ(tokenizers, kind, other):
    """Behind them pairs go on, and inside a run of them that differs there are none."""
    tokenizer = tokenizers[kind]
    ids = [encode(tokenizer, text) for text in ("the cat sat", other)]
    pairs = aligned_positions(*ids, tokenizer, tokenizer)
    assert pairs[0] == (0, 0)
    assert pairs[-1] == (len(ids[0]) - 1, len(ids[1]) - 1)
    for i, j in pairs:
        assert in_common(decode(tokenizer, ids[0][:i])) == in_common(decode(tokenizer, ids[1][:j]))


@pytest.mark.parametrize("kind", LOSSLESS)
def test_nothing_is_paired_inside_blanks_that_differ(tokenizers, kind):
    tokenizer = tokenizers[kind]
    texts = "the \t{", "the\t {"
    ids = [encode(tokenizer, text) for text in texts]
    pairs = aligned_positions(*ids, tokenizer, tokenizer)
    before = [(decode(tokenizer, ids[0][:i]), decode(tokenizer, ids[1][:j])) for i, j in pairs]
    assert before[-3:] == [("the", "the"), ("the \t", "the\t "), texts]


def test_what_normalisation_changes_is_passed_over(tokenizers):
    first, second = tokenizers["byte_level"], tokenizers["unigram"]
    ids = encode(first, "½ cat… e\u0301 sat"), encode(second, "½ cat… e\u0301 sat")
    assert "½" not in second.decode(ids[1])
    pairs = aligned_positions(*ids, first, second)
    assert pairs[-1] == (len(ids[0]) - 1, len(ids[1]) - 1)
    assert {in_common(decode(first, ids[0][:i])) for i, _ in pairs} >= {
        "",
        in_common("½"),
        in_common("½ cat"),
        "1\u20442 cat...",
    }


def test_bytes_of_a_character_are_places(tokenizers):
    """The first byte alone is a token of both, and what follows is the same continuation."""
    fallback = tokenizers["byte_fallback"]
    ids = [fallback.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in "😀".encode()]
    level = tokenizers["byte_level"]
    parts = level.encode("😀", add_special_tokens=False)
    widths = [len(part) for part in level.convert_ids_to_tokens(parts)]
    # in byte-level tokens a character is a byte
    assert [j for _, j in aligned_positions(parts, ids, level, fallback)] == [
        sum(widths[:i]) for i in range(len(widths))
    ]


def test_one_token_and_the_dummy_blank():
    """By hand: `▁` alone is in front of the text, and so is no token of a tokenizer without it."""
    level, fallback = byte_level(), byte_fallback()
    ids = [fallback.convert_tokens_to_ids(token) for token in (METASPACE, "<0x78>", "</s>")]
    assert fallback.decode(ids, skip_special_tokens=True) == "x"
    assert aligned_positions(encode(level, "x"), ids, level, fallback) == [(0, 0), (1, 2)]


def test_special_tokens_have_no_width():
    tokenizer = words()
    unknown, start, end, pad, the, cat, sat = range(7)

    def pairs(first, second):
        return aligned_positions(first, second, tokenizer, tokenizer)

    assert pairs([start, the, cat, end], [the, cat, end]) == [(1, 0), (2, 1), (3, 2)]
    assert pairs([start, the, end], [start, the, end]) == [(0, 0), (1, 1), (2, 2)]
    assert pairs([the, pad, cat], [the, cat]) == [(0, 0), (2, 1)]
    assert pairs([start, end], [end]) == [(1, 0)]
    assert pairs([end], [end]) == [(0, 0)]
    assert pairs([], [the, end]) == []
    assert pairs([the, cat, sat, end], [the, sat, end]) == [(0, 0), (1, 1)]
    # what the unknown token was is not known
    assert pairs([the, unknown, end], [the, cat, end]) == [(0, 0), (1, 1)]
    assert pairs([the, unknown, end], [the, end]) == [(0, 0), (1, 1)]
    assert pairs([the, unknown, cat], [the, unknown, cat]) == [(0, 0), (1, 1), (2, 2)]


def test_one_special_token_for_all():
    """In GPT-2 the end is the start and the unknown token too, which has no text then."""
    backend = words().backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<s>", bos_token="<s>", eos_token="<s>")
    assert aligned_positions([1, 4, 1], [4, 1], tokenizer, tokenizer) == [(1, 0), (2, 1)]


def test_nothing_is_paired_after_another_text(tokenizers):
    first, second = tokenizers["byte_level"], tokenizers["byte_fallback"]
    ids = encode(first, "the cat sat there"), encode(second, "the mat sat there")
    pairs = aligned_positions(*ids, first, second)
    assert pairs
    assert all("the mat".startswith(decode(second, ids[1][:j])[:5]) for _, j in pairs)
    assert all(len(decode(second, ids[1][:j])) <= len("the ") for _, j in pairs)


def test_the_full_stop_of_word_piece(tokenizers):
    piece, level = tokenizers["word_piece"], tokenizers["byte_level"]
    ids = encode(piece, "the cats sat."), encode(level, "the cats sat.")
    assert tokenizers["word_piece"].convert_ids_to_tokens(ids[0]) == ["the", "cat", "##s", "sat", ".", "</s>"]
    pairs = aligned_positions(*ids, piece, level)
    assert pairs[-1] == (5, len(ids[1]) - 1)


def test_what_is_not_understood_is_refused():
    tokenizer = words()
    with pytest.raises(ValueError, match="-100, which is padding"):
        text_offsets([4, -100], tokenizer)
    with pytest.raises(ValueError, match="ByT5Tokenizer has none"):
        text_offsets([4, 5], ByT5Tokenizer())
    # joins equal tokens that are next to each other
    tokenizer.backend_tokenizer.decoder = decoders.CTC()
    with pytest.raises(ValueError, match=r"'.*' one by one, but '.*' together"):
        text_offsets([4, 4, 5], tokenizer)
