"""A model on a task, from the rows to the scores: answered in batches of similar lengths, kept as they come."""

import hashlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from encdec_slm.evaluation.answers_file import RecordFile, prepare_folder, write_json
from encdec_slm.evaluation.bootstrap import confidence_intervals
from encdec_slm.evaluation.examples import Example, Examples, read_examples
from encdec_slm.evaluation.judge import Judge, judge_answers
from encdec_slm.evaluation.metrics import METRICS, Metric, Sums, mean_of
from encdec_slm.evaluation.model_loading import Loader, fingerprint, load_respondent, respondent_of
from encdec_slm.evaluation.respondents import Respondent, Stopwatch
from encdec_slm.evaluation.results import Evaluation, Score
from encdec_slm.evaluation.tasks import Task, find_task


SETTINGS, PREDICTIONS, RESULTS = "settings.json", "predictions.jsonl", "results.json"
JUDGE_SETTINGS, JUDGEMENTS = "judge_settings.json", "judgements.jsonl"
ALL_BUT_SETTINGS = (PREDICTIONS, RESULTS, JUDGE_SETTINGS, JUDGEMENTS)
# of each answer the judge gives the score
ANSWER_CORRECTNESS = Metric(count=lambda *_: (), scores=mean_of("answer_correctness"))


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a model is loaded that is given by name; see `load_respondent`."""

    device: str | None = None
    dtype: str = "auto"
    trust_remote_code: bool = False
    revision: str | None = None
    loaders: Sequence[Loader] = ()


def evaluate(
    model: Any,
    task: str | Task,
    *,
    output: str | PathLike[str],
    processing_class: Any = None,
    name: str | None = None,
    data: Sequence[str] | None = None,
    dataset_config: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    metrics: Sequence[str] | None = None,
    prompt: str | None = None,
    instruction: str | None = None,
    template: str | None = None,
    max_input_tokens: int | None = None,
    max_new_tokens: int | None = None,
    num_beams: int = 1,
    batch_size: int = 16,
    judge: Judge | None = None,
    overwrite: bool = False,
    loading: Loading | None = None,
    command: Sequence[str] | None = None,
) -> Evaluation:
    """Answers the rows of a task with a model, and scores the answers.

    The answers are written to `output` as they come; called again with the same settings it goes on where it was
    stopped, and with all answers there it scores alone.

    Args:
        model: Folder or Hub id, `copy` for the input as its own answer, or a model of Transformers.
        task: Name of one of `TASKS`, or one of your own.
        output: Folder of the answers and the results.
        processing_class: Tokenizer or processor of a model that is given as an object.
        name: What the results call the model; its name or its class if not given.
        data: Local files, see `read_examples`; the task's data set if not given.
        dataset_config: Configuration of the data set.
        split: Of the data set.
        limit: How many rows, from the first.
        metrics: Names of metrics, instead of the task's.
        prompt: What is asked of a row, instead of the task's, with its columns in braces.
        instruction: What a decoder-only model is told in its chat template, with the prompt as `{source}`, instead of
            the task's: `{source}` alone for one that was trained so.
        template: What a decoder-only model reads, with the prompt as `{source}`, instead of an instruction in its
            chat template.
        max_input_tokens: Longer inputs are cut; as the tokenizer says if not given.
        max_new_tokens: Longest answer; the task's if not given.
        num_beams: Width of the beam search; answers are greedy with one, and never sampled.
        batch_size: How many rows are answered at once.
        judge: Scores answers too.
        overwrite: Whether answers that were made under other settings are removed.
        loading: How a model is loaded that is given by name.
        command: What the results say that was run; that of the process if not given.

    Raises:
        ValueError: If an argument, the rows, the model or what is in the folder do not go together.
        ImportError: If an optional package is missing.
    """
    loading = loading or Loading()
    task = _with_metrics(find_task(task) if isinstance(task, str) else task, metrics)
    start = time.perf_counter()
    if instruction is not None:
        task = _with_instruction(task, instruction, template)
    examples = read_examples(task, files=data, config=dataset_config, split=split, limit=limit, prompt=prompt)
    generation = {"max_new_tokens": max_new_tokens or task.max_new_tokens, "num_beams": num_beams, "do_sample": False}
    is_named = isinstance(model, str | PathLike)
    name = name or (str(model) if is_named else type(model).__name__)
    settings = {
        "model": name,
        "model_files": fingerprint(str(model)) if is_named else None,
        "revision": loading.revision,
        "dtype": loading.dtype,
        # what is scored of the answers may change
        "task": {key: value for key, value in asdict(task).items() if key != "metrics"},
        "data": None if data is None else [_identified(file) for file in data],
        "dataset_config": dataset_config,
        "split": split,
        "limit": limit,
        "prompt": prompt,
        "template": template,
        "max_input_tokens": max_input_tokens,
        "generation": generation,
    }
    folder = Path(output)
    prepare_folder(folder, settings, file=SETTINGS, overwrite=overwrite, made=ALL_BUT_SETTINGS)
    answers = RecordFile(folder / PREDICTIONS)
    pending = [example for example in examples.examples if example.number not in answers.records]
    stopwatch, loaded = Stopwatch(), 0.0
    if pending:
        begun = time.perf_counter()
        told: dict[str, Any] = {"template": template, "max_input_tokens": max_input_tokens}
        respondent = (
            load_respondent(str(model), task, **told, **vars(loading))
            if is_named
            else respondent_of(model, processing_class, task, **told)
        )
        loaded = time.perf_counter() - begun
        answer_all(respondent, examples, pending, answers, generation=generation, batch_size=batch_size)
        stopwatch = respondent.stopwatch
    scores = score_answers(task, examples.examples, answers)
    seconds = time.perf_counter() - start - loaded
    unjudged = 0
    if judge is not None:
        score, unjudged = _judged(judge, examples, answers, folder, overwrite)
        scores = (*scores, score)
    evaluation = Evaluation(
        model=name,
        task=task,
        dataset=str(task.dataset) if data is None else ", ".join(Path(file).name for file in data),
        split=split or task.split if data is None else None,
        examples=len(examples.examples),
        answered=len(pending),
        scores=scores,
        seconds=seconds,
        generation_seconds=stopwatch.generation_seconds,
        truncated=stopwatch.truncated,
        unjudged=unjudged,
        folder=folder,
    )
    write_json(folder / RESULTS, evaluation.records(command or [Path(sys.argv[0]).name, *sys.argv[1:]]))
    return evaluation


def _with_metrics(task: Task, metrics: Sequence[str] | None) -> Task:
    """Returns a task that is scored by these metrics, or by its own, once they are ready to score."""
    task = task if metrics is None else replace(task, metrics=tuple(metrics))
    unknown = [name for name in task.metrics if name not in METRICS]
    if unknown:
        raise ValueError(f"there is no metric {', '.join(unknown)}: take some of {', '.join(METRICS)}")
    for name in task.metrics:
        METRICS[name].load()
    return task


def _with_instruction(task: Task, instruction: str, template: str | None) -> Task:
    if template is not None:
        raise ValueError("template and instruction are both given, but a template is all that is read: leave one out")
    return replace(task, instruction=instruction)


def _identified(file: str) -> list[str]:
    """Returns the name of a file and what changes when it does."""
    path = Path(file)
    return [file, hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""]


def answer_all(
    respondent: Respondent,
    examples: Examples,
    pending: Sequence[Example],
    answers: RecordFile,
    *,
    generation: Mapping[str, Any],
    batch_size: int,
) -> None:
    """Answers examples and writes what was said after each batch.

    Inputs of similar lengths are answered together, the longest first: what does not fit into memory fails at once.

    Args:
        respondent: Who answers.
        examples: All, with their images.
        pending: Those to be answered.
        answers: Where answers are added.
        generation: Arguments of `generate`.
        batch_size: How many are answered at once.
    """
    ordered = sorted(pending, key=respondent.length, reverse=True)
    with logging.tqdm(
        total=len(examples.examples), initial=len(examples.examples) - len(pending), desc="answered"
    ) as bar:
        for batch in batched(ordered, batch_size):
            texts = respondent.answer(batch, [examples.images(example) for example in batch], generation)
            answers.add(
                {
                    "number": example.number,
                    "prompt": example.prompt,
                    "prediction": text,
                    "references": list(example.references),
                }
                for example, text in zip(batch, texts, strict=True)
            )
            bar.update(len(batch))


def batched(items: Sequence[Example], size: int) -> Iterator[Sequence[Example]]:
    """Yields so many items at a time, in their order."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def score_answers(task: Task, examples: Sequence[Example], answers: RecordFile) -> tuple[Score, ...]:
    """Returns the scores of a task with their confidence intervals."""
    predictions = [answers.records[example.number]["prediction"] for example in examples]
    references = [list(example.references) for example in examples]
    scores = []
    for name in task.metrics:
        metric = METRICS[name]
        given = _without_answer(task, predictions, references, takes_empty=metric.takes_empty)
        scores += _scored(metric, metric.counts(predictions=given[0], references=given[1]))
    return tuple(scores)


def _scored(metric: Metric, counts: Sums) -> list[Score]:
    intervals = confidence_intervals(metric, counts)
    return [
        Score(name=name, value=value, interval=intervals[name])
        for name, value in metric.scores(counts.sum(axis=0)).items()
    ]


def _without_answer(
    task: Task, predictions: list[str], references: list[list[str]], *, takes_empty: bool
) -> tuple[list[str], list[list[str]]]:
    """Returns texts in which what says that there is no answer is one text: empty where a metric knows what it means.

    For other metrics it is the task's words, on both sides.
    """
    if task.no_answer is None:
        return predictions, references
    alike = {"", task.no_answer}
    words = "" if takes_empty else task.no_answer

    def same(text: str) -> str:
        return words if text.strip().rstrip(".").lower() in alike else text

    return [same(text) for text in predictions], [[same(text) for text in row] for row in references]


def _judged(judge: Judge, examples: Examples, answers: RecordFile, folder: Path, overwrite: bool) -> tuple[Score, int]:
    """Returns the judge's score and how many answers have none."""
    prepare_folder(folder, judge.settings, file=JUDGE_SETTINGS, overwrite=overwrite, made=(JUDGEMENTS,))
    judgements = RecordFile(folder / JUDGEMENTS)
    judge_answers(judge, examples.examples, answers, judgements)
    found = [judgements.records[example.number] for example in examples.examples]
    read = [(record["score"], 1.0) for record in found if record["score"] is not None]
    if not read:
        raise ValueError(
            f"the judge {judge.model} said of no answer what can be read; of the first it said "
            f"{found[0]['reply'][:200]!r}: take a larger model"
        )
    (score,) = _scored(ANSWER_CORRECTNESS, np.array(read))
    return score, len(found) - len(read)
