"""How many bytes a model needs: of its weights, of what it keeps between two tokens, of all that it allocates.

Counted by the allocator of the CPU or of the GPU, not by the operating system, so that the numbers are the same in
every run.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, EncoderDecoderCache


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Returns by how many bytes the allocated memory grows at most while something runs."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    grown, peak = 0, 0
    for event in sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"]):
        grown += event["args"]["Bytes"]
        peak = max(peak, grown)
    return peak


def weight_bytes(model: nn.Module) -> int:
    """Returns the bytes of a model's weights, those that are tied once."""
    return sum(weight.nbytes for weight in model.parameters())


def cache_bytes(cache: Cache) -> int:
    """Returns the bytes of the keys and values that a cache holds."""
    if isinstance(cache, EncoderDecoderCache):
        return cache_bytes(cache.self_attention_cache) + cache_bytes(cache.cross_attention_cache)
    layers: Any = cache.layers
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
