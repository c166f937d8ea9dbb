"""Decoding against Transformers' T5 of equal shape and of equal size: tables, and everything as JSON in the last line.

    python -m encdec_slm.benchmarks --dtype float32 bfloat16
    python -m encdec_slm.benchmarks --overhead

The published code of the paper has no cache: it runs the decoder on the whole prefix for every token. Our model with
`use_cache=False` does the same work, and stands in for it.
"""

import argparse
import json
import sys
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging

from encdec_slm.benchmarks.decoding import Contestant, Measurement, measure
from encdec_slm.benchmarks.peers import random_model, t5_of_equal_shape, t5_of_equal_size
from encdec_slm.benchmarks.report import record, table


MODEL_TYPE = "encdec_slm"
# so narrow that the arithmetic takes no time: what is left is Python and the dispatch of operations
OVERHEAD_STACK = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
}


def compare(config: PreTrainedConfig, options: argparse.Namespace, dtype: str, uncached: bool) -> list[Measurement]:
    """Measures a model of `config`, T5s of equal shape and size and, if asked, the model without its cache."""
    ours = random_model(config, dtype)
    contestants = [
        Contestant("encdec_slm", ours),
        Contestant("T5, equal shape", random_model(t5_of_equal_shape(config), dtype)),
        Contestant("T5, equal size", random_model(t5_of_equal_size(config, ours.num_parameters()), dtype)),
    ]
    if uncached:
        contestants.append(Contestant("encdec_slm without cache", ours, {"use_cache": False}))
    return measure(
        contestants,
        input_length=options.input_length,
        new_tokens=options.new_tokens,
        repeats=options.repeats,
        report=lambda line: print(line, file=sys.stderr),
    )


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m encdec_slm.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", default="330m", help="named size of the model (default: %(default)s)")
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=1, help="threads of one operation (default: %(default)s)")
    parser.add_argument("--input-length", type=int, default=512, help="tokens read (default: %(default)s)")
    parser.add_argument("--new-tokens", type=int, default=32, help="tokens written (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="turns, of which the medians count")
    parser.add_argument("--overhead", action="store_true", help="measure the framework at width 64 and nothing else")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measures, prints the tables, and one line of JSON at the end."""
    options = parse(argv)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    logging.set_verbosity_error()
    config_class: Any = CONFIG_MAPPING[MODEL_TYPE]
    records = []
    if options.overhead:
        encoder = {**OVERHEAD_STACK, "num_hidden_layers": 20}
        decoder = {**OVERHEAD_STACK, "num_hidden_layers": 10}
        runs = [("width 64, 10 decoder layers", config_class(encoder=encoder, decoder=decoder), "float32", False)]
    else:
        config = config_class.from_preset(options.preset)
        runs = [(f"{options.preset}, {dtype}", config, dtype, dtype == "float32") for dtype in options.dtype]
    for title, config, dtype, uncached in runs:
        measurements = compare(config, options, dtype, uncached)
        print(f"\n{title}: {options.input_length} tokens in, {options.new_tokens} out, {options.threads} thread(s)\n")
        print(table(measurements))
        records.append(record(measurements, {**vars(options), "dtype": dtype, "title": title}))
    print()
    print(json.dumps(records))


if __name__ == "__main__":
    main()
