"""Tokenizers with any words and roles, saved to a folder."""

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def save_word_tokenizer(folder, words, **options):
    """Saves a tokenizer whose ids are the places of its words; options such as `eos_token` and `padding_side`."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **options).save_pretrained(folder)
    return folder
