"""Weights in a graph: whose they are, those that another tensor holds already, and embeddings in 8 bits."""

import ast
import hashlib
from typing import Any

import numpy as np


SCOPES = "pkg.torch.onnx.name_scopes"


def name_after_modules(model: Any) -> Any:
    """Returns a graph whose products of weights have their module's name, such as `decoder.layers.0.mlp.up_proj`.

    What else the exporter noted of every node goes: the lines of source code that it came from, with their folders.
    """
    for node in model.graph.node:
        notes = {note.key: note.value for note in node.metadata_props}
        scopes = ast.literal_eval(notes.get(SCOPES, "[]"))
        if node.op_type == "MatMul" and len(scopes) > 1:
            # the last is the operation
            node.name = f"{scopes[-2]}.{scopes[-1]}"
        del node.metadata_props[:]
    for entry in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del entry.metadata_props[:]
    del model.graph.metadata_props[:]
    return model


def compute_outputs(model: Any) -> Any:
    """Returns a graph of which no output is a weight itself, as converters expect it."""
    from onnx import helper

    weights = weights_of(model)
    for output in model.graph.output:
        if output.name in weights:
            weights[output.name].name = f"{output.name}.weight"
            model.graph.node.append(helper.make_node("Identity", [f"{output.name}.weight"], [output.name]))
    return model


def weights_of(model: Any) -> dict[str, Any]:
    """Returns the tensors of a graph by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def products_of_weights(model: Any) -> list[Any]:
    """Returns the nodes that multiply by a matrix of weights."""
    weights = weights_of(model)
    return [
        node
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in weights and len(weights[node.input[1]].dims) == 2
    ]


def tie_transposed(model: Any) -> Any:
    """Returns a graph that holds a matrix once where it also held its transpose: embedding and language modeling head.

    ONNX Runtime transposes it when it loads the graph, not at every token.
    """
    from onnx import helper, numpy_helper

    weights = weights_of(model)
    embeddings = {
        hashlib.sha256(np.ascontiguousarray(array.T).tobytes()).digest(): node.input[0]
        for node in model.graph.node
        if node.op_type == "Gather" and node.input[0] in weights
        for array in [numpy_helper.to_array(weights[node.input[0]])]
        if array.ndim == 2
    }
    for node in products_of_weights(model):
        tensor = weights[node.input[1]]
        tied = embeddings.get(hashlib.sha256(numpy_helper.to_array(tensor).tobytes()).digest())
        if tied is not None:
            model.graph.initializer.remove(tensor)
            model.graph.node.insert(0, helper.make_node("Transpose", [tied], [tensor.name], perm=[1, 0]))
    return model


def untie_transposed(model: Any) -> Any:
    """Returns a graph in which a transposed matrix of weights is weights too, as quantisers look for them.

    The exporter folds such a transposition itself, but not that of a large embedding which the head shares.
    """
    from onnx import numpy_helper

    weights = weights_of(model)
    for node in list(model.graph.node):
        if node.op_type == "Transpose" and node.input[0] in weights and len(weights[node.input[0]].dims) == 2:
            array = np.ascontiguousarray(numpy_helper.to_array(weights[node.input[0]]).T)
            model.graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
            model.graph.node.remove(node)
    return model


def quantize_embeddings(model: Any) -> Any:
    """Returns a graph whose embeddings are integers of 8 bits, with a scale for each token."""
    from onnx import TensorProto, helper, numpy_helper

    weights = weights_of(model)
    nodes = list(model.graph.node)
    for node in nodes:
        tensor = weights.get(node.input[0]) if node.op_type == "Gather" else None
        if tensor is None or len(tensor.dims) != 2 or tensor.data_type != TensorProto.FLOAT:
            continue
        table = numpy_helper.to_array(tensor)
        scales = np.maximum(np.abs(table).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / 127
        name, ids, output = tensor.name, node.input[1], node.output[0]
        for array, part in ((np.round(table / scales).astype(np.int8), "int8"), (scales, "scales")):
            model.graph.initializer.append(numpy_helper.from_array(array.astype(array.dtype), f"{name}.{part}"))
        model.graph.initializer.remove(tensor)
        place = list(model.graph.node).index(node)
        model.graph.node.remove(node)
        for new in reversed(
            (
                helper.make_node("Gather", [f"{name}.int8", ids], [f"{output}.int8"]),
                helper.make_node("Gather", [f"{name}.scales", ids], [f"{output}.scales"]),
                helper.make_node("Cast", [f"{output}.int8"], [f"{output}.float"], to=TensorProto.FLOAT),
                helper.make_node("Mul", [f"{output}.float", f"{output}.scales"], [output]),
            )
        ):
            model.graph.node.insert(place, new)
    return model
