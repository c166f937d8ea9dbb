"""A model of ours as ONNX graphs: what inputs each part is traced with, and which of their sizes may be any."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from encdec_slm.export.onnx_files import rename_free_sizes
from encdec_slm.export.onnx_graphs import DecoderGraph, EncoderGraph
from encdec_slm.export.onnx_names import CROSS_FILE, DECODER_FILE, EMBED_FILE, ENCODER_FILE, VISION_FILE
from encdec_slm.export.onnx_vision_graphs import CrossGraph, EmbedGraph, EmbedsEncoderGraph, VisionGraph
from encdec_slm.export.onnx_weights import compute_outputs
from encdec_slm.models.configuration_encdec_slm_vision import EncDecSLMVisionConfig


FREE = torch.export.Dim.AUTO


@dataclass(frozen=True)
class Part:
    """A graph to be.

    Attributes:
        graph: What is traced; it has `input_names` and `output_names`.
        inputs: Examples.
        free: Of every input, which sizes may be any.
    """

    graph: nn.Module
    inputs: list[Any]
    free: list[Any]


def trace(model: Any, opset: int, static_length: int | None = None) -> dict[str, Any]:
    """Returns the graphs of a model as ONNX protocol buffers, by file name.

    Args:
        model: A model for conditional generation, in float32.
        opset: Version of the ONNX operators.
        static_length: Tokens of the only row that the graphs read, if they are to be static; they then read one view
            of an image at a time.

    Raises:
        ValueError: If the installed PyTorch cannot write that version.
    """
    parts = {ENCODER_FILE: _encoder(model, static_length), DECODER_FILE: _decoder(model, static_length)}
    if isinstance(model.config, EncDecSLMVisionConfig):
        parts |= _vision(model, static_length)
    return {file: write(part, opset, is_static=static_length is not None) for file, part in parts.items()}


def _tokens(static_length: int | None) -> torch.Tensor:
    return torch.ones(2, 5, dtype=torch.long) if static_length is None else torch.ones(1, static_length).long()


def _encoder(model: Any, static_length: int | None) -> Part:
    tokens, free = _tokens(static_length), {0: FREE, 1: FREE}
    if not isinstance(model.config, EncDecSLMVisionConfig):
        # a tensor that is given twice would be one input
        return Part(EncoderGraph(model), [tokens, tokens.clone()], [free] * 2)
    embeds = model.get_encoder().embed_tokens(tokens).detach()
    return Part(EmbedsEncoderGraph(model), [embeds, tokens], [free] * 2)


def _decoder(model: Any, static_length: int | None) -> Part:
    decoder = model.config.decoder
    layers, heads = decoder.num_hidden_layers, (decoder.num_key_value_heads, decoder.head_dim)
    tokens = _tokens(static_length)
    batch, source = tokens.shape
    target, past = (3, 4) if static_length is None else (1, static_length)
    cache = [torch.zeros(batch, heads[0], past, heads[1]) for _ in range(2 * layers)]
    cross = [torch.zeros(batch, heads[0], source, heads[1]) for _ in range(2 * layers)]
    # of its own memory: a part of another tensor has sizes that the exporter cannot express
    inputs: list[Any] = [torch.ones(batch, target, dtype=torch.long), tokens, cache, cross]
    if static_length is not None:
        inputs.append(torch.ones(1, past, dtype=torch.bool))
    free = [{0: FREE, 1: FREE}] * 2 + [[{0: FREE, 2: FREE}] * 2 * layers] * 2
    return Part(DecoderGraph(model, is_static=static_length is not None), inputs, free)


def _vision(model: Any, static_length: int | None) -> dict[str, Part]:
    config, tokens, free = model.config.encoder, _tokens(static_length), {0: FREE, 1: FREE}
    views = torch.zeros(len(tokens), 3, config.image_size, config.image_size)
    parts = {
        EMBED_FILE: Part(EmbedGraph(model), [tokens], [free]),
        VISION_FILE: Part(VisionGraph(model), [views], [{0: FREE}]),
    }
    if config.image_state_pooling > 1:
        parts[CROSS_FILE] = Part(CrossGraph(model), [torch.zeros(*tokens.shape, config.hidden_size)], [free])
    return parts


@contextmanager
def _quietly() -> Iterator[None]:
    """Leaves out what is said of the exporter's own parts, about which a user can do nothing."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def write(part: Part, opset: int, is_static: bool) -> Any:
    """Returns one graph as an ONNX protocol buffer.

    Raises:
        ValueError: If the installed PyTorch cannot write that version.
    """
    graph: Any = part.graph.eval()
    with torch.no_grad(), _quietly():
        program = torch.onnx.export(
            graph,
            tuple(part.inputs),
            input_names=graph.input_names,
            output_names=graph.output_names,
            dynamic_shapes=None if is_static else tuple(part.free),
            opset_version=opset,
            verbose=False,
        )
    if program is None:
        raise ValueError("torch.onnx.export gave no graph")
    # the exporter converts what it cannot write, and goes on with what it has where that fails
    written = next(entry.version for entry in program.model_proto.opset_import if not entry.domain)
    if written != opset:
        raise ValueError(
            f"opset {opset} was asked for, but PyTorch {torch.__version__} could write opset {written} alone: use that"
        )
    return rename_free_sizes(compute_outputs(program.model_proto))
