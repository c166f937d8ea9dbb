"""What models take for one input: counted, timed in turns, and held to what the machine allows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from encdec_slm.benchmarks.cost_model import Limit, Rates, limit, product_rate, read_rate, refuse_what_is_impossible
from encdec_slm.benchmarks.counting import TokenCost, TokenCounter
from encdec_slm.benchmarks.decoding import Contestant, Measurement, answer, take_turns
from encdec_slm.benchmarks.footprint import in_a_process_of_its_own, peak_over_base
from encdec_slm.benchmarks.formula import AGREEMENT, ModelShape, StepFlops, answer_flops
from encdec_slm.benchmarks.memory import cache_bytes, mean_cache_bytes, weight_bytes
from encdec_slm.benchmarks.model_choice import Candidate, parameters_of
from encdec_slm.benchmarks.timing import WALL_AND_PROCESSOR, Clock


# what an engine that does not say how many tokens it knows is asked with
FEW_TOKENS = 1000


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What all models are asked.

    Attributes:
        batch_size: Rows, all of the same length.
        input_length: Tokens that are read, of each row.
        new_tokens: Tokens that are written, of each row.
    """

    batch_size: int
    input_length: int
    new_tokens: int


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How models are built and run.

    Attributes:
        dtype: Of the weights.
        device: Where.
        attention: Which implementation of attention; None for each model's own.
        threads: Threads of one operation.
        repeats: Turns. The medians of so many calls are compared.
    """

    dtype: str
    device: torch.device
    attention: str | None
    threads: int
    repeats: int


@dataclass(frozen=True, kw_only=True)
class Work:
    """What was counted of an answer, and is the same in every run.

    Attributes:
        weight_bytes: All weights.
        cache_bytes: Keys and values after the answer, of all rows.
        first_token_flops: Operations of the first token, with the reading of the input.
        answer_flops: Operations of the whole answer.
        formula_flops: The same by formula.
    """

    weight_bytes: int
    cache_bytes: int
    first_token_flops: int
    answer_flops: int
    formula_flops: int


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was found of one model with one input.

    Attributes:
        source: What the model was made of.
        attention: Implementation of its attention; None for an exported model, as are all that follow but the peak.
        answers: Times, call by call.
        work: What was counted.
        peak_bytes: Highest memory of a process that answers, over its memory without a model.
        limit: What the machine allows.
    """

    source: str
    attention: str | None
    answers: Measurement
    work: Work | None
    peak_bytes: int
    limit: Limit | None


class FormulaError(ValueError):
    """What was counted is not what the formula says."""


def inputs_of(shape: Shape, vocab_size: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Returns random tokens, the same in every run."""
    size, generator = (shape.batch_size, shape.input_length), torch.Generator().manual_seed(0)
    input_ids = torch.randint(3, vocab_size, size, generator=generator).to(device)
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def vocab_size_of(candidates: Sequence[Candidate]) -> int:
    """Returns how many tokens all models know."""
    sizes = [one.config.get_text_config(decoder=True).vocab_size for one in candidates if one.config is not None]
    return min(sizes, default=FEW_TOKENS)


# costs as counted, operations by formula, both together, and the mean bytes of the cache that a token reads
Count = tuple[list[TokenCost], list[StepFlops], Work, int]


def count(one: Contestant, shape: Shape) -> Count:
    """Counts what an answer takes, token by token, which warms the model up.

    Raises:
        FormulaError: If the operations are not those of the formula.
    """
    counter = TokenCounter()
    with counter:
        output = answer(one, shape.new_tokens, streamer=counter, return_dict_in_generate=True)
    cache, costs = output.past_key_values, counter.costs
    flops = answer_flops(
        ModelShape.of(one.model),
        batch_size=shape.batch_size,
        input_length=shape.input_length,
        new_tokens=shape.new_tokens,
        use_cache=bool(one.generate_arguments.get("use_cache", True)),
    )
    for token, (counted, formula) in enumerate(zip(costs, flops, strict=True), start=1):
        if abs(counted.flops - formula.total) > AGREEMENT * formula.total:
            raise FormulaError(
                f"{one.name} took {counted.flops:,} operations for token {token}, but by formula "
                f"({type(one.model).__name__}, {shape}) it takes {formula.total:,}: the formula does not know this "
                "architecture (formula.py), or the model does other work than it says"
            )
    work = Work(
        weight_bytes=weight_bytes(one.model),
        cache_bytes=0 if cache is None else cache_bytes(cache),
        first_token_flops=costs[0].flops,
        answer_flops=sum(cost.flops for cost in costs),
        formula_flops=sum(step.total for step in flops),
    )
    return costs, flops, work, mean_cache_bytes(cache, shape.new_tokens)


def peak_bytes_of(candidate: Candidate, shape: Shape, setting: Setting, vocab_size: int) -> int:
    """Returns the highest memory of this process while a model answers, over what it takes without the model."""
    torch.set_num_threads(setting.threads)
    # what the libraries allocate once, and the code of the architecture, are no weights
    torch.ones(8, 8, device=setting.device) @ torch.ones(8, 8, device=setting.device)
    if candidate.config is not None:
        parameters_of(candidate.config)

    def prepare() -> Callable[[], object]:
        model = candidate.build(setting.dtype, setting.device, setting.attention)
        one = candidate.contestant(model, inputs_of(shape, vocab_size, setting.device))
        return lambda: answer(one, shape.new_tokens)

    return peak_over_base(prepare, setting.device)


def compare(
    candidates: Sequence[Candidate],
    models: Sequence[Any],
    shape: Shape,
    setting: Setting,
    *,
    report: Callable[[str], None],
    clocks: tuple[Clock, ...] = WALL_AND_PROCESSOR,
    meter: Callable[[], float] | None = None,
    footprint: Callable[[Candidate, Shape, Setting, int], int] | None = None,
) -> list[Result]:
    """Counts, times in turns, and holds to the limit.

    Args:
        candidates: What is compared.
        models: Built of the candidates, in their order.
        shape: What they are asked.
        setting: How they are run.
        report: Called with a line for each thing that is done.
        clocks: Wall clock and processor time.
        meter: Returns the joules used so far.
        footprint: Returns the peak of the memory; measured in a process of its own if not given.

    Raises:
        FormulaError: If the operations of a model are not those of the formula.
        ImpossibleSpeedError: If a model is faster than the machine.
    """
    vocab_size = vocab_size_of(candidates)
    inputs = inputs_of(shape, vocab_size, setting.device)
    asked = [one.contestant(model, inputs) for one, model in zip(candidates, models, strict=True)]
    counted = []
    for one in asked:
        counted.append(count(one, shape) if one.streams else None)
        if not one.streams:
            answer(one, 2)
        report(f"counted: {one.name}")
    peaks = []
    for candidate in candidates:
        arguments = (candidate, shape, setting, vocab_size)
        peaks.append(footprint(*arguments) if footprint else in_a_process_of_its_own(peak_bytes_of, *arguments))
        report(f"memory: {candidate.name}")
    measured = take_turns(
        asked, new_tokens=shape.new_tokens, repeats=setting.repeats, report=report, clocks=clocks, meter=meter
    )
    flops_per_second = product_rate(getattr(torch, setting.dtype), setting.device)
    return [
        Result(
            source=_source_of(candidate),
            attention=_attention_of(one.model) if one.streams else None,
            answers=answers,
            work=found[2] if found else None,
            peak_bytes=peak,
            limit=held_to_limit(answers, found, setting.device, flops_per_second) if found else None,
        )
        for candidate, one, answers, found, peak in zip(candidates, asked, measured, counted, peaks, strict=True)
    ]


def held_to_limit(answers: Measurement, counted: Count, device: torch.device, flops_per_second: float) -> Limit:
    """Returns the limit of a model, by the memory as it is now.

    Args:
        answers: Times of the model.
        counted: What it takes.
        device: Where it ran.
        flops_per_second: Rate of matrix products.

    Raises:
        ImpossibleSpeedError: If the model is faster.
    """
    costs, flops, _, cached = counted
    nbytes = cached + max(cost.weight_bytes for cost in costs[1:])
    least = limit(costs, flops, cached, Rates(read_rate(nbytes, device), flops_per_second))
    refuse_what_is_impossible(answers.name, answers.first_token_seconds, answers.seconds_per_token, least)
    return least


def _source_of(candidate: Candidate) -> str:
    return candidate.source if isinstance(candidate.source, str) else f"random weights, {candidate.config.model_type}"


def _attention_of(model: Any) -> str:
    return str(model.config._attn_implementation)
