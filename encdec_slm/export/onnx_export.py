"""`encdec-slm export --format onnx`: the graphs are traced, quantised, written, run and compared before they count."""

import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from encdec_slm.export.onnx_calibration import Feeds, record_feeds
from encdec_slm.export.onnx_check import compare_with_source
from encdec_slm.export.onnx_files import rename_free_sizes, save_graphs
from encdec_slm.export.onnx_graphs import DecoderGraph, EncoderGraph
from encdec_slm.export.onnx_names import DECODER_FILE, ENCODER_FILE
from encdec_slm.export.onnx_quantization import KEPT, quantize
from encdec_slm.export.onnx_session import onnxruntime
from encdec_slm.export.report import ExportReport
from encdec_slm.export.source import load_source, save_companions
from encdec_slm.output_folder import output_folder


# below, the exporter writes no graph; above, it knows no operator
OPSETS = range(18, 24)
# the first with an operator for RMSNorm: below, every norm is six
DEFAULT_OPSET = 23
FREE = torch.export.Dim.AUTO


def export_onnx(
    model: str | PathLike[str],
    output: str | PathLike[str],
    *,
    dtype: str = "fp32",
    opset: int = DEFAULT_OPSET,
    static_length: int | None = None,
    keep: Sequence[str] | None = None,
    calibrate: str | PathLike[str] | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Writes a text model as graphs for ONNX Runtime, with its tokenizer.

    The graphs are `encoder_model.onnx`, which also gives the keys and values of cross-attention, and
    `decoder_model_merged.onnx`, which reads a prompt or a token and both caches; their weights are in
    `model.onnx_data`, those that both have once. `ORTEncDecSLM` runs the folder.

    Args:
        model: Folder or id on the Hub of a model of this package.
        output: The folder to write.
        dtype: Of the weights: `fp32`, `fp16`, `int8`, or `int4` (the decoder's, and `int8` for the rest).
        opset: Version of the ONNX operators.
        static_length: Tokens of the only row that the graphs then read, shorter inputs padded, and that the decoder
            may write; any number of rows and tokens if not given.
        keep: Regular expressions of names of modules that stay more precise than `dtype`, such as `lm_head` or
            `decoder.layers.0`: float32 for `int8`, 8 bits for `int4` (there the head, if not given).
        calibrate: File of texts, one a line, such as the model will read: scales of activations are measured on them
            and fixed (`int8` alone; otherwise every call works out its own).
        overwrite: Whether `output` may already hold something.

    Returns:
        Size, and difference from PyTorch, as `export.json` in the folder has it.

    Raises:
        ValueError: If the model is none of this package, an argument is out of range, `output` is occupied, or the
            float32 graphs do not compute what the model computes.
        ImportError: If ONNX or ONNX Runtime is not installed.
    """
    _refuse(dtype, opset, static_length)
    if calibrate is not None and dtype != "int8":
        raise ValueError(f"calibrate was given, but with the dtype {dtype} no activation has a scale: use int8")
    inputs = [model] if Path(model).is_dir() else []
    with output_folder(output, overwrite=overwrite, inputs=inputs) as folder:
        source = load_source(model)
        if source.config.model_type != "encdec_slm":
            raise ValueError(f"{model} reads images, which the export to ONNX does not yet: run it in PyTorch")
        if not source.config.decoder.num_hidden_layers:
            raise ValueError(f"the decoder of {model} has no layers, and so no cache that a graph could read")
        save_companions(source, model, folder)
        graphs = trace(source, opset, static_length)
        feeds = None if calibrate is None else _feeds(graphs, source, folder, Path(calibrate))
        save_graphs(folder, quantize(graphs, dtype, keep, feeds))
        errors = compare_with_source(source, folder, dtype, static_length)
        report = ExportReport(
            format="onnx",
            dtype=dtype,
            bytes=sum(path.stat().st_size for path in folder.glob("*.onnx*")),
            **errors,
            details={
                "parameters": source.num_parameters(),
                "opset": opset,
                "static_length": static_length,
                "calibrated": calibrate is not None,
                "kept": list(KEPT[dtype] if keep is None else keep),
                "onnxruntime": onnxruntime().__version__,
            },
        )
        report.save(folder)
    return report


def _feeds(graphs: dict[str, Any], source: Any, folder: Path, texts: Path) -> dict[str, Feeds]:
    if not texts.is_file():
        raise ValueError(f"the file {texts} with texts to calibrate on does not exist")
    if not (folder / "tokenizer_config.json").is_file():
        raise ValueError("calibrating reads texts, but the model has no tokenizer: save one beside it")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [tokenizer(line)["input_ids"] for line in texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    return record_feeds(graphs, rows, source.generation_config.decoder_start_token_id)


def _refuse(dtype: str, opset: int, static_length: int | None) -> None:
    if dtype not in KEPT:
        raise ValueError(f"the format onnx has no dtype {dtype!r}: use one of {', '.join(KEPT)}")
    if opset not in OPSETS:
        raise ValueError(
            f"opset {opset} is not supported: use a number from {OPSETS[0]} to {OPSETS[-1]} for --opset (the default, "
            f"{DEFAULT_OPSET}, gives the fastest graphs)"
        )
    if static_length is not None and static_length < 2:
        raise ValueError(f"static_length ({static_length}) must be at least 2")


def trace(model: Any, opset: int, static_length: int | None = None) -> dict[str, Any]:
    """Returns the graphs of a text model as ONNX protocol buffers, by file name.

    Args:
        model: A text model for conditional generation, in float32.
        opset: Version of the ONNX operators.
        static_length: As in `export_onnx`.
    """
    decoder = model.config.decoder
    layers, heads = decoder.num_hidden_layers, (decoder.num_key_value_heads, decoder.head_dim)
    batch, source, target, past = (2, 5, 3, 4) if static_length is None else (1, static_length, 1, static_length)
    tokens = torch.ones(batch, source, dtype=torch.long)
    cache = [torch.zeros(batch, heads[0], past, heads[1]) for _ in range(2 * layers)]
    cross = [torch.zeros(batch, heads[0], source, heads[1]) for _ in range(2 * layers)]
    # a tensor that is given twice would be one input
    encoder_inputs: list[Any] = [tokens, tokens.clone()]
    # of its own memory: a part of another tensor has sizes that the exporter cannot express
    decoder_inputs: list[Any] = [torch.ones(batch, target, dtype=torch.long), tokens, cache, cross]
    encoder_free: list[Any] = [{0: FREE, 1: FREE}] * 2
    decoder_free: list[Any] = [{0: FREE, 1: FREE}] * 2 + [[{0: FREE, 2: FREE}] * 2 * layers] * 2
    if static_length is not None:
        decoder_inputs.append(torch.ones(1, past, dtype=torch.bool))
    graphs: dict[str, tuple[EncoderGraph | DecoderGraph, list[Any], list[Any]]] = {
        ENCODER_FILE: (EncoderGraph(model), encoder_inputs, encoder_free),
        DECODER_FILE: (DecoderGraph(model, is_static=static_length is not None), decoder_inputs, decoder_free),
    }
    return {
        file: _trace(graph, arguments, free if static_length is None else None, opset)
        for file, (graph, arguments, free) in graphs.items()
    }


def _trace(graph: EncoderGraph | DecoderGraph, arguments: list[Any], free: list[Any] | None, opset: int) -> Any:
    with torch.no_grad(), warnings.catch_warnings():
        # of the exporter's own parts, about which a user can do nothing
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.eval(),
            tuple(arguments),
            input_names=graph.input_names,
            output_names=graph.output_names,
            dynamic_shapes=None if free is None else tuple(free),
            opset_version=opset,
            verbose=False,
        )
    if program is None:
        raise ValueError("torch.onnx.export gave no graph")
    return rename_free_sizes(program.model_proto)
