"""First token and tokens per second of several models, in turns, so that a slow minute hits them all."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from encdec_slm.benchmarks.timing import Latency, TokenClock


@dataclass(frozen=True)
class Contestant:
    """A model and how it is asked.

    Attributes:
        name: What the table calls it.
        model: Any sequence-to-sequence model.
        generate_arguments: What `generate` gets besides the input, such as `{"use_cache": False}`.
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
    """Lets the contestants generate in turns, A B C A B C ..., one sequence greedily, after a warm-up each.

    Args:
        contestants: The models. All get the same random input and write the same number of tokens.
        input_length: Tokens that the encoder reads.
        new_tokens: Tokens that the decoder writes, at least 2.
        repeats: Turns. The medians of so many calls are compared.
        report: Called with a line for each turn.
    """
    clock = TokenClock()
    vocab_size = min(contestant.model.config.get_text_config(decoder=True).vocab_size for contestant in contestants)
    input_ids = torch.randint(3, vocab_size, (1, input_length), generator=torch.Generator().manual_seed(0))
    for contestant in contestants:
        _generate(contestant, input_ids, 2, clock)
    latencies: dict[str, list[tuple[Latency, ...]]] = {contestant.name: [] for contestant in contestants}
    for repeat in range(repeats):
        for contestant in contestants:
            latencies[contestant.name].append(_generate(contestant, input_ids, new_tokens, clock))
        report(f"turn {repeat + 1} of {repeats}")
    return [
        Measurement(
            name=contestant.name,
            parameters=contestant.model.num_parameters(),
            wall=tuple(wall for wall, _ in latencies[contestant.name]),
            processor=tuple(processor for _, processor in latencies[contestant.name]),
        )
        for contestant in contestants
    ]


def _generate(
    contestant: Contestant, input_ids: torch.Tensor, new_tokens: int, clock: TokenClock
) -> tuple[Latency, ...]:
    return clock.time(
        lambda streamer: contestant.model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            do_sample=False,
            streamer=streamer,
            **contestant.generate_arguments,
        )
    )
