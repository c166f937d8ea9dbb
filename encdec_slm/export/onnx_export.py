"""`encdec-slm export --format onnx`: the graphs are traced, quantised, written, run and compared before they count."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from encdec_slm.export.onnx_calibration import Feeds, record_feeds
from encdec_slm.export.onnx_check import compare_with_source
from encdec_slm.export.onnx_files import save_graphs
from encdec_slm.export.onnx_quantization import KEPT, quantize
from encdec_slm.export.onnx_session import onnxruntime
from encdec_slm.export.onnx_trace import trace
from encdec_slm.export.report import ExportReport
from encdec_slm.export.source import load_source, save_companions
from encdec_slm.models.configuration_encdec_slm_vision import EncDecSLMVisionConfig
from encdec_slm.models.image_tokens_encdec_slm import count_image_tokens
from encdec_slm.output_folder import output_folder


# below, PyTorch's exporter leaves its graphs at 18; above, it leaves them half converted
OPSETS = range(18, 26)
# the first with an operator for RMSNorm: below, every norm is six
DEFAULT_OPSET = 23


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
    """Writes a model as graphs for ONNX Runtime, with its tokenizer or processor.

    The graphs are `encoder_model.onnx`, which also gives the keys and values of cross-attention, and
    `decoder_model_merged.onnx`, which reads a prompt or a token and both caches; their weights are in
    `model.onnx_data`, those that several have once. `ORTEncDecSLM` runs the folder.

    Of a model that reads images there are two more: `vision_encoder.onnx`, tower and projector, of any number of
    views, and `embed_tokens.onnx`, whose embeddings the encoder's graph then reads, those of image tokens replaced by
    features. `ORTEncDecSLMVision` does that. If the model averages the states of images, a graph of its own computes
    keys and values: `cross_attention.onnx`.

    Args:
        model: Folder or id on the Hub of a model of this package.
        output: The folder to write.
        dtype: Of the weights: `fp32`, `fp16`, `int8`, or `int4` (the decoder's, and `int8` for the rest).
        opset: Version of the ONNX operators.
        static_length: Tokens of the only row that the graphs then read, shorter inputs padded, and that the decoder
            may write; any number of rows and tokens if not given. A tower then sees one view at a time.
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
        if isinstance(source.config, EncDecSLMVisionConfig):
            _refuse_vision(source.config, static_length, calibrate)
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


def _refuse_vision(
    config: EncDecSLMVisionConfig, static_length: int | None, calibrate: str | PathLike[str] | None
) -> None:
    if config.image_token_id is None:
        raise ValueError("the configuration has no image_token_id, so that no image has a place in the input: set it")
    if calibrate is not None:
        raise ValueError(
            "calibrate was given, but it measures activations on texts alone, and this model reads images too: leave "
            "it out"
        )
    encoder: Any = config.encoder
    decoder: Any = config.decoder
    if encoder.image_state_pooling > 1 and decoder.cross_attention_rope:
        raise ValueError(
            "decoder.cross_attention_rope and encoder.image_state_pooling are set, but the graph of cross-attention "
            "is not told which of the averaged states are padding: a model with one of both can be exported"
        )
    geometry = encoder.image_geometry
    (fewest,) = count_image_tokens([(geometry.image_size, geometry.image_size)], geometry)
    if static_length is not None and fewest >= static_length:
        raise ValueError(
            f"static_length is {static_length}, but an image of one view takes {fewest} tokens: raise it, or lower "
            "max_image_tokens of the model"
        )


def _refuse(dtype: str, opset: int, static_length: int | None) -> None:
    if dtype not in KEPT:
        raise ValueError(f"the format onnx has no dtype {dtype!r}: use one of {', '.join(KEPT)}")
    if opset not in OPSETS:
        raise ValueError(
            f"opset {opset} is not supported: use a number from {OPSETS[0]} to {OPSETS[-1]} for --opset, for which "
            "PyTorch's exporter has operators or converts them, and of which the graphs were seen to compute what the "
            f"model computes (the default, {DEFAULT_OPSET}, is the first with an operator for RMSNorm)"
        )
    if static_length is not None and static_length < 2:
        raise ValueError(f"static_length ({static_length}) must be at least 2")
