"""The subcommand `encdec-slm export`. What a format needs is imported when it is asked for."""

import argparse
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from encdec_slm.export.report import ExportReport


# format -> module and function `(model, output, *, dtype, overwrite, <options of the format>) -> ExportReport`
EXPORTERS = {
    "onnx": ("encdec_slm.export.onnx_export", "export_onnx"),
    "ctranslate2": ("encdec_slm.export.ctranslate2_export", "export_ctranslate2"),
}
DTYPES = ("fp32", "fp16", "int8", "int4")


def add_export(commands: Any) -> None:
    """Adds `export` to the subcommands."""
    export = commands.add_parser(
        "export",
        help="write a model in the format of another engine",
        description="Writes a model of ours for ONNX Runtime (texts, and images too) or CTranslate2 (texts alone), "
        "with its tokenizer or processor. What was written is run and compared with PyTorch before it is moved to "
        "OUT, and the difference stands in OUT/export.json.",
    )
    export.add_argument("model", metavar="MODEL", help="the model folder, or id on the Hub")
    export.add_argument("output", metavar="OUT", help="the folder to write")
    export.add_argument("--format", choices=tuple(EXPORTERS), required=True, help="of the engine that will run it")
    export.add_argument("--dtype", choices=DTYPES, default="fp32", help="of the weights (default: %(default)s)")
    export.add_argument("--opset", type=int, metavar="N", help="version of the ONNX operators, 18 to 25 (onnx alone)")
    export.add_argument(
        "--static-length",
        type=int,
        metavar="N",
        help="graphs for one row of N input tokens, as NPUs want them (onnx alone; default: any number of both)",
    )
    export.add_argument(
        "--keep",
        action="append",
        metavar="PATTERN",
        help="modules that stay more precise, such as 'lm_head' or 'decoder.layers.0': float32 for int8, 8 bits for "
        "int4; may be repeated (onnx alone; default: with int4 the head)",
    )
    export.add_argument(
        "--calibrate",
        metavar="FILE",
        help="texts, one a line: scales of activations are measured on them and fixed (onnx int8 alone)",
    )
    export.add_argument(
        "--overwrite",
        action="store_true",
        help="write to a folder that already holds something: the model files in it are replaced, all others stay",
    )
    export.set_defaults(run=_export)


def load_exporter(name: str) -> Callable[..., ExportReport]:
    """Returns the function that writes a format."""
    module, function = EXPORTERS[name]
    return getattr(import_module(module), function)


def _export(arguments: argparse.Namespace) -> None:
    exporter = load_exporter(arguments.format)
    # what is not given has the function's default, which stands in one place
    given = {
        name: value for name, value in vars(arguments).items() if value is not None and name not in ("run", "format")
    }
    for name in given.keys() - inspect.signature(exporter).parameters.keys():
        raise ValueError(
            f"--{name.replace('_', '-')} was given, but the format {arguments.format} has no such option: leave it out"
        )
    print(exporter(**given))
