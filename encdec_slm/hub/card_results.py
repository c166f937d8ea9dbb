"""What was measured of a model, as a model card shows it: numbers with the command and the machine they come from."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import model_index_to_eval_results


# fields of an `EvalResult`; the others are its number, arguments of any kind, and what the Hub fills in itself
TEXTS = frozenset(field.name for field in fields(EvalResult)) - {
    "metric_value", "dataset_args", "metric_args", "verified", "verify_token",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Results, and what a reader needs to get them again.

    Attributes:
        command: What was run.
        machine: What it ran on.
        results: As the Hub indexes them.
    """

    command: str
    machine: str
    results: tuple[EvalResult, ...]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What a clock said of one model: milliseconds until the first token, tokens a second after it."""

    name: str
    parameters: int
    first_token_ms: float
    tokens_per_second: float


@dataclass(frozen=True, kw_only=True)
class SpeedComparison:
    """Models timed in one run, with the title, the command and the machine of the run."""

    title: str
    command: str
    machine: str
    speeds: tuple[Speed, ...]


def read_results(path: str | PathLike[str]) -> tuple[Evaluation, ...]:
    """Reads results as an evaluation writes them: a JSON list of records in the form of the Hub's `model-index`.

    `{"task": {"type", "name"}, "dataset": {"type", "name", "split"}, "metrics": [{"type", "value", "name"}],
    "source": {"name", "machine"}}`, where `source` holds the command and the machine. Names may be left out in `task`
    and `metrics`, the split in `dataset`. The command becomes the Hub's `source` only with a `url` beside it, which
    the Hub insists on.

    Raises:
        ValueError: If the file holds something else, or a number that no command on a known machine has produced.
    """
    try:
        records = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(records, list):
        raise ValueError(f"{path} must hold a JSON list of results, but holds {type(records).__name__}")
    return evaluations(records, origin=str(path))


def evaluations(records: Iterable[Any], *, origin: str) -> tuple[Evaluation, ...]:
    """Returns records of results, see `read_results`, by command and machine; `origin` is named in errors."""
    by_source: dict[tuple[str, str], list[EvalResult]] = {}
    for place, record in enumerate(records):
        where = f"result {place} in {origin}"
        try:
            source = record["source"]
            command, machine = source["name"], source["machine"]
            results = _eval_results(record, source)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{where} is incomplete or misshapen: {error!r}") from error
        if not (_is_text(command) and _is_text(machine)):
            raise ValueError(f"{where} does not say which command and machine it comes from")
        for result in results:
            _check(result, where)
        by_source.setdefault((command, machine), []).extend(results)
    return tuple(
        Evaluation(command=command, machine=machine, results=tuple(results))
        for (command, machine), results in by_source.items()
    )


def _eval_results(record: Mapping[str, Any], source: Mapping[str, Any]) -> list[EvalResult]:
    # an `EvalResult` refuses a name without an address
    indexed = {"name": source["name"], "url": source["url"]} if "url" in source else {}
    _, results = model_index_to_eval_results([{"name": "", "results": [{**record, "source": indexed}]}])
    # that the Hub itself has measured it is not ours to say
    return [replace(result, verified=None, verify_token=None) for result in results]


def _check(result: EvalResult, where: str) -> None:
    for field in fields(result):
        value = getattr(result, field.name)
        if field.name in TEXTS and not _is_text(value) and not (value is None and field.default is None):
            raise ValueError(f"{field.name} of {where} must be a text, but is {value!r}")
    if not _is_number(result.metric_value):
        raise ValueError(f"{result.metric_type} of {where} must be a finite number, but is {result.metric_value!r}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
