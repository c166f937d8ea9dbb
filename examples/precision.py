"""In which precision a machine trains fastest."""

import time

import torch
from transformers import TrainingArguments


def bfloat16_is_faster(size: int = 512, turns: int = 5) -> bool:
    """Whether products of matrices take less time in bfloat16 than in float32 here.

    A processor that has no instructions for bfloat16 computes it all the same, several times slower. Flags that tell
    have many names, so that it is measured: the fastest of a few products, in turns.

    Args:
        size: Rows and columns of the matrices.
        turns: Products in each precision.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    factors = {dtype: torch.ones(size, size, dtype=dtype, device=device) for dtype in (torch.float32, torch.bfloat16)}
    seconds: dict[torch.dtype, list[float]] = {dtype: [] for dtype in factors}
    # the first turn warms up
    for _ in range(turns + 1):
        for dtype, factor in factors.items():
            began = time.perf_counter()
            # reading an element waits for a GPU
            (factor @ factor)[0, 0].item()
            seconds[dtype].append(time.perf_counter() - began)
    float32, bfloat16 = (min(taken[1:]) for taken in seconds.values())
    return bfloat16 < float32


def training_dtype(args: TrainingArguments) -> torch.dtype:
    """The type in which a training computes its products."""
    return torch.bfloat16 if args.bf16 else torch.float32
