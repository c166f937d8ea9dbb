"""Adapts an encoder-decoder to text: prefix language modeling and span corruption, with the stock `Seq2SeqTrainer`.

    python -m encdec_slm.adaptation --model_name_or_path student --train_file texts.txt --output_dir adapted

All flags of `Seq2SeqTrainingArguments` are understood.
"""

from collections.abc import Sequence
from typing import Any, cast

from transformers import HfArgumentParser, Seq2SeqTrainingArguments

from encdec_slm.adaptation.adapt import AdaptationResult, adapt
from encdec_slm.adaptation.arguments import AdaptationArguments


def parse(
    argv: Sequence[str] | None = None, prog: str = "python -m encdec_slm.adaptation"
) -> tuple[AdaptationArguments, Seq2SeqTrainingArguments]:
    """Reads the command line."""
    classes: Any = [AdaptationArguments, Seq2SeqTrainingArguments]
    parser = HfArgumentParser(classes, prog=prog, description=(__doc__ or "").partition("\n")[0])
    return cast(tuple[AdaptationArguments, Seq2SeqTrainingArguments], parser.parse_args_into_dataclasses(argv))


def main(argv: Sequence[str] | None = None, prog: str = "python -m encdec_slm.adaptation") -> AdaptationResult:
    """Adapts a model, and prints the loss on held-out texts before and after.

    Args:
        argv: Arguments; those of the process if not given.
        prog: Name of the command in its usage.
    """
    arguments, training = parse(argv, prog)
    result = adapt(arguments, training)
    if training.should_save:
        print(f"loss on held-out texts: {result.loss_before:.4f} before, {result.loss_after:.4f} after")
        print(f"wrote {training.output_dir}")
    return result


if __name__ == "__main__":
    main()
