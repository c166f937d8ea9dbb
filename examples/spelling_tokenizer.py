"""The vocabulary of the spelling-to-sound demo, which teacher and students share: letters, phones, four specials."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast


def build_tokenizer(letters: Iterable[str], phones: Iterable[str]) -> PreTrainedTokenizerFast:
    """One vocabulary for words and pronunciations; a folder that it is saved to needs no code of ours.

    A word is one token per letter, a pronunciation one token per phone. Phones are one or two capitals between blanks;
    all other capitals belong to words and are read as small letters, accents are dropped: "Beyonc\u00e9" is "beyonce".
    """
    tokens = ["<pad>", "<s>", "</s>", "<unk>", *sorted(letters), *sorted(phones)]
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="<unk>"))
    capitals = [chr(code) for code in range(ord("A"), ord("Z") + 1)]
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFD(),
            normalizers.StripAccents(),
            *(normalizers.Replace(Regex(capital_in_a_word(capital)), capital.lower()) for capital in capitals),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[A-Z]+|[^A-Z]"), "isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokens.index("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def capital_in_a_word(capital: str) -> str:
    """Pattern of a capital in a run of three characters or more, or beside one that is no capital."""
    return rf"(?<=\S\S){capital}|(?<=\S){capital}(?=\S)|{capital}(?=\S\S)|(?<=[^\sA-Z]){capital}|{capital}(?=[^\sA-Z])"
