"""Graphs in fewer bits, by ONNX Runtime's own quantisers, with the layers that should stay more precise.

`int8`: weights in 8 bits, a scale for each column, activations in 8 bits as they come. `int4`: weights of the decoder
in 4 bits, a scale for each block of a column; the encoder stays in 8, since a prompt is bound by arithmetic and not
by memory, and so does a vision tower, whose convolutions and positions stay in float32. `fp16`: everything. A call has
one scale for the activations of all rows of its batch: in 8 bits, a row is rounded a little differently beside others
than alone.
"""

import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from encdec_slm.export.onnx_calibration import Feeds, quantize_calibrated
from encdec_slm.export.onnx_names import DECODER_FILE, VISION_FILE
from encdec_slm.export.onnx_weights import (
    name_after_modules,
    products_of_weights,
    quantize_embeddings,
    tie_transposed,
    untie_transposed,
)


# of what is kept if the caller does not say: errors of the head are errors of the logits
KEPT = {"fp32": (), "fp16": (), "int8": (), "int4": ("lm_head",)}
# weights of 4 bits that share a scale
BLOCK_SIZE = 128
# of MatMulNBits: activations in 8 bits, as fast on a processor as its memory
INT8_ACTIVATIONS = 4


def quantize(
    graphs: dict[str, Any],
    dtype: str,
    keep: Sequence[str] | None = None,
    feeds: dict[str, Feeds] | None = None,
) -> dict[str, Any]:
    """Returns graphs with weights of another type.

    Args:
        graphs: Protocol buffers by file name, in float32.
        dtype: `fp32`, `fp16`, `int8` or `int4`.
        keep: Regular expressions; modules in whose name one is found keep the next more precise type: float32 for
            `int8`, 8 bits for `int4`. `KEPT` if not given.
        feeds: What `record_feeds` returned, to fix the scales of activations (`int8` alone).

    Raises:
        ValueError: If an expression is in no module's name, or the type keeps none.
    """
    if keep and dtype not in ("int8", "int4"):
        raise ValueError(f"keep was given, but with the dtype {dtype} all layers are alike: leave it out")
    graphs = {file: name_after_modules(model) for file, model in graphs.items()}
    if dtype in ("int8", "int4"):
        graphs = {file: untie_transposed(model) for file, model in graphs.items()}
    kept = kept_nodes(graphs, KEPT[dtype] if keep is None else keep)
    if feeds is not None:
        return {
            file: quantize_embeddings(quantize_calibrated(model, feeds[file], kept)) for file, model in graphs.items()
        }
    return {file: QUANTIZERS[dtype](file, model, kept) for file, model in graphs.items()}


def kept_nodes(graphs: dict[str, Any], keep: Sequence[str]) -> list[str]:
    """Returns the names of the products whose module is kept."""
    names = [node.name for model in graphs.values() for node in products_of_weights(model)]
    for pattern in keep:
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(
                f"{pattern!r} is in the name of no module, so that nothing would be kept more precise. Names are such "
                f"as {names[0].rpartition('.')[0]} and {names[-1].rpartition('.')[0]}"
            )
    return [name for name in names if any(re.search(pattern, name) for pattern in keep)]


def _as_it_is(file: str, model: Any, kept: list[str]) -> Any:
    return tie_transposed(model)


def _to_fp16(file: str, model: Any, kept: list[str]) -> Any:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    # what `generate` gives and reads stays as it was; the caches do not
    names = [entry.name for entry in (*model.graph.input, *model.graph.output)]
    kept_names = [name for name in names if not name.startswith(("past_key_values.", "present."))]
    return tie_transposed(convert_float_to_float16(model, keep_io_types=kept_names, disable_shape_infer=True))


def _to_int8(file: str, model: Any, kept: list[str]) -> Any:
    model = _in_8_bits(model, kept)
    # the tables of a tower are positions, and small
    return model if file == VISION_FILE else quantize_embeddings(model)


def _to_int4(file: str, model: Any, kept: list[str]) -> Any:
    if file != DECODER_FILE:
        return _to_int8(file, model, [])
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    config = DefaultWeightOnlyQuantConfig(
        block_size=BLOCK_SIZE, is_symmetric=False, accuracy_level=INT8_ACTIVATIONS, op_types_to_quantize=("MatMul",)
    )
    quantizer = MatMulNBitsQuantizer(model, algo_config=config, nodes_to_exclude=kept)
    quantizer.process()
    # what was kept is the only product of weights that is left
    return quantize_embeddings(_in_8_bits(quantizer.model.model, []))


def _in_8_bits(model: Any, kept: list[str]) -> Any:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        quantize_dynamic(
            model,
            file,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            # unsigned: processors without instructions for 8 bits saturate when they multiply signed ones
            weight_type=QuantType.QUInt8,
            nodes_to_exclude=kept,
            use_external_data_format=True,
            # products of two activations stay in float32
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(file)


QUANTIZERS: dict[str, Callable[[str, Any, list[str]], Any]] = {
    "fp32": _as_it_is,
    "fp16": _to_fp16,
    "int8": _to_int8,
    "int4": _to_int4,
}
