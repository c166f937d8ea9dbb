"""What an evaluation costs on top of `generate`: `python tests/evaluation/evaluation_speed.py`, a script and no test.

Evaluates a model on so many rows and divides the seconds of the whole evaluation, from the rows to the results, by
those within `generate` in the same run, on the clock and of the processor, which other work on the machine disturbs
less. Loading the model is not counted; one with random weights is made if none is given.
"""

import argparse
import json
import random
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets  # noqa: F401  imported before the clock runs, as torch is
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationMixin, PreTrainedTokenizerFast
from transformers.utils import logging

from encdec_slm import EncDecSLMConfig, EncDecSLMForConditionalGeneration
from encdec_slm.evaluation.evaluate import evaluate


SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def random_words():
    choose = random.Random(0)
    return list({"".join(choose.choices("abcdefghijklmnopqrstuvwxyz", k=choose.randint(2, 9))) for _ in range(5_000)})


def save(folder, preset, words):
    """Saves a model with random weights that knows the words."""
    torch.manual_seed(0)
    config = EncDecSLMConfig.from_preset(preset)
    EncDecSLMForConditionalGeneration(config).save_pretrained(folder)
    vocabulary = [*SPECIAL_TOKENS.values(), *words]
    vocabulary += [f"word{number}" for number in range(config.vocab_size - len(vocabulary))]
    tokens = Tokenizer(models.WordLevel({word: place for place, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokens, **SPECIAL_TOKENS).save_pretrained(folder)


class TimedGenerate:
    """Takes the place of `generate` and adds up the seconds of the processor in it."""

    def __init__(self):
        self.seconds, self.generate = 0.0, GenerationMixin.generate

    def __enter__(self):
        def timed(model, *arguments, **options):
            start = time.process_time()
            tokens = self.generate(model, *arguments, **options)
            self.seconds += time.process_time() - start
            return tokens

        GenerationMixin.generate = timed
        return self

    def __exit__(self, *error):
        GenerationMixin.generate = self.generate


def write_rows(file, words, number):
    """Writes rows of 8 to 60 random words, and of 4 to 20 as their answers."""
    choose = random.Random(0)
    rows = [
        {name: " ".join(choose.choices(words, k=choose.randint(*lengths))) for name, lengths in
         (("source", (8, 60)), ("target", (4, 20)))}
        for _ in range(number)
    ]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a model folder (default: the preset with random weights)")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--data", help="rows with source and target (default: random words)")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--metrics", nargs="+", default=["exact_match", "rouge", "bleu"])
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=16)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    with TemporaryDirectory() as place:
        model, data, words = arguments.model, arguments.data, random_words()
        if model is None:
            model = str(Path(place, "model"))
            save(model, arguments.preset, words)
        if data is None:
            data = Path(place, "rows.jsonl")
            write_rows(data, words, arguments.rows)
        respondent = AutoModelForSeq2SeqLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
        with TimedGenerate() as timed:
            begun = time.process_time()
            found = evaluate(
                respondent[0].eval(),
                "text",
                processing_class=respondent[1],
                data=[str(data)],
                output=Path(place, "output"),
                limit=arguments.rows,
                metrics=arguments.metrics,
                max_new_tokens=arguments.max_new_tokens,
                batch_size=arguments.batch_size,
            )
            processor = time.process_time() - begun
    print(f"{found.examples:,} rows, seconds of all and of generate, ratio:")
    for name, all_of_it, generate in (
        ("clock", found.seconds, found.generation_seconds),
        ("processor", processor, timed.seconds),
    ):
        print(f"{name:<9} {all_of_it:8.2f} {generate:8.2f} {all_of_it / generate:.3f}")


if __name__ == "__main__":
    main()
