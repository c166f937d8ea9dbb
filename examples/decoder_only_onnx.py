"""A decoder-only peer in ONNX Runtime: a Llama as one graph, quantised and run as our decoder is. For comparisons."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel
from transformers.modeling_utils import AttentionInterface

from encdec_slm.export.onnx_export import DEFAULT_OPSET
from encdec_slm.export.onnx_files import save_graphs
from encdec_slm.export.onnx_graphs import graph_attention, masked
from encdec_slm.export.onnx_names import DECODER_FILE
from encdec_slm.export.onnx_quantization import quantize
from encdec_slm.export.onnx_session import open_session, session_options
from encdec_slm.export.onnx_trace import FREE


class GraphNorm(nn.Module):
    """The norm of Llama as one operator, which is what our model's becomes in a graph."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight, self.epsilon = norm.weight, norm.variance_epsilon

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Returns the normalised states."""
        return torch.rms_norm(states, self.weight.shape, self.weight, self.epsilon)


class LlamaGraph(nn.Module):
    """Tokens and the cache to the logits of the last token and the longer cache."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        AttentionInterface.register("graph", graph_attention)
        model.config._attn_implementation = "graph"
        self.model, self.lm_head = model.model, model.lm_head
        self.model.norm = GraphNorm(self.model.norm)
        for layer in self.model.layers:
            layer.input_layernorm = GraphNorm(layer.input_layernorm)
            layer.post_attention_layernorm = GraphNorm(layer.post_attention_layernorm)
        names = [f"{number}.{part}" for number in range(len(self.model.layers)) for part in ("key", "value")]
        self.input_names = ["input_ids", *(f"past_key_values.{name}" for name in names)]
        self.output_names = ["logits", *(f"present.{name}" for name in names)]

    def forward(self, input_ids: torch.Tensor, past: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Returns the logits of the last token, then keys and values of each layer."""
        states = self.model.embed_tokens(input_ids)
        length, target = past[0].shape[2], states.shape[1]
        position_ids = length + torch.arange(target)[None]
        causal = torch.arange(length + target) <= position_ids[0, :, None]
        mask = masked(causal).repeat(self.model.layers[0].self_attn.num_key_value_groups, 1)[None, None]
        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        positions = self.model.rotary_emb(states, position_ids)
        for layer in self.model.layers:
            states = layer(states, attention_mask=mask, past_key_values=cache, position_embeddings=positions)
        logits = self.lm_head(self.model.norm(states[:, -1:]))
        return (logits, *(tensor for layer in cache.layers for tensor in (layer.keys, layer.values)))


def export_decoder_only(model: PreTrainedModel, folder: Path, dtypes: tuple[str, ...]) -> None:
    """Writes a graph of a Llama for each dtype, into a folder of that name; the model cannot be used afterwards."""
    serialized = _traced(model)
    for dtype in dtypes:
        (folder / dtype).mkdir(parents=True)
        # each of its own: quantisers change what they are given
        save_graphs(folder / dtype, quantize({DECODER_FILE: onnx.ModelProto.FromString(serialized)}, dtype))


def _traced(model: PreTrainedModel) -> bytes:
    graph = LlamaGraph(model).eval()
    config = model.config
    past = [
        torch.zeros(2, config.num_key_value_heads, 4, config.head_dim) for _ in range(2 * config.num_hidden_layers)
    ]
    with torch.no_grad():
        program = torch.onnx.export(
            graph,
            (torch.ones(2, 3, dtype=torch.long), past),
            input_names=graph.input_names,
            output_names=graph.output_names,
            dynamic_shapes=({0: FREE, 1: FREE}, [{0: FREE, 2: FREE}] * len(past)),
            opset_version=DEFAULT_OPSET,
            verbose=False,
        )
    return program.model_proto.SerializeToString()


class DecoderOnly:
    """Greedy search over such a graph, as `encdec_slm.benchmarks` asks for it."""

    def __init__(self, folder: Path, config: Any, parameters: int, threads: int) -> None:
        self.session = open_session(folder / DECODER_FILE, options=session_options(threads))
        self.config, self.parameters = config, parameters

    def num_parameters(self) -> int:
        """Returns the number of weights."""
        return self.parameters

    def step(self, input_ids: np.ndarray, past: list[Any]) -> tuple[np.ndarray, list[Any]]:
        """Returns the logits of the last token and the cache."""
        from onnxruntime import OrtValue

        names = [entry.name for entry in self.session.get_inputs()]
        feeds = dict(zip(names, [OrtValue.ortvalue_from_numpy(input_ids), *past], strict=True))
        logits, *past = self.session.run_with_ort_values(None, feeds)
        return logits.numpy(), past

    def empty(self, batch: int = 1) -> list[Any]:
        """Returns a cache that holds nothing."""
        from onnxruntime import OrtValue

        shape = (batch, self.config.num_key_value_heads, 0, self.config.head_dim)
        return [OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32)) for _ in self.session.get_inputs()[1:]]

    def generate(self, input_ids: torch.Tensor, max_new_tokens: int, streamer: Any = None, **kwargs: Any) -> Any:
        """Returns input and answer, as a model of the library does."""
        tokens, past, answer = input_ids.numpy(), self.empty(), [input_ids]
        if streamer is not None:
            streamer.put(input_ids)
        for _ in range(max_new_tokens):
            logits, past = self.step(tokens, past)
            tokens = logits[:, -1:].argmax(-1)
            answer.append(torch.from_numpy(tokens))
            if streamer is not None:
                streamer.put(answer[-1])
        return torch.cat(answer, dim=1)
