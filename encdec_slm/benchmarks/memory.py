"""How many bytes a model needs: of its weights, of what it keeps between two tokens, of all that it allocates.

Counted by the allocator of the CPU or of the GPU, not by the operating system, so that the numbers are the same in
every run. What the operating system gives to a whole process is in `footprint.py`.
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
    # a T5 whose decoder has fewer layers than its encoder leaves some of them empty
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers if layer.keys is not None)


def mean_cache_bytes(cache: Cache | None, new_tokens: int) -> int:
    """Returns the bytes of keys and values that a token after the first reads, on average over an answer.

    Args:
        cache: As it is after the answer; None for a model without.
        new_tokens: Tokens of the answer, at least 2. The last one has not been read.
    """
    if cache is None:
        return 0
    if isinstance(cache, EncoderDecoderCache):
        return mean_cache_bytes(cache.self_attention_cache, new_tokens) + cache_bytes(cache.cross_attention_cache)
    length = cache.get_seq_length()
    # the first of them finds all but what is written after it, the last one everything
    mean_length = length - (new_tokens - 2) / 2
    return round(cache_bytes(cache) * mean_length / length)
