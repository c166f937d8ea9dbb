"""Answers that grow while they are read, from one model at a time, with their clocks."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import torch
from respondents import Inputs, Question, Respondent
from transformers import PreTrainedTokenizerBase

from encdec_slm.benchmarks.timing import Clock, TokenClock


# what a byte tokenizer makes of a character that has come in part
INCOMPLETE = "\ufffd"


@dataclass(frozen=True)
class Answer:
    """An answer as far as it has come, and its clocks.

    Attributes:
        text: Without special tokens.
        tokens: Number of all tokens that were written, also of those that no text shows.
        first_token_seconds: From the call of `generate` to the first token; None before.
        tokens_per_second: After the first token; None before the second.
        is_complete: Whether no more will come.
    """

    text: str
    tokens: int
    first_token_seconds: float | None
    tokens_per_second: float | None
    is_complete: bool


NOTHING_YET = Answer(text="", tokens=0, first_token_seconds=None, tokens_per_second=None, is_complete=False)


class TokenStream(TokenClock):
    """Takes tokens from `generate` in one thread and shows in another what has come.

    Unlike the library's `TextIteratorStreamer` it tells of each token, and its text is that of all tokens decoded
    at once: what is shown at the end is what `generate` and the tokenizer give without a stream.

    Args:
        tokenizer: Decodes the tokens.
        clock: Returns seconds; read whenever a token comes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, clock: Clock) -> None:
        super().__init__((clock,))
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.is_left = False

    def start(self) -> None:
        """Called right before `generate`."""
        self._read()

    def put(self, value: torch.Tensor) -> None:
        """Called by `generate`: first with the prompt or the decoder's start token, then token by token.

        Raises:
            CancelledError: If nobody waits for the answer any more; this ends `generate`.
        """
        if self.is_left:
            raise CancelledError
        super().put(value)
        # the start, and what the decoder is given
        if len(self.readings) > 2:
            # after its reading: who sees the token finds the time
            self.ids.append(int(value))

    def answer(self, *, is_complete: bool) -> Answer:
        """Returns what has come."""
        ids = list(self.ids)
        start, _, *times = (reading for (reading,) in self.readings[: len(ids) + 2]) if ids else (0.0, 0.0)
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return Answer(
            text=text if is_complete else text.rstrip(INCOMPLETE),
            tokens=len(ids),
            first_token_seconds=times[0] - start if times else None,
            tokens_per_second=(len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else None,
            is_complete=is_complete,
        )


class Turns:
    """Lets models answer one at a time, whoever asks: two at once would slow each other down and show it.

    Args:
        clock: Returns seconds.
        pause_seconds: How long to let a model write before what it has written is shown. To show each token costs
            as much as to write it: the model and the page share an interpreter.
    """

    def __init__(self, clock: Clock = time.perf_counter, pause_seconds: float = 0.1) -> None:
        self.clock = clock
        self.pause_seconds = pause_seconds
        # one thread for all, which the library's own threads are made for once
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generate")

    def answer(self, respondent: Respondent, inputs: Inputs) -> Iterator[Answer]:
        """Yields a greedy answer as it grows, the complete one last.

        Leaving early ends the generation with its next token.

        Args:
            respondent: Who is asked.
            inputs: Made by `respondent.inputs`.
        """
        stream = TokenStream(respondent.tokenizer, self.clock)
        future = self._executor.submit(_generate, respondent, inputs, stream)
        try:
            yield from _follow(future, stream, self.pause_seconds)
        finally:
            stream.is_left = True
            future.cancel()

    def side_by_side(
        self, respondents: Sequence[Respondent], question: Question
    ) -> Iterator[tuple[Answer | None, ...]]:
        """Yields the answers of several models, None of those that have not begun; one model follows the other.

        Raises:
            ValueError: Before any of them begins, if one of them cannot be asked this.
        """
        inputs = [respondent.inputs(question) for respondent in respondents]
        answers: list[Answer | None] = [None] * len(respondents)
        for place, respondent in enumerate(respondents):
            for answer in self.answer(respondent, inputs[place]):
                answers[place] = answer
                yield tuple(answers)


def _follow(future: "Future[None]", stream: TokenStream, pause_seconds: float) -> Iterator[Answer]:
    # and not what has come by now, which nobody has seen
    answer = NOTHING_YET
    while not answer.is_complete:
        wait([future], timeout=pause_seconds)
        # looked at before the tokens: a complete answer has them all
        is_complete = future.done()
        if is_complete:
            # raises what `generate` raised
            future.result()
        answer, before = stream.answer(is_complete=is_complete), answer
        if answer != before:
            yield answer


def _generate(respondent: Respondent, inputs: Inputs, stream: TokenStream) -> None:
    stream.start()
    respondent.model.generate(
        **inputs, max_new_tokens=respondent.max_new_tokens, do_sample=False, num_beams=1, streamer=stream
    )
