"""When each token of an unmodified `generate` came out."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn
from transformers.generation.streamers import BaseStreamer


Clock = Callable[[], float]
WALL_AND_PROCESSOR: tuple[Clock, ...] = (time.perf_counter, time.process_time)


@dataclass(frozen=True)
class Latency:
    """Seconds of one call of `generate`, by one clock."""

    first_token_seconds: float
    seconds_per_token: float


class TokenClock(BaseStreamer):
    """Reads one or more clocks whenever `generate` hands over a token.

    Works with greedy search and sampling, which are what `generate` streams. The clocks are passed in, so that a test
    can move them.

    Args:
        clocks: Functions that return seconds; wall clock and processor time if not given. The second tells whether
            something else held the processor: on one thread and an idle machine both run alike.
    """

    def __init__(self, clocks: tuple[Clock, ...] = WALL_AND_PROCESSOR) -> None:
        self.clocks = clocks
        self.readings: list[tuple[float, ...]] = []

    def _read(self) -> None:
        self.readings.append(tuple(clock() for clock in self.clocks))

    def put(self, value: torch.Tensor) -> None:
        """Called by `generate`: first with the decoder's start tokens, then token by token."""
        self._read()

    def end(self) -> None:
        """Called by `generate` after the last token, which has been counted."""

    def time(self, run: Callable[["TokenClock"], object]) -> tuple[Latency, ...]:
        """Returns the latency of `run`, which calls `generate(streamer=...)` once, by each clock.

        Raises:
            ValueError: If `run` generated fewer than two tokens, so that there is no time between tokens.
        """
        self.readings = []
        self._read()
        run(self)
        # started, then the decoder's start tokens, then the tokens
        start, tokens = self.readings[0], self.readings[2:]
        if len(tokens) < 2:
            raise ValueError(f"a latency needs two tokens or more, but {len(tokens)} came: raise max_new_tokens")
        return tuple(
            Latency(
                first_token_seconds=first - begin,
                seconds_per_token=(last - first) / (len(tokens) - 1),
            )
            for begin, first, last in zip(start, tokens[0], tokens[-1], strict=True)
        )

    def time_whole(self, run: Callable[[int], object], new_tokens: int) -> tuple[Latency, ...]:
        """Returns the latency of a model that hands over no single tokens, of an answer of one token and a whole one.

        Args:
            run: Called with the number of tokens to generate.
            new_tokens: Tokens of the whole answer, at least 2.
        """
        self.readings = []
        self._read()
        for number in (1, new_tokens):
            run(number)
            self._read()
        return tuple(
            Latency(
                first_token_seconds=one - begin,
                seconds_per_token=((whole - one) - (one - begin)) / (new_tokens - 1),
            )
            for begin, one, whole in zip(*self.readings, strict=True)
        )


class ModuleClock:
    """Reads clocks before and after every call of a module, while it is entered.

    Args:
        module: A part of a model.
        clocks: Functions that return seconds; wall clock and processor time if not given.
    """

    def __init__(self, module: nn.Module, clocks: tuple[Clock, ...] = WALL_AND_PROCESSOR) -> None:
        self.module = module
        self.clocks = clocks
        self.readings: list[tuple[float, ...]] = []

    def _read(self, *args: Any) -> None:
        self.readings.append(tuple(clock() for clock in self.clocks))

    def __enter__(self) -> Self:
        self._hooks = (
            self.module.register_forward_pre_hook(self._read),
            self.module.register_forward_hook(self._read),
        )
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    @property
    def seconds(self) -> list[tuple[float, ...]]:
        """Seconds of each call, by each clock."""
        return [
            tuple(after - before for before, after in zip(*call, strict=True))
            for call in zip(self.readings[::2], self.readings[1::2], strict=True)
        ]
