"""Questions about pictures: from a text model to one that sees, in ten minutes.

    pip install -e '.[examples]'
    python examples/picture_questions.py

A small encoder-decoder learns to answer questions about emoji and charts without seeing them: the best guesses are the
baseline. It is then given a vision tower (EfficientNet-Lite0, trained on ImageNet): first the projector between them
learns, then all but the tower (with `--tower_rate 0.1` the tower too), with the stock trainer. Both are scored on
pictures that are not in the training: emoji of other families, charts that are new, and charts whose words are new. Of
an emoji's tags any is right. A table and a picture compare them. The model is saved, loaded by
`pipeline("image-text-to-text")` and asked about a picture.

The flags of `Seq2SeqTrainingArguments` change the recipe of the last stage: `--max_steps 2000 --learning_rate 5e-4`.
"""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from data.efficientnet_lite import efficientnet_lite0
from datasets import Dataset
from remembered_tower import remembered
from spelling_to_sound import Stopwatch
from transformers import (
    HfArgumentParser,
    PreTrainedModel,
    ProcessorMixin,
    Seq2SeqTrainingArguments,
    pipeline,
    set_seed,
)
from vision_model import build_text_model, build_tokenizer, build_vision_model
from vision_report import NEW_WORDS, Entry, draw, entries, table, write
from vision_rows import Splits, load_splits, seen, unseen
from vision_training import RECIPE, answers, train_all, train_projector, train_text

from encdec_slm.image_text_collator import DataCollatorForImageTextToText
from encdec_slm.output_folder import output_folder


OUTPUT_DIR = "outputs/picture_questions"
TOWER_DIR = "outputs/efficientnet-lite0"
BLIND = "without the picture"
SEEING = "with the picture"
# the folder of the text model, inside of that of the result
BESIDE = "text_model"
PICTURE = "comparison.png"
RECORD = "comparison.json"


@dataclass
class DemoArguments:
    """What the demo does besides the last stage of the training."""

    charts: int = field(default=1_000, metadata={"help": "Number of charts to draw and learn."})
    test_charts: int = field(default=100, metadata={"help": "Number of charts in each of the two test splits."})
    text_steps: int = field(default=150, metadata={"help": "Steps of the text model's training."})
    projector_steps: int = field(default=60, metadata={"help": "Steps in which the projector alone learns."})
    max_image_tokens: int = field(default=49, metadata={"help": "Tokens of a picture; 196 are all there are."})
    image_token_compression: str = field(
        default="pixel_shuffle", metadata={"help": "How they become so few: pixel_shuffle, bilinear or average_pool."}
    )
    tower_rate: float = field(
        default=0.0, metadata={"help": "Learning rate of the tower, as a multiple of that of all else; frozen at 0."}
    )
    threads: int = field(default=2, metadata={"help": "CPU threads; one is faster if the other cores are busy."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where the data sets are kept."})
    tower_dir: str = field(default=TOWER_DIR, metadata={"help": "Folder of the tower, made if it is not there."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the model that is in output_dir already."})


def train_models(
    splits: Splits, demo: DemoArguments, training: Seq2SeqTrainingArguments, stopwatch: Stopwatch
) -> tuple[PreTrainedModel, PreTrainedModel, ProcessorMixin]:
    """The model that sees nothing, the one that sees, and the processor of the latter."""
    tokenizer = build_tokenizer(text for name in ("source", "target") for text in splits.train[name])
    set_seed(training.seed)
    text_model = build_text_model(tokenizer)
    with stopwatch("text model"):
        train_text(text_model, unseen(splits.train), tokenizer, replace(training, max_steps=demo.text_steps))
    model, processor = build_vision_model(
        text_model,
        efficientnet_lite0(demo.tower_dir),
        tokenizer,
        max_image_tokens=demo.max_image_tokens,
        image_token_compression=demo.image_token_compression,
    )
    collator = DataCollatorForImageTextToText(processor)
    rows = seen(splits.train)
    # a tower that does not learn looks at each picture once, and says the same again
    with remembered(model) as memory, stopwatch("projector, and the first look at all pictures"):
        train_projector(model, rows, collator, replace(training, max_steps=demo.projector_steps))
    with remembered(model, memory) if demo.tower_rate == 0 else nullcontext(), stopwatch("all parts"):
        train_all(model, rows, collator, training, demo.tower_rate)
    return text_model, model, processor


def score(
    blind: PreTrainedModel, seeing: PreTrainedModel, processor: ProcessorMixin, rows: Dataset
) -> dict[str, list[str]]:
    """The answers of both models to the same questions."""
    with remembered(seeing):
        return {BLIND: answers(blind, unseen(rows), processor), SEEING: answers(seeing, seen(rows), processor)}


def ask(folder: str, row: dict) -> str:
    """Load a saved model as anybody would, and ask it about one picture."""
    pipe = pipeline("image-text-to-text", model=folder, device="cpu")
    content = [{"type": "image", "image": row["image"]}, {"type": "text", "text": row["source"]}]
    (answer,) = pipe(text=[{"role": "user", "content": content}], return_full_text=False)
    return answer["generated_text"]


def parse(argv: Sequence[str] | None) -> tuple[DemoArguments, Seq2SeqTrainingArguments]:
    """The command line; its defaults are the recipe."""
    parser = HfArgumentParser([DemoArguments, Seq2SeqTrainingArguments])
    parser.set_defaults(**RECIPE, output_dir=OUTPUT_DIR, use_cpu=True)
    return parser.parse_args_into_dataclasses(argv)


def main(argv: Sequence[str] | None = None) -> list[Entry]:
    """Run the demo.

    Args:
        argv: Command line arguments; those of the process by default.

    Returns:
        What the table shows.
    """
    demo, training = parse(argv)
    torch.set_num_threads(demo.threads)
    started, stopwatch = time.monotonic(), Stopwatch()
    output_dir = training.output_dir
    with output_folder(output_dir, overwrite=demo.overwrite) as folder:
        training.output_dir = str(folder)
        with stopwatch("pictures"):
            splits = load_splits(demo.charts, demo.test_charts, processes=demo.threads, cache_dir=demo.cache_dir)
        print(f"{len(splits.train):,} questions to learn, {demo.threads} CPU thread(s)")
        blind, seeing, processor = train_models(splits, demo, training, stopwatch)
        with stopwatch("scores"):
            found, of_new = (score(blind, seeing, processor, rows) for rows in (splits.test, splits.test_new_words))
        comparison = entries(splits.test, found) + entries(splits.test_new_words, of_new, NEW_WORDS)
        seeing.save_pretrained(folder)
        processor.save_pretrained(folder)
        blind.save_pretrained(folder / BESIDE)
        processor.tokenizer.save_pretrained(folder / BESIDE)
        draw(comparison, splits.test, found[SEEING], folder / PICTURE)
        write(comparison, stopwatch.seconds, vars(demo) | {"max_steps": training.max_steps}, folder / RECORD)
    parameters = f"{seeing.num_parameters():,} parameters, {blind.num_parameters():,} of them the text model's"
    print(f"\nunseen pictures; {parameters}\n\n{table(comparison)}")
    row = splits.test[0]
    print(f'\npipeline("image-text-to-text", model="{output_dir}") is shown an emoji, {row["target"]}')
    print(f"{row['source']}  {ask(output_dir, row)}")
    print(f"\n{time.monotonic() - started:.0f} seconds in all. Picture: {output_dir}/{PICTURE}")
    return comparison


if __name__ == "__main__":
    main()
