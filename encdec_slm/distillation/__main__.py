"""Distils a decoder-only teacher into an encoder-decoder student.

    python -m encdec_slm.distillation --config recipe.yaml --output_dir distilled

All flags of `DistillationArguments`, and with it of `Seq2SeqTrainingArguments`, are understood. Those of the command
line come before those of the file.
"""

import sys
from collections.abc import Sequence
from typing import Any, cast

import yaml
from trl import TrlParser

from encdec_slm.distillation.arguments import DistillationArguments
from encdec_slm.distillation.cache_writer import CacheReport
from encdec_slm.distillation.command import ScriptArguments, StudentConfig, cache_teacher, distill


MODULE = "python -m encdec_slm.distillation"
Arguments = tuple[ScriptArguments, StudentConfig, DistillationArguments]


def build_parser(prog: str = MODULE, description: str = (__doc__ or "").partition("\n")[0]) -> TrlParser:
    """Returns what reads the command line and the configuration file of both commands."""
    classes: Any = [ScriptArguments, StudentConfig, DistillationArguments]
    parser = TrlParser(classes, prog=prog, description=description)
    # for `--help`: the file is read before the flags
    parser.add_argument("--config", metavar="FILE", help="YAML file with defaults for all that follows")
    return parser


def parse(parser: TrlParser, argv: Sequence[str] | None = None) -> Arguments:
    """Reads the command line and the configuration file.

    Raises:
        ValueError: If the file is no YAML, or either has something that there is no argument for.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv[-1:] == ["--config"]:
        parser.error("argument --config: expected the name of a file")
    try:
        return cast(Arguments, parser.parse_args_and_config(argv)[:3])
    except yaml.YAMLError as error:
        raise ValueError(f"the file of --config is no YAML: {error}") from error


def main(argv: Sequence[str] | None = None, prog: str = MODULE) -> dict[str, float]:
    """Distils, and prints the losses on held-out rows.

    Args:
        argv: Arguments; those of the process if not given.
        prog: Name of the command in its usage.
    """
    script, student, training = parse(build_parser(prog), argv)
    metrics = distill(script, student, training)
    if training.should_save:
        losses = {name: value for name, value in metrics.items() if name.endswith("loss")}
        print("on held-out rows: " + ", ".join(f"{name} {value:.4f}" for name, value in losses.items()))
        print(f"wrote {training.output_dir}")
    return metrics


def teacher_cache(argv: Sequence[str] | None = None, prog: str = "encdec-slm teacher-cache") -> dict[str, CacheReport]:
    """Writes a teacher cache, and prints what it holds.

    Args:
        argv: Arguments; those of the process if not given.
        prog: Name of the command in its usage.
    """
    parser = build_parser(prog, "Writes what a teacher says about the rows of a distillation, which then needs none.")
    # the folder that `distill` reads
    parser.add_argument("--output", dest="teacher_cache", metavar="FOLDER", help="The same as --teacher_cache.")
    script, student, training = parse(parser, argv)
    reports = cache_teacher(script, student, training)
    for split, report in reports.items():
        print(f"{split}: {report.dataset_rows:,} rows, of which {report.asked_rows:,} were asked now")
    # the last one counts all
    print(
        f"{training.teacher_cache}: {report.rows:,} rows, {report.target_tokens:,} target tokens, "
        f"{report.bytes_per_token:.1f} bytes a token, tail probability {report.tail_probability:.4f}"
    )
    return reports


if __name__ == "__main__":
    main()
