"""First token and tokens per second of several models, in turns, so that a slow minute hits them all."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from encdec_slm.benchmarks.timing import WALL_AND_PROCESSOR, Clock, Latency, TokenClock


@dataclass(frozen=True)
class Contestant:
    """A model and how it is asked.

    Attributes:
        name: What the table calls it.
        model: Any model that generates.
        generate_arguments: What `generate` gets besides what all contestants get, such as `{"use_cache": False}`.
        streams: Whether `generate` hands over each token as it comes; if not, an answer of one token is timed apart.
    """

    name: str
    model: Any
    generate_arguments: Mapping[str, object] = field(default_factory=dict)
    streams: bool = True


@dataclass(frozen=True)
class Measurement:
    """What was read off the clocks for one contestant, call by call.

    Attributes:
        name: The contestant's.
        parameters: Their number; None where the model does not say.
        wall: By the wall clock.
        processor: By processor time.
        joules: Of the whole answer; empty if the machine does not tell.
    """

    name: str
    parameters: int | None
    wall: tuple[Latency, ...]
    processor: tuple[Latency, ...]
    joules: tuple[float, ...] = ()

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

    def answer_seconds(self, new_tokens: int) -> float:
        """Median of the seconds of a whole answer, by the wall clock."""
        return statistics.median(
            latency.first_token_seconds + (new_tokens - 1) * latency.seconds_per_token for latency in self.wall
        )

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second after the first one, of each row."""
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
    contestants: list[Contestant],
    *,
    new_tokens: int,
    repeats: int,
    report: Callable[[str], None],
    clocks: tuple[Clock, ...] = WALL_AND_PROCESSOR,
    meter: Callable[[], float] | None = None,
) -> list[Measurement]:
    """Lets the contestants generate in turns, A B C A B C ..., greedily. They should have answered once before.

    Args:
        contestants: The models, each with its input.
        new_tokens: Tokens that each of them writes, at least 2.
        repeats: Turns. The medians of so many calls are compared.
        report: Called with a line for each turn.
        clocks: Wall clock and processor time.
        meter: Returns the joules used so far.
    """
    clock = TokenClock(clocks)
    latencies: list[list[tuple[Latency, ...]]] = [[] for _ in contestants]
    joules: list[list[float]] = [[] for _ in contestants]
    for repeat in range(repeats):
        for calls, used, contestant in zip(latencies, joules, contestants, strict=True):
            before = meter() if meter else 0.0
            if contestant.streams:
                calls.append(clock.time(partial(answer, contestant, new_tokens)))
                used += [meter() - before] if meter else []
            else:
                calls.append(clock.time_whole(partial(answer, contestant), new_tokens))
        report(f"turn {repeat + 1} of {repeats}")
    return [
        Measurement(
            name=contestant.name,
            parameters=contestant.model.num_parameters() if contestant.streams else None,
            wall=tuple(wall for wall, _ in calls),
            processor=tuple(processor for _, processor in calls),
            joules=tuple(used),
        )
        for calls, used, contestant in zip(latencies, joules, contestants, strict=True)
    ]


def answer(contestant: Contestant, new_tokens: int, streamer: object = None, **arguments: object) -> Any:
    """Returns what `generate` returns for exactly so many tokens, chosen greedily."""
    if streamer is not None:
        arguments["streamer"] = streamer
    return contestant.model.generate(
        min_new_tokens=new_tokens,
        max_new_tokens=new_tokens,
        do_sample=False,
        **contestant.generate_arguments,
        **arguments,
    )
