r"""Gives a translator a memory of the pairs that it was trained on, which is asked at each token of an answer.

    python examples/remember_pairs.py --model outputs/small_translator --data_dir FOLDER
    encdec-slm evaluate outputs/small_translator_memory --trust-remote-code --task codexglue_java_cs --num-beams 5 \
      --data FOLDER/valid.java FOLDER/valid.cs --output outputs/small_translator_memory/scores --max-new-tokens 512

A model of a few million parameters cannot know ten thousand pairs by heart, but where its states in an answer come
near to those that it had in a pair, what follows there is a good guess: which of the forms that a source may have in
the other language its project uses, say. What is written is the model's folder and, in `custom_generate`, its states
and the code that asks them: `AutoModelForSeq2SeqLM.from_pretrained(..., trust_remote_code=True)` generates with them,
where this package is not installed too. Without that argument the folder is the model alone. The memory holds the
targets of the pairs: whoever is given it is given them.
"""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from code_rows import Pair
from custom_generate import generate
from result_files import write_json
from safetensors.torch import save_file
from tasks import load_task
from timed_training import TRAINING
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    HfArgumentParser,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from encdec_slm.output_folder import output_folder


@dataclass
class MemoryArguments:
    """Of which model, of which pairs, and how it is asked."""

    data_dir: str = field(metadata={"help": "Folder of the CodeXGLUE files; see examples/data/codexglue.py."})
    model: str = field(default="outputs/small_translator", metadata={"help": "Folder of the translator."})
    output_dir: str = field(default="outputs/small_translator_memory", metadata={"help": "Folder to be."})
    max_length: int = field(default=384, metadata={"help": "Tokens of a side; what is longer is cut."})
    batch_size: int = field(default=16, metadata={"help": "Pairs at once."})
    pairs: int = field(default=64, metadata={"help": "In how many pairs an answer looks: those of the like sources."})
    neighbours: int = field(default=8, metadata={"help": "How many of their tokens have a say."})
    temperature: float = field(
        default=0.1,
        metadata={"help": "Squared distance at which a say has fallen to 1/e, in mean squared lengths of a state."},
    )
    prior: float = field(
        default=0.1, metadata={"help": "How much the model says, where a token at no distance says 1."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Whether the output folder may hold something."})

    def __post_init__(self) -> None:
        for name in ("max_length", "batch_size", "pairs", "neighbours", "temperature", "prior"):
            if (value := getattr(self, name)) <= 0:
                raise ValueError(f"{name} is {value}, but has to be more than 0")


def remember(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    *,
    max_length: int,
    batch_size: int,
) -> dict[str, torch.Tensor]:
    """Returns what a model's states are in pairs: the tensors of `custom_generate.generate.Memory`.

    Args:
        model: An encoder-decoder.
        tokenizer: The model's.
        pairs: Sources and targets.
        max_length: Tokens of a side; what is longer is cut.
        batch_size: Pairs at once.
    """
    sources, targets = (
        tokenizer(list(texts), truncation=True, max_length=max_length).input_ids for texts in zip(*pairs, strict=True)
    )
    rows = [{"input_ids": source, "labels": target} for source, target in zip(sources, targets, strict=True)]
    collator = DataCollatorForSeq2Seq(tokenizer, model=model)
    order = sorted(range(len(rows)), key=lambda place: len(sources[place]) + len(targets[place]), reverse=True)
    means, states = [torch.empty(0)] * len(rows), [torch.empty(0)] * len(rows)
    model.eval()
    with torch.no_grad(), generate.states_of_the_head(model) as read:
        for start in logging.tqdm(range(0, len(order), batch_size), desc="remembered"):
            places = order[start : start + batch_size]
            batch = collator([rows[place] for place in places]).to(model.device)
            labels = batch.pop("labels")
            encoded = model(**batch).encoder_last_hidden_state
            found = generate.mean_states(encoded, batch["attention_mask"]), read["states"], labels != -100
            for place, mean, own, are_tokens in zip(places, *(each.cpu() for each in found), strict=True):
                means[place], states[place] = mean, own[are_tokens].to(torch.bfloat16)
    return {
        "sources": torch.stack(means),
        "states": torch.cat(states),
        "tokens": torch.tensor([token for target in targets for token in target]),
        "ends": torch.tensor([len(target) for target in targets]).cumsum(0),
    }


def write_memory(arguments: MemoryArguments, pairs: Sequence[Pair]) -> None:
    """Writes the folder of a model with a memory of pairs."""
    began = time.monotonic()
    model = AutoModelForSeq2SeqLM.from_pretrained(arguments.model)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    tensors = remember(model, tokenizer, pairs, max_length=arguments.max_length, batch_size=arguments.batch_size)
    length = tensors["states"].float().square().sum(dim=1).mean().item()
    settings = {
        "pairs": arguments.pairs,
        "neighbours": arguments.neighbours,
        "temperature": arguments.temperature * length,
        "prior": arguments.prior,
    }
    with output_folder(arguments.output_dir, overwrite=arguments.overwrite, inputs=[arguments.model]) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / generate.FOLDER).mkdir()
        shutil.copy(generate.__file__, folder / generate.FOLDER)
        save_file(tensors, folder / generate.TENSORS)
        write_json(folder / generate.SETTINGS, settings)
        training = Path(arguments.model) / TRAINING
        if training.is_file():
            said = json.loads(training.read_text(encoding="utf-8"))
            minutes = round(said["minutes"] + (time.monotonic() - began) / 60, 1)
            label = f"{said['label']}, with its pairs in memory"
            write_json(folder / TRAINING, said | {"label": label, "minutes": minutes})
    size = sum(tensor.nbytes for tensor in tensors.values()) / 1e6
    print(f"wrote {arguments.output_dir}: {len(pairs):,} pairs, {len(tensors['tokens']):,} tokens, {size:,.0f} MB")


def main(argv: Sequence[str] | None = None) -> None:
    """Gives a model its memory.

    Args:
        argv: Command line arguments; those of the process by default.
    """
    (arguments,) = HfArgumentParser(MemoryArguments).parse_args_into_dataclasses(argv)
    rows = load_task("codexglue", arguments.data_dir).train
    write_memory(arguments, list(zip(rows["source"], rows["target"], strict=True)))


if __name__ == "__main__":
    main()
