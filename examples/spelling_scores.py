"""What a model of the spelling-to-sound demo answers, and how often it is wrong."""

from collections.abc import Sequence

import jiwer
import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast


LONGEST_ANSWER = 40
WORDS_AT_ONCE = 500


def pronounce(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, words: Sequence[str], template: str = "{source}"
) -> list[str]:
    """The greedy answers of an encoder-decoder or of a decoder-only model.

    Args:
        model: It is put into evaluation mode.
        tokenizer: The one that the model was trained with.
        words: Letters.
        template: What a decoder-only model reads before it answers; an encoder-decoder reads the word and its end.

    Returns:
        Pronunciations, one per word and in their order, phones separated by blanks.
    """
    model.eval()
    answers = []
    for start in range(0, len(words), WORDS_AT_ONCE):
        inputs = tokenizer(
            [template.format(source=word) for word in words[start : start + WORDS_AT_ONCE]],
            add_special_tokens=model.config.is_encoder_decoder,
            padding=True,
            # a decoder-only model goes on from the last column
            padding_side="left",
            return_tensors="pt",
        ).to(model.device)
        ids = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=LONGEST_ANSWER,
            do_sample=False,
        )
        prompt_length = 0 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        answers += tokenizer.batch_decode(ids[:, prompt_length:], skip_special_tokens=True)
    return answers


def error_rates(answers: Sequence[str], rows: Dataset) -> dict[str, float]:
    """Phoneme and word error rates.

    Args:
        answers: Pronunciations, one per row, phones separated by blanks.
        rows: Rows of `CMUDict`.

    Returns:
        `phonemes`: edits per phone of the first listed pronunciations; `words`: share of answers that differ from
        the first listed pronunciation; `any`: share that differ from every listed one.
    """
    accepted = zip(answers, rows["target"], rows["pronunciations"], strict=True)
    wrong = np.mean([(answer != target, answer not in listed) for answer, target, listed in accepted], axis=0)
    return {
        "phonemes": jiwer.wer(list(rows["target"]), list(answers)),
        "words": float(wrong[0]),
        "any": float(wrong[1]),
    }
