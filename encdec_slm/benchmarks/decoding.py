"""First token and tokens per second of several models, in turns, so that a slow minute hits them all."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from encdec_slm.benchmarks.timing import Latency, TokenClock


@dataclass(frozen=True)
class Contestant:
    """A model and how it is asked.

    Attributes:
        name: What the table calls it.
        model: Any model that generates.
        generate_arguments: What `generate` gets besides what all contestants get, such as `{"use_cache": False}`.
    """

    name: str
    model: Any
    generate_arguments: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """What was read off the clocks for one contestant, call by call."""

    name: str
    parameters: int
    wall: tuple[Latency, ...]
    processor: tuple[Latency, ...]

    @property
    def first_token_seconds(self) -> float:
        """Median of the seconds until the first token, by the wall clock."""
        return statistics.median(latency.first_token_seconds for latency in self.wall)

    @property
    def seconds_per_token(self) -> float:
        """Median of the seconds between two tokens, by the wall clock."""
        return statistics.median(latency.seconds_per_token for latency in self.wall)

    @property
    def processor_first_token_seconds(self) -> float:
        """Median of the seconds until the first token, by processor time."""
        return statistics.median(latency.first_token_seconds for latency in self.processor)

    @property
    def processor_seconds_per_token(self) -> float:
        """Median of the seconds between two tokens, by processor time."""
        return statistics.median(latency.seconds_per_token for latency in self.processor)

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second after the first one."""
        return 1 / self.seconds_per_token


def measure(
    contestants: list[Contestant], *, input_length: int, new_tokens: int, repeats: int, report: Callable[[str], None]
) -> list[Measurement]:
    """Lets sequence-to-sequence models answer one random input in turns, after a warm-up each.

    Args:
        contestants: The models. All get the same input and write the same number of tokens.
        input_length: Tokens that the encoder reads.
        new_tokens: Tokens that the decoder writes, at least 2.
        repeats: Turns. The medians of so many calls are compared.
        report: Called with a line for each turn.
    """
    vocab_size = min(contestant.model.config.get_text_config(decoder=True).vocab_size for contestant in contestants)
    input_ids = torch.randint(3, vocab_size, (1, input_length), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    asked = [replace(one, generate_arguments={**inputs, **one.generate_arguments}) for one in contestants]
    for contestant in asked:
        answer(contestant, 2)
    return take_turns(asked, new_tokens=new_tokens, repeats=repeats, report=report)


def take_turns(
    contestants: list[Contestant], *, new_tokens: int, repeats: int, report: Callable[[str], None]
) -> list[Measurement]:
    """Lets the contestants generate in turns, A B C A B C ..., greedily. They should have answered once before.

    Args:
        contestants: The models, each with its input.
        new_tokens: Tokens that each of them writes, at least 2.
        repeats: Turns. The medians of so many calls are compared.
        report: Called with a line for each turn.
    """
    clock = TokenClock()
    latencies: list[list[tuple[Latency, ...]]] = [[] for _ in contestants]
    for repeat in range(repeats):
        for calls, contestant in zip(latencies, contestants, strict=True):
            calls.append(clock.time(partial(answer, contestant, new_tokens)))
        report(f"turn {repeat + 1} of {repeats}")
    return [
        Measurement(
            name=contestant.name,
            parameters=contestant.model.num_parameters(),
            wall=tuple(wall for wall, _ in calls),
            processor=tuple(processor for _, processor in calls),
        )
        for calls, contestant in zip(latencies, contestants, strict=True)
    ]


def answer(contestant: Contestant, new_tokens: int, streamer: object = None, **arguments: object) -> Any:
    """Returns what `generate` returns for exactly so many tokens, chosen greedily."""
    return contestant.model.generate(
        min_new_tokens=new_tokens,
        max_new_tokens=new_tokens,
        do_sample=False,
        streamer=streamer,
        **contestant.generate_arguments,
        **arguments,
    )
