"""Answers judged by a language model behind an OpenAI-compatible endpoint: the paper's second score.

It is the answer correctness of Ragas: the judge takes an answer and a right answer apart into statements and says
which of them are in both (TP), in the answer alone (FP) and in the right answer alone (FN). The score is their F1,
TP / (TP + (FP + FN) / 2); with a model for embeddings it is 0.75 times that and 0.25 times the cosine of the
embeddings of both texts. The wording of the question to the judge is ours.
"""

import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from transformers.utils import logging

from encdec_slm.evaluation.answers_file import Record, RecordFile
from encdec_slm.evaluation.examples import Example


logger = logging.get_logger(__name__)

FACTS_WEIGHT, SIMILARITY_WEIGHT = 0.75, 0.25
KINDS = ("TP", "FP", "FN")
# how often a judge is asked for what can be read
ASKED = 2
LONGEST_SHOWN = 200

INSTRUCTION = """\
You compare an answer to a question with the answer that is known to be right. Split both into short statements, each \
of one fact. Sort the statements:
- "TP": statements of the answer that the right answer supports;
- "FP": statements of the answer that the right answer does not support;
- "FN": statements of the right answer that the answer leaves out.
Reply with a JSON object and nothing else: {"TP": [...], "FP": [...], "FN": [...]}, each a list of statements."""
QUESTION = """\
Question: {question}

Answer: {answer}

Right answer: {reference}"""
REMINDER = 'That was no JSON object with the lists "TP", "FP" and "FN". Reply with this object and nothing else.'


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A model behind an endpoint.

    Attributes:
        url: Of the endpoint, such as `http://127.0.0.1:8000/v1`.
        model: Its name there.
        embedding_model: Name there of a model for embeddings; the score is of statements alone if not given.
        key_variable: Environment variable with the key. A server that wants none needs none.
        timeout: Seconds until a request is given up.
        retries: How often a request is sent again, with growing pauses, where the endpoint is down, slow or busy.
        workers: Requests at a time.
        max_tokens: Longest reply.
    """

    url: str
    model: str
    embedding_model: str | None = None
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = 120.0
    retries: int = 5
    workers: int = 4
    max_tokens: int = 1024

    @property
    def settings(self) -> dict[str, Any]:
        """What judgements depend on."""
        return {"url": self.url, "model": self.model, "embedding_model": self.embedding_model, "asked": INSTRUCTION}


def judge_answers(judge: Judge, examples: Sequence[Example], answers: RecordFile, judgements: RecordFile) -> None:
    """Adds a judgement of each answer that has none, as it comes.

    Args:
        judge: Who is asked.
        examples: What the answers are to.
        answers: One for each example.
        judgements: Those that are there are kept; those without a score are asked for again.

    Raises:
        ImportError: If there is no package `openai`.
        ValueError: If the endpoint cannot be used; what it said before is kept.
    """
    waiting = [example for example in examples if judgements.records.get(example.number, {}).get("score") is None]
    if not waiting:
        return
    client = _Client(judge)
    with ThreadPoolExecutor(judge.workers) as executor:
        futures = [
            executor.submit(client.judgement, example, answers.records[example.number]["prediction"])
            for example in waiting
        ]
        failure: ValueError | None = None
        try:
            with logging.tqdm(total=len(futures), desc="judged") as progress:
                for future in as_completed(futures):
                    # those that were judged at the time of a failure are kept, even if it is seen before them
                    try:
                        judgements.add([future.result()])
                        progress.update()
                    except ValueError as error:
                        failure = failure or error
        finally:
            # when interrupted, too
            executor.shutdown(cancel_futures=True)
    if failure is not None:
        done = sum(record["score"] is not None for record in judgements.records.values())
        raise ValueError(
            f"{failure}. {done} of {len(examples)} answers are judged and kept: the same command goes on from there"
        ) from failure


class _Client:
    """Asks the endpoint, with retries."""

    def __init__(self, judge: Judge) -> None:
        try:
            import openai
        except ImportError as error:
            raise ImportError("a judge needs the package openai: pip install 'encdec-slm[judge]'") from error
        self.errors = openai
        # why one answer could not be asked for: others need not try, and say the same, since any may be seen first
        self.failure = ""
        self.judge = judge
        self.key = os.environ.get(judge.key_variable, "")
        self.client = openai.OpenAI(
            base_url=judge.url, api_key=self.key or "none", timeout=judge.timeout, max_retries=judge.retries
        )

    def judgement(self, example: Example, answer: str) -> Record:
        """Returns what the judge says of an answer; its score is None if nothing that can be read."""
        reference = example.references[0]
        if not answer.strip():
            # it has no statement: nothing is right
            return {"number": example.number, "score": 0.0, "TP": [], "FP": [], "FN": [reference]}
        question = QUESTION.format(question=example.prompt, answer=answer, reference=reference)
        messages: list[dict[str, str]] = [
            {"role": "system", "content": INSTRUCTION},
            {"role": "user", "content": question},
        ]
        for _ in range(ASKED):
            reply = self._asked(
                self.client.chat.completions.create,
                model=self.judge.model,
                messages=messages,
                max_tokens=self.judge.max_tokens,
                temperature=0,
            )
            text = reply.choices[0].message.content or ""
            if (statements := read_statements(text)) is not None:
                score = f1_of(statements)
                record: Record = {"number": example.number, **statements}
                if self.judge.embedding_model is not None:
                    record["similarity"] = self._similarity(answer, reference)
                    score = FACTS_WEIGHT * score + SIMILARITY_WEIGHT * record["similarity"]
                return {**record, "score": score}
            messages += [{"role": "assistant", "content": text}, {"role": "user", "content": REMINDER}]
        return {"number": example.number, "score": None, "reply": text}

    def _similarity(self, answer: str, reference: str) -> float:
        """Returns the cosine of two embeddings."""
        response = self._asked(
            self.client.embeddings.create, model=self.judge.embedding_model, input=[answer, reference]
        )
        one, other = (item.embedding for item in response.data)
        length = math.hypot(*one) * math.hypot(*other)
        return math.fsum(a * b for a, b in zip(one, other, strict=True)) / length if length else 0.0

    def _asked(self, create: Any, **arguments: Any) -> Any:
        if self.failure:
            raise ValueError(self.failure)
        try:
            return create(**arguments)
        except self.errors.APIConnectionError as error:
            self.failure = (
                f"the judge at {self.judge.url} cannot be reached, or did not answer within {self.judge.timeout:g} "
                f"seconds, after {self.judge.retries} retries ({self._shown(error)})"
            )
            raise ValueError(self.failure) from error
        except self.errors.OpenAIError as error:
            self.failure = f"the judge at {self.judge.url} gives an error ({self._shown(error)})"
            raise ValueError(self.failure) from error

    def _shown(self, error: Exception) -> str:
        """Returns what an error says; some servers say the key."""
        text = f"{type(error).__name__}: {error}"[:LONGEST_SHOWN]
        return text.replace(self.key, "***") if self.key else text


def read_statements(reply: str) -> dict[str, list[str]] | None:
    """Returns the statements by their kind, from the JSON object in a reply; None if there is none.

    >>> read_statements('Here: {"TP": ["it is red"], "FP": [], "FN": []}')
    {'TP': ['it is red'], 'FP': [], 'FN': []}
    """
    start, end = reply.find("{"), reply.rfind("}")
    try:
        found = json.loads(reply[start : end + 1])
    except ValueError:
        return None
    if not isinstance(found, dict) or not all(isinstance(found.get(kind), list) for kind in KINDS):
        return None
    statements = {kind: [str(statement) for statement in found[kind]] for kind in KINDS}
    return statements if any(statements.values()) else None


def f1_of(statements: dict[str, list[str]]) -> float:
    """Returns F1 of sorted statements, from 0 to 1.

    >>> f1_of({"TP": ["a"], "FP": ["b"], "FN": ["c", "d", "e"]})
    0.3333333333333333
    """
    right, wrong, missing = (len(statements[kind]) for kind in KINDS)
    return right / (right + (wrong + missing) / 2) if right else 0.0
