"""Spelling to sound, from nothing to a model that answers in minutes on one core: `zygote` -> `Z AY G OW T`.

    pip install -e '.[examples]'
    python examples/spelling_to_sound.py

A tiny encoder-decoder learns English pronunciation from 122,052 words of the CMU Pronouncing Dictionary with the stock
`Seq2SeqTrainer`. It is scored on 2,000 words that it has not seen, beside a baseline that knows letters but no words,
then saved, loaded by `pipeline("text2text-generation")` and asked for names and invented words. The flags of
`Seq2SeqTrainingArguments` change the recipe: `--max_steps 500 --output_dir elsewhere`.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import jiwer
import numpy as np
import torch
from data.cmudict import CMUDict
from datasets import Dataset
from letter_baseline import LetterBaseline
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    DataCollatorForSeq2Seq,
    HfArgumentParser,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    pipeline,
    set_seed,
)

from encdec_slm import EncDecSLMConfig, EncDecSLMForConditionalGeneration
from encdec_slm.conversion.output_folder import output_folder


# chosen on the validation split
RECIPE = {
    "output_dir": "outputs/spelling_to_sound",
    "max_steps": 3_000,
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 500,
    "train_sampling_strategy": "group_by_length",
    "learning_rate": 2e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 200,
    "adam_beta2": 0.98,
    "predict_with_generate": True,
    "logging_steps": 250,
    "dataloader_pin_memory": False,
    "save_strategy": "no",
}
# about 1 / sqrt(hidden size), as suits an embedding that is also the head; with 0.02 such a short training ends early
INITIALIZER_RANGE = 0.09
LONGEST_ANSWER = 40

BASELINE_WORDS = 5_000
# none of them is in the dictionary
WORDS_TO_SAY = (
    "zyzzyva", "Daenerys", "Galadriel", "Kubernetes", "Mbapp\u00e9", "Ozempic", "Pikachu", "Quidditch",
    "Timoth\u00e9e", "Wakanda", "Zendaya", "brillig", "flibbertigibbet", "snozzcumber",
)  # fmt: skip


@dataclass
class DemoArguments:
    """What the demo does besides training."""

    train_words: int | None = field(default=None, metadata={"help": "Train on this many words only."})
    test_words: int | None = field(default=None, metadata={"help": "Score this many of the 2,000 test words only."})
    # the operations of so small a model are short: waiting for a second core that is busy costs more than it gains
    threads: int = field(default=1, metadata={"help": "CPU threads; two are faster if nothing else uses the cores."})
    overwrite: bool = field(default=False, metadata={"help": "Replace a model that is in output_dir already."})


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


def first(rows: Dataset, number: int | None) -> Dataset:
    """The first rows, or all of them if there are not as many or no number is given."""
    return rows if number is None else rows.select(range(min(number, len(rows))))


def tokenize(rows: Dataset, tokenizer: PreTrainedTokenizerFast) -> Dataset:
    """Token ids of words and pronunciations, and the lengths that rows are grouped by."""

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]] | list[int]]:
        encoded = tokenizer(batch["source"], text_target=batch["target"])
        return {**encoded, "length": [len(ids) for ids in encoded["input_ids"]]}

    return rows.map(encode, batched=True, remove_columns=rows.column_names, desc="Tokenizing")


def build_model(tokenizer: PreTrainedTokenizerFast) -> EncDecSLMForConditionalGeneration:
    """The `tiny` preset without dropout: in a few epochs it does not overfit, and no random masks are faster."""
    config = EncDecSLMConfig.from_preset(
        "tiny",
        vocab_size=len(tokenizer),
        initializer_range=INITIALIZER_RANGE,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
    )
    for stack in (config.encoder, config.decoder):
        stack.dropout = stack.attention_dropout = 0.0
    model = EncDecSLMForConditionalGeneration(config)
    model.generation_config.max_length = LONGEST_ANSWER
    return model


def build_trainer(rows: Dataset, training: Seq2SeqTrainingArguments) -> Seq2SeqTrainer:
    """A stock trainer of a new model on rows of `CMUDict`, whose letters and phones are the vocabulary."""
    tokenizer = build_tokenizer(set("".join(rows["source"])), set(" ".join(rows["target"]).split()))
    set_seed(training.seed)
    model = build_model(tokenizer)
    return Seq2SeqTrainer(
        model=model,
        args=training,
        train_dataset=tokenize(rows, tokenizer),
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
    )


def pronounce(trainer: Seq2SeqTrainer, rows: Dataset) -> list[str]:
    """What the model of a trainer answers to the words of some rows."""
    tokenizer = trainer.processing_class
    # grouped by length the trainer would not answer in the order of the rows
    trainer.args.train_sampling_strategy = "random"
    ids = trainer.predict(tokenize(rows, tokenizer)).predictions
    # where answers of different lengths were put together
    ids = np.where(ids == -100, tokenizer.pad_token_id, ids)
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


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


def report(scores: dict[str, dict[str, float]], test_words: int) -> None:
    """Print error rates side by side."""
    print(
        f"\nError rates on {test_words:,} unseen words (words*: any pronunciation that the dictionary lists is right)"
    )
    print(f"{'':<28}{'phonemes':>10}{'words':>10}{'words*':>10}")
    for name, rates in scores.items():
        print(f"{name:<28}{rates['phonemes']:>10.3f}{rates['words']:>10.3f}{rates['any']:>10.3f}")


def say(folder: str, words: Sequence[str]) -> None:
    """Load a saved model as anybody would, and print what it makes of some words."""
    to_sound = pipeline("text2text-generation", model=folder, device="cpu")
    print(f'\npipeline("text2text-generation", model="{folder}") says, to words that are not in the dictionary')
    for word, answer in zip(words, to_sound(list(words)), strict=True):
        print(f"{word:<28}{answer['generated_text']}")


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Run the demo.

    Args:
        argv: Command line arguments; those of the process by default.

    Returns:
        The error rates of the baseline and of the model, see `error_rates`.
    """
    started = time.monotonic()
    parser = HfArgumentParser([DemoArguments, Seq2SeqTrainingArguments])
    parser.set_defaults(**RECIPE)
    demo, training = parser.parse_args_into_dataclasses(argv)
    torch.set_num_threads(demo.threads)
    output_dir = training.output_dir
    with output_folder(output_dir, overwrite=demo.overwrite) as folder:
        training.output_dir = str(folder)
        builder = CMUDict()
        builder.download_and_prepare()
        words = first(builder.as_dataset("train"), demo.train_words)
        unseen_words = first(builder.as_dataset("test"), demo.test_words)
        trainer = build_trainer(words, training)
        print(
            f"{len(words):,} words to learn, {trainer.model.num_parameters():,} parameters, {training.max_steps:,} "
            f"steps of {training.train_batch_size} words, {demo.threads} CPU thread(s)"
        )
        trainer.train()
        sample = first(words, BASELINE_WORDS)
        baseline = LetterBaseline(zip(sample["source"], sample["target"], strict=True))
        scores = {
            "letter by letter": error_rates([baseline(word) for word in unseen_words["source"]], unseen_words),
            "the model": error_rates(pronounce(trainer, unseen_words), unseen_words),
        }
        trainer.model.save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)
    report(scores, len(unseen_words))
    say(output_dir, WORDS_TO_SAY)
    print(
        f"\n{time.monotonic() - started:.0f} seconds in all. Ask it yourself: encdec-slm generate {output_dir} zyzzyva"
    )
    return scores


if __name__ == "__main__":
    main()
