"""Renders the model cards of this folder from its records, and draws their pictures.

    python model_cards/render.py

Every `*.yaml` holds cards by name, and under `shared` what they have in common. A card has the fields of
`encdec_slm.hub.card_facts.CardFacts`, and says where its numbers come from: `preset` (a named size), `vision` (fields
of an `EncDecSLMVisionConfig`) or `folder` (a model folder, without weights here); `comparison` or `answers` and with
it `measured` (what `make demo` or `make demo-vision` writes, and the name of the model in it); `benchmark` (a named
size whose speeds the card has, if `encdec-slm benchmark --output examples/results/efficiency.json` has measured it).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedConfig, PreTrainedModel

from encdec_slm import (
    EncDecSLMConfig,
    EncDecSLMForConditionalGeneration,
    EncDecSLMVisionConfig,
    EncDecSLMVisionForConditionalGeneration,
)
from encdec_slm.benchmarks.decoding import Measurement
from encdec_slm.benchmarks.efficiency_tables import MOST_WALL_PER_PROCESSOR, Run, runs_from, title
from encdec_slm.hub.card import measured, render
from encdec_slm.hub.card_facts import CardFacts, facts_from_config, facts_from_folder
from encdec_slm.hub.card_results import Evaluation, Speed, SpeedComparison, evaluations


RECORDS = Path(__file__).parent
EFFICIENCY = RECORDS.parent / "examples/results/efficiency.json"
DEMO_VISION_FLAGS = ("charts", "test_charts", "text_steps", "projector_steps", "max_steps", "threads")
# of the models of the demo: its field, the Hub's metric, what a reader calls it
ERROR_RATES = (
    ("phoneme_error_rate", "wer", "edits per phone"),
    ("word_error_rate", "error_rate", "words with another pronunciation than the first one listed"),
)


def cards(folder: Path = RECORDS) -> dict[str, CardFacts]:
    """The facts of all cards, by the name of the file that holds the card."""
    found: dict[str, CardFacts] = {}
    for path in sorted(folder.glob("*.yaml")):
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
        for name, fields in record["cards"].items():
            if name in found:
                raise ValueError(f"two cards are called {name}, the second one in {path}: rename one")
            found[name] = facts_of(name, {**record.get("shared", {}), **fields}, folder)
    return found


def facts_of(name: str, fields: Mapping[str, Any], folder: Path) -> CardFacts:
    """The facts of one card.

    Args:
        name: Of the card, and of the picture if its record does not share one.
        fields: What the record says of it.
        folder: In which the files lie that the record names.
    """
    given = {field: tuple(value) if isinstance(value, list) else value for field, value in fields.items()}
    if "benchmark" in given:
        preset = given.pop("benchmark")
        if EFFICIENCY.exists() and (speeds := speeds_of_benchmark(EFFICIENCY, preset)):
            given |= {"efficiency": speeds, "plot": f"{preset}.benchmark.png"}
    if "comparison" in given:
        path = folder / given.pop("comparison")
        given |= facts_of_comparison(path, given.pop("measured"))
    if "answers" in given:
        given |= facts_of_answers(folder / given.pop("answers"), given.pop("measured"))
    if "preset" in given:
        config = EncDecSLMConfig.from_preset(given.pop("preset"))
        return facts_from_config(**of_config(config, EncDecSLMForConditionalGeneration), **given)
    if "vision" in given:
        config = EncDecSLMVisionConfig(**given.pop("vision"))
        return facts_from_config(**of_config(config, EncDecSLMVisionForConditionalGeneration), **given)
    return facts_from_folder(folder / given.pop("folder"), **given)


def of_config(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> dict[str, Any]:
    """A configuration as a checkpoint has it, and the number of the model's parameters."""
    with torch.device("meta"):
        model = model_class(config)
    return {
        "config": {**config.to_dict(), "architectures": [model_class.__name__]},
        "parameters": model.num_parameters(),
    }


def speeds_of_benchmark(path: Path, preset: str) -> tuple[SpeedComparison, ...]:
    """What `encdec-slm benchmark` has measured of a named size, medians of its turns; nothing if it was another size.

    Raises:
        ValueError: If something else held the machine meanwhile.
    """
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["settings"]["preset"] != preset:
        return ()
    return tuple(
        SpeedComparison(
            title=f"{preset}, {title(run)}, random weights, medians of {record['settings']['repeats']} turns",
            command=record["command"],
            machine=machine(record["conditions"]),
            speeds=tuple(speed(one.answers, path, record["conditions"]) for one in run.results),
        )
        for run in single_rows(runs_from(record))
    )


def single_rows(runs: Sequence[Run]) -> list[Run]:
    """The runs of one row at a time."""
    return [run for run in runs if run.shape.batch_size == 1]


def speed(one: Measurement, path: Path, conditions: Mapping[str, Any]) -> Speed:
    """The medians of a measurement; refuses one of a machine that did something else too."""
    wall, processor = 1e3 * one.seconds_per_token, 1e3 * one.processor_seconds_per_token
    # several threads work for more than a second in a second, and a GPU works where this clock does not look
    is_told = conditions["threads"] == 1 and conditions["device"] == "cpu"
    if is_told and wall > MOST_WALL_PER_PROCESSOR * processor:
        raise ValueError(
            f"{path}: {one.name} took {wall:.2f} ms for a token, in which its processor worked "
            f"{processor:.2f} ms: measure again when nothing else runs"
        )
    return Speed(
        name=one.name,
        parameters=one.parameters,
        first_token_ms=1e3 * one.first_token_seconds,
        tokens_per_second=one.tokens_per_second,
    )


def facts_of_comparison(path: Path, name: str) -> dict[str, Any]:
    """What the demo has written of one of its models: fields of `CardFacts`."""
    comparison = json.loads(path.read_text(encoding="utf-8"))
    command = f"python examples/spelling_to_sound.py --threads {comparison['training']['threads']}"
    where = machine(comparison["training"])
    (model,) = (model for model in comparison["models"] if model["name"] == name)
    answers = comparison["answers"]
    title = (
        f"One word at a time on {threads(answers['threads'])}: {answers['input_length']} tokens in, "
        f"{answers['new_tokens']} out, medians of {answers['turns']} turns"
    )
    return {
        "parameters": model["parameters"],
        "command": command,
        "machine": f"{where}, in {comparison['seconds'][name]:.0f} seconds",
        "results": results_of_demo(model, command, where),
        "efficiency": (
            SpeedComparison(
                title=title,
                command=command,
                machine=where,
                speeds=tuple(
                    Speed(**{field: other[field] for field in Speed.__dataclass_fields__})
                    for other in comparison["models"]
                ),
            ),
        ),
        "plot": f"{path.parent.name}.png",
    }


def results_of_demo(model: Mapping[str, Any], command: str, where: str) -> tuple[Evaluation, ...]:
    """The error rates of a model of the demo."""
    record = {
        "task": {"type": "text-generation", "name": "English spelling to pronunciation"},
        "dataset": {"type": "cmudict", "name": "CMU Pronouncing Dictionary", "split": "test"},
        "metrics": [{"type": kind, "value": model[field], "name": name} for field, kind, name in ERROR_RATES],
        "source": {"name": command, "machine": where},
    }
    return evaluations([record], origin="the comparison of the demo")


def facts_of_answers(path: Path, name: str) -> dict[str, Any]:
    """What the vision demo has written of one of its models: fields of `CardFacts`."""
    comparison = json.loads(path.read_text(encoding="utf-8"))
    settings, where = comparison["settings"], machine(comparison["training"])
    flags = " ".join(f"--{flag} {settings[flag]}" for flag in DEMO_VISION_FLAGS)
    command = f"python examples/picture_questions.py {flags}"
    records = [
        {
            "task": {"type": "visual-question-answering", "name": "questions about pictures"},
            "dataset": {
                "type": entry["questions"].partition(":")[0],
                "name": entry["questions"].partition(":")[0],
                "split": "test",
            },
            "metrics": [
                {
                    "type": "accuracy",
                    "value": entry["accuracy"][name],
                    "name": f"right answers: {entry['questions'].partition(': ')[2]}, of {entry['number']:,}",
                }
            ],
            "source": {"name": command, "machine": where},
        }
        for entry in comparison["accuracy"]
    ]
    return {
        "command": command,
        "machine": f"{where}, in {sum(comparison['seconds'].values()):.0f} seconds in all",
        "results": evaluations(records, origin=str(path)),
    }


def machine(conditions: Mapping[str, Any]) -> str:
    """Machine and software of a measurement, in words."""
    software = f"torch {conditions['torch']}, transformers {conditions['transformers']}"
    return f"{threads(conditions['threads'])} ({conditions['processor']}, {software})"


def threads(number: int) -> str:
    """A number of threads in words."""
    return "one thread" if number == 1 else f"{number} threads"


def draw(comparisons: tuple[SpeedComparison, ...], path: Path) -> None:
    """Draws a row of bars for each comparison: milliseconds until the first token, and tokens per second."""
    # only here: the cards themselves need no drawing
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        len(comparisons), 2, figsize=(10, 2.2 * len(comparisons)), layout="constrained", squeeze=False
    )
    for row, comparison in zip(axes, comparisons, strict=True):
        names = [speed.name for speed in comparison.speeds]
        row[0].set_title(f"first token, ms ({comparison.title.partition(':')[0]})", fontsize=9)
        row[1].set_title("tokens per second", fontsize=9)
        for axis, field in zip(row, ("first_token_ms", "tokens_per_second"), strict=True):
            bars = axis.barh(names, [getattr(speed, field) for speed in comparison.speeds])
            axis.bar_label(bars, fmt=measured, padding=2, fontsize=8)
            axis.invert_yaxis()
            axis.margins(x=0.15)
            axis.tick_params(labelsize=8)
            axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, backend="agg")
    plt.close(figure)


def main(output: Path = RECORDS) -> None:
    """Writes all cards and their pictures into a folder."""
    found = cards()
    for name, facts in found.items():
        (output / f"{name}.md").write_text(str(render(facts)), encoding="utf-8")
    for name, comparisons in {facts.plot: facts.efficiency for facts in found.values() if facts.plot}.items():
        draw(comparisons, output / name)


if __name__ == "__main__":
    main()
