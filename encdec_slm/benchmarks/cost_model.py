"""What the machine allows: every token takes bytes from memory and operations, and it has so many of both a second.

A measurement that beats this limit is wrong, or the limit is.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from encdec_slm.benchmarks.counting import TokenCost
from encdec_slm.benchmarks.formula import StepFlops


# by how much a median may beat the limit: rates and times are read off clocks, and some bytes are still in a cache
TOLERANCE = 0.10
REPEATS = 7
# of the bytes that are read by one product; more than any layer has, and few enough for any memory
WIDTH = 1024
# positions, inputs and outputs of a product that keeps one thread busy, and of one that keeps a GPU busy
PRODUCT = ((512, 1024, 2048), (8192, 4096, 8192))


class ImpossibleSpeedError(ValueError):
    """A time was measured in which the machine cannot do the work."""


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second at its best.

    Attributes:
        bytes_per_second: Read from memory, of as much of it as a token needs.
        flops_per_second: Of large matrix products.
    """

    bytes_per_second: float
    flops_per_second: float


def read_rate(nbytes: int, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Returns bytes that are read from memory in a second, the best of several repetitions.

    They are read by a sum and by the product of a matrix and a vector, in float32, whichever is faster.

    Args:
        nbytes: Bytes to read: a smaller part of the memory fits into caches, which are faster.
        device: Where.
        clock: Returns seconds.
    """
    matrix = torch.ones(max(1, nbytes // (4 * WIDTH)), WIDTH, device=device)
    vector = torch.ones(1, WIDTH, device=device)
    seconds = (_seconds(run, device, clock) for run in (matrix.sum, lambda: F.linear(vector, matrix)))
    return matrix.nbytes / min(seconds)


def product_rate(dtype: torch.dtype, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Returns floating-point operations of large matrix products in a second, the best of several repetitions.

    Products are taken in `dtype` and in float32, since a library may convert what it is given.

    Args:
        dtype: Of the model.
        device: Where.
        clock: Returns seconds.
    """
    positions, inputs, outputs = PRODUCT[device.type == "cuda"]
    best = 0.0
    for kind in {dtype, torch.float32}:
        x = torch.ones(positions, inputs, dtype=kind, device=device)
        weight = torch.ones(outputs, inputs, dtype=kind, device=device)
        seconds = _seconds(partial(F.linear, x, weight), device, clock)
        best = max(best, 2 * positions * inputs * outputs / seconds)
    return best


def _seconds(run: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    def once() -> float:
        began = clock()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock() - began

    once()
    # a clock moved by hand may stand still
    return max(min(once() for _ in range(REPEATS)), 1e-12)


@dataclass(frozen=True)
class Limit:
    """The least time that a machine can take.

    Attributes:
        first_token_seconds: For reading the input and writing one token.
        seconds_per_token: For each token after it, on average over the answer.
        token_bytes: What such a token reads: weights, and keys and values of all rows.
        rates: What of the machine this follows from.
    """

    first_token_seconds: float
    seconds_per_token: float
    token_bytes: int
    rates: Rates

    @property
    def tokens_per_second(self) -> float:
        """Of each row, after the first token."""
        return 1 / self.seconds_per_token


def limit(costs: Sequence[TokenCost], flops: Sequence[StepFlops], cache_bytes: int, rates: Rates) -> Limit:
    """Returns the limit of an answer.

    Args:
        costs: What was counted of its tokens.
        flops: By formula, of its tokens.
        cache_bytes: Of the keys and values that a token after the first reads, on average.
        rates: Of the machine.
    """
    others = max(1, len(costs) - 1)
    token_bytes = sum(cost.weight_bytes for cost in costs[1:]) // others + cache_bytes
    return Limit(
        first_token_seconds=_roofline(flops[0].least, costs[0].weight_bytes, rates),
        seconds_per_token=_roofline(sum(step.least for step in flops[1:]) / others, token_bytes, rates),
        token_bytes=token_bytes,
        rates=rates,
    )


def _roofline(flops: float, nbytes: float, rates: Rates) -> float:
    return max(flops / rates.flops_per_second, nbytes / rates.bytes_per_second)


def refuse_what_is_impossible(
    name: str, first_token_seconds: float, seconds_per_token: float, least: Limit, tolerance: float = TOLERANCE
) -> None:
    """Refuses a measurement that is better than the limit by more than a tolerance.

    Raises:
        ImpossibleSpeedError: If it is.
    """
    pairs = (
        ("a first token", first_token_seconds, least.first_token_seconds),
        ("a token", seconds_per_token, least.seconds_per_token),
    )
    for what, measured, possible in pairs:
        if measured < (1 - tolerance) * possible:
            raise ImpossibleSpeedError(
                f"{name} took {1e3 * measured:.3g} ms for {what}, but it takes {1e3 * possible:.3g} ms or more at "
                f"{least.rates.bytes_per_second / 1e9:.1f} GB/s and {least.rates.flops_per_second / 1e9:.0f} GFLOP/s, "
                "as measured here: the model leaves work out, or something else held the machine while its rates were "
                "measured; measure again when nothing else runs"
            )
