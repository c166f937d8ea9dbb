"""What the checks of `load` cost: `python tests/hub/load_speed.py`, a script and no test.

Saves a preset with random weights and a tokenizer of 32,000 tokens, puts them on a local Hub, and loads them from the
cache by `load` and by `from_pretrained` in turns. A ratio under 1 means that `load` is faster.
"""

import argparse
import gc
import random
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from huggingface_hub import constants
from huggingface_hub.utils import logging as hub_logging
from local_hub import LocalHub
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging

from encdec_slm import EncDecSLMConfig, EncDecSLMForConditionalGeneration
from encdec_slm.hub.load import load


REPO = "tester/model"
SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def save(folder, preset):
    torch.manual_seed(0)
    model = EncDecSLMForConditionalGeneration(EncDecSLMConfig.from_preset(preset)).to(torch.bfloat16)
    model.save_pretrained(folder)
    letters = random.Random(0)
    words = {"".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=letters.randint(2, 9))) for _ in range(40_000)}
    pieces = [*SPECIAL_TOKENS.values(), *sorted(words)[: model.config.vocab_size - 200]]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(number)) for number, piece in enumerate(pieces)], unk_id=3))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS).save_pretrained(folder)


def by_from_pretrained(name):
    return AutoModelForSeq2SeqLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)


def seconds(function, name):
    """Returns seconds on the clock and of the processor."""
    gc.collect()
    clock, processor = time.perf_counter(), time.process_time()
    function(name)
    return time.perf_counter() - clock, time.process_time() - processor


def compare(title, ways, name, repeats):
    """Prints medians, and ratios of those of the processor, which other work on the machine disturbs less."""
    taken = {way: [] for way in ways}
    for turn in range(repeats + 1):
        for way, function in ways.items():
            times = seconds(function, name)
            if turn:  # the first fills caches
                taken[way].append(times)
    medians = {way: [1000 * median(times) for times in zip(*rows, strict=True)] for way, rows in taken.items()}
    for way, (clock, processor) in medians.items():
        ratio = processor / medians["from_pretrained"][1]
        print(f"{title:<20} {way:<16} {clock:8.1f} ms  processor {processor:8.1f} ms  ratio {ratio:.3f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="330m")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    hub_logging.set_verbosity_error()
    with TemporaryDirectory() as place, LocalHub() as hub, hub.connected(Path(place, "home")):
        folder = Path(place, "model")
        save(folder, arguments.preset)
        hub.add_repository(REPO, {path.name: path.read_bytes() for path in folder.iterdir()})
        load(REPO)
        ways = {
            "from_pretrained": by_from_pretrained,
            "load": load,
            "load, verified": lambda name: load(name, verify=True),
        }
        compare("repository, online", ways, REPO, arguments.repeats)
        constants.HF_HUB_OFFLINE = True
        compare("repository, offline", ways, REPO, arguments.repeats)
        compare("folder", ways, str(folder), arguments.repeats)


if __name__ == "__main__":
    main()
