"""Graphs on disk: all weights in one file beside them, each of them once, which readers map into memory."""

import hashlib
from pathlib import Path
from typing import Any

from encdec_slm.export.onnx_names import ENCODER_MASK


DATA_FILE = "model.onnx_data"
# smaller tensors stay in the graph, where constants are expected
SMALLEST_BYTES = 1024
# as ONNX advises, so that the file can be mapped
ALIGNMENT = 4096


def rename_free_sizes(graph_proto: Any) -> Any:
    """Returns a model whose sizes that may be any are called by what they are, and not by the exporter's symbols."""
    graph = graph_proto.graph
    names: dict[str, str] = {}
    axes = {
        "input_ids": ("batch_size", "decoder_sequence_length"),
        "inputs_embeds": ("batch_size", "encoder_sequence_length"),
        "encoder_hidden_states": ("batch_size", "encoder_sequence_length"),
        "attention_mask": ("batch_size", "encoder_sequence_length"),
        ENCODER_MASK: ("batch_size", "encoder_sequence_length"),
        "decoder.key": ("batch_size", "", "past_decoder_sequence_length"),
        "pixel_values": ("num_views",),
    }
    # embeddings are what one graph gives and another one reads
    for entry in (*graph.input, *(output for output in graph.output if output.name == "inputs_embeds")):
        of_entry = next((sizes for name, sizes in axes.items() if entry.name.endswith(name)), ())
        for size, name in zip(entry.type.tensor_type.shape.dim, of_entry, strict=False):
            if size.dim_param and name:
                # an encoder's tokens are as many as its mask's entries or embeddings, which come later and win
                names[size.dim_param] = name
    for entry in (*graph.input, *graph.output, *graph.value_info):
        for size in entry.type.tensor_type.shape.dim:
            if size.dim_param in names:
                size.dim_param = names[size.dim_param]
    return graph_proto


def save_graphs(folder: Path, graphs: dict[str, Any]) -> None:
    """Writes graphs and one file with the weights of all of them, those of equal bytes once.

    Args:
        folder: Where to.
        graphs: Protocol buffers by file name; their weights are moved out of them.
    """
    import onnx
    from onnx import external_data_helper, numpy_helper

    places: dict[bytes, tuple[int, int]] = {}
    with (folder / DATA_FILE).open("wb") as data:
        for model in graphs.values():
            for tensor in model.graph.initializer:
                # as bytes of the tensor, however it was held before
                raw = numpy_helper.to_array(tensor).tobytes() if not tensor.raw_data else tensor.raw_data
                if len(raw) < SMALLEST_BYTES:
                    continue
                digest = hashlib.sha256(raw).digest()
                if digest not in places:
                    data.seek(-(-data.tell() // ALIGNMENT) * ALIGNMENT)
                    places[digest] = (data.tell(), len(raw))
                    data.write(raw)
                tensor.raw_data = raw
                external_data_helper.set_external_data(tensor, DATA_FILE, *places[digest])
                tensor.ClearField("raw_data")
    for file, model in graphs.items():
        onnx.save_model(model, folder / file)
