"""Spelling to sound, `zygote` -> `Z AY G OW T`: from nothing to a distilled model that answers, in ten minutes.

    pip install -e '.[examples,distillation]'
    python examples/spelling_to_sound.py

A decoder-only teacher learns English pronunciation from 122,052 words of the CMU Pronouncing Dictionary. Two tiny
encoder-decoders then see the same words in the same order for as many steps: one learns from the dictionary alone, the
other from the teacher's probabilities too. All three are scored on 2,000 words that they have not seen and timed in
turns; a table and a picture compare them. The distilled model is saved, loaded by `pipeline("text2text-generation")`
and asked for names and invented words.

The flags of `DistillationArguments` change the recipe of the students: `--max_steps 500 --alpha 0.9`.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from data.cmudict import CMUDict
from datasets import Dataset
from letter_baseline import LetterBaseline
from spelling_report import Entry, compare, draw, table, write
from spelling_scores import error_rates, pronounce
from spelling_students import STUDENT_RECIPE, student_trainer
from spelling_teacher import TEACHER_RECIPE, TEACHER_TEMPLATE, teacher_trainer
from spelling_tokenizer import build_tokenizer
from transformers import (
    HfArgumentParser,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TrainingArguments,
    pipeline,
)

from encdec_slm.distillation import DistillationArguments
from encdec_slm.output_folder import output_folder


OUTPUT_DIR = "outputs/spelling_to_sound"
TEACHER = "teacher"
ALONE = "student alone"
DISTILLED = "distilled student"
# folders of the models that are not the result, inside of its own
BESIDE = {TEACHER: "teacher", ALONE: "student_alone"}
PICTURE = "comparison.png"
RECORD = "comparison.json"

BASELINE_WORDS = 5_000
# none of them is in the dictionary
WORDS_TO_SAY = (
    "zyzzyva", "Daenerys", "Galadriel", "Kubernetes", "Mbapp\u00e9", "Ozempic", "Pikachu", "Quidditch",
    "Timoth\u00e9e", "Wakanda", "Zendaya", "brillig", "flibbertigibbet", "snozzcumber",
)  # fmt: skip


@dataclass
class DemoArguments:
    """What the demo does besides training the students."""

    teacher_steps: int = field(default=2_200, metadata={"help": "Steps of the teacher's training."})
    train_words: int | None = field(default=None, metadata={"help": "Train on this many words only."})
    test_words: int | None = field(default=None, metadata={"help": "Score this many of the 2,000 test words only."})
    threads: int = field(default=2, metadata={"help": "CPU threads; one is faster if the other cores are busy."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the models that are in output_dir already."})


class Stopwatch:
    """Seconds of the wall clock by part, printed as each part ends.

    Attributes:
        seconds: Seconds of the parts that have ended, by name.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Times a block."""
        started = time.monotonic()
        yield
        self.seconds[part] = time.monotonic() - started
        print(f"{part}: {self.seconds[part]:.0f} seconds")


def first(rows: Dataset, number: int | None) -> Dataset:
    """The first rows, or all of them if there are not as many or no number is given."""
    return rows if number is None else rows.select(range(min(number, len(rows))))


def load_words(demo: DemoArguments) -> tuple[Dataset, Dataset]:
    """Words to learn, and words to score."""
    builder = CMUDict()
    builder.download_and_prepare()
    return first(builder.as_dataset("train"), demo.train_words), first(builder.as_dataset("test"), demo.test_words)


def train_teacher(
    rows: Dataset, tokenizer: PreTrainedTokenizerFast, demo: DemoArguments, students: DistillationArguments
) -> LlamaForCausalLM:
    """A new teacher after its training, on the device and with the seed of the students."""
    training = TrainingArguments(
        **TEACHER_RECIPE,
        output_dir=students.output_dir,
        max_steps=demo.teacher_steps,
        seed=students.seed,
        use_cpu=students.use_cpu,
        disable_tqdm=students.disable_tqdm,
    )
    trainer = teacher_trainer(rows, tokenizer, training)
    trainer.train()
    return trainer.model


def train_models(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerFast,
    demo: DemoArguments,
    training: DistillationArguments,
    stopwatch: Stopwatch,
) -> dict[str, PreTrainedModel]:
    """The teacher and the two students."""
    print(f"{len(rows):,} words to learn, {demo.threads} CPU thread(s)")
    with stopwatch(TEACHER):
        teacher = train_teacher(rows, tokenizer, demo, training)
    models: dict[str, PreTrainedModel] = {TEACHER: teacher}
    for name, guide in ((ALONE, None), (DISTILLED, teacher)):
        with stopwatch(name):
            trainer = student_trainer(rows, tokenizer, training, guide)
            trainer.train()
            models[name] = trainer.model
    return models


def score(
    models: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerFast, rows: Dataset
) -> dict[str, dict[str, float]]:
    """Error rates of each model on the same words, see `error_rates`."""
    words = list(rows["source"])
    return {
        name: error_rates(
            pronounce(model, tokenizer, words, TEACHER_TEMPLATE if name == TEACHER else "{source}"), rows
        )
        for name, model in models.items()
    }


def save(models: dict[str, PreTrainedModel], tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """The distilled model in the folder itself, the others in folders below it."""
    for name, model in models.items():
        place = folder / BESIDE.get(name, "")
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)


def say(folder: str, words: Sequence[str]) -> None:
    """Load a saved model as anybody would, and print what it makes of some words."""
    to_sound = pipeline("text2text-generation", model=folder, device="cpu")
    print(f'\npipeline("text2text-generation", model="{folder}") says, to words that are not in the dictionary')
    for word, answer in zip(words, to_sound(list(words)), strict=True):
        print(f"{word:<28}{answer['generated_text']}")


def parse(argv: Sequence[str] | None) -> tuple[DemoArguments, DistillationArguments]:
    """The command line; its defaults are the recipe."""
    parser = HfArgumentParser([DemoArguments, DistillationArguments])
    # the comparison is of a CPU, also where there is a GPU
    parser.set_defaults(**STUDENT_RECIPE, output_dir=OUTPUT_DIR, use_cpu=True)
    return parser.parse_args_into_dataclasses(argv)


def main(argv: Sequence[str] | None = None) -> list[Entry]:
    """Run the demo.

    Args:
        argv: Command line arguments; those of the process by default.

    Returns:
        What the table shows of each model.
    """
    demo, training = parse(argv)
    torch.set_num_threads(demo.threads)
    started, stopwatch = time.monotonic(), Stopwatch()
    output_dir = training.output_dir
    with output_folder(output_dir, overwrite=demo.overwrite) as folder:
        training.output_dir = str(folder)
        words, unseen_words = load_words(demo)
        tokenizer = build_tokenizer(set("".join(words["source"])), set(" ".join(words["target"]).split()))
        models = train_models(words, tokenizer, demo, training, stopwatch)
        with stopwatch("scores"):
            rates = score(models, tokenizer, unseen_words)
        with stopwatch("speeds"):
            entries = compare(models, rates)
        save(models, tokenizer, folder)
        draw(entries, folder / PICTURE)
        write(entries, stopwatch.seconds, folder / RECORD)
    sample = first(words, BASELINE_WORDS)
    baseline = LetterBaseline(zip(sample["source"], sample["target"], strict=True))
    by_letter = error_rates([baseline(word) for word in unseen_words["source"]], unseen_words)
    print(f"\n{len(unseen_words):,} unseen words; one word at a time on one thread\n\n{table(entries)}")
    print(
        f"\nletter by letter: {by_letter['phonemes']:.3f} of the phonemes, {by_letter['words']:.3f} of the words wrong"
    )
    say(output_dir, WORDS_TO_SAY)
    print(f"\n{time.monotonic() - started:.0f} seconds in all. Picture: {output_dir}/{PICTURE}")
    print(f"Ask the distilled student yourself: encdec-slm generate {output_dir} zyzzyva")
    return entries


if __name__ == "__main__":
    main()
