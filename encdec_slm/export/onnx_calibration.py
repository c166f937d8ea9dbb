"""Scales of activations measured on texts, so that a graph need not work them out at every token: what NPUs want."""

import copy
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encdec_slm.export.onnx_engine import OnnxEngine
from encdec_slm.export.onnx_files import save_graphs
from encdec_slm.export.onnx_names import DECODER_FILE, ENCODER_FILE


# of every text: each holds all keys and values of the input once more
NEW_TOKENS = 4

Feeds = list[dict[str, NDArray[Any]]]


class RecordingEngine(OnnxEngine):
    """An engine that remembers what its graphs were given."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.feeds: dict[str, Feeds] = {ENCODER_FILE: [], DECODER_FILE: []}

    def _run(self, session: Any, feeds: dict[str, Any], on_processor: str) -> dict[str, Any]:
        file = ENCODER_FILE if session is self.encoder else DECODER_FILE
        self.feeds[file].append({name: value.numpy() for name, value in feeds.items()})
        return super()._run(session, feeds, on_processor)


def record_feeds(graphs: dict[str, Any], rows: Iterable[list[int]], start_token_id: int) -> dict[str, Feeds]:
    """Returns what both graphs are given while they answer the first tokens to texts, by file name.

    Args:
        graphs: In float32.
        rows: Token ids of each text.
        start_token_id: What the decoder begins with.

    Raises:
        ValueError: If there is no text, or one is longer than static graphs.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_graphs(Path(folder), copy.deepcopy(graphs))
        engine = RecordingEngine(Path(folder))
        for row in rows:
            encoded = engine.encode(np.array([row], np.int64))
            engine.greedy(encoded, start_token_id=start_token_id, max_new_tokens=NEW_TOKENS)
    if not engine.feeds[ENCODER_FILE]:
        raise ValueError("there is no text to calibrate on: every line of the file is blank")
    return engine.feeds


def quantize_calibrated(model: Any, feeds: Feeds, kept: list[str]) -> Any:
    """Returns a graph with weights and activations in 8 bits, all scales fixed (ONNX's QDQ form).

    Args:
        model: In float32.
        feeds: What it was given, as `record_feeds` returns it.
        kept: Names of nodes that stay in float32.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[dict[str, NDArray[Any]]] = iter(feeds)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(self.left, None)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        quantize_static(
            model,
            file,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=kept,
            use_external_data_format=True,
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(file)
