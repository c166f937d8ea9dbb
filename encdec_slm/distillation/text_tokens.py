"""Texts as tokens: what a tokenizer puts around a text, and texts that are cut to a number of tokens."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from transformers import PreTrainedTokenizerBase


Truncation = Literal["end", "start", "middle"]


@dataclass(frozen=True)
class FramedText:
    """The ids of a text, and how many of them the tokenizer has put in front of it and behind it.

    Args:
        ids: All of them.
        before: Number of special tokens in front that are not in the text.
        after: Number of those behind it.
    """

    ids: list[int]
    before: int
    after: int

    @property
    def is_empty(self) -> bool:
        """Whether the text itself has no tokens."""
        return len(self.ids) <= self.before + self.after


def frame_text(tokenizer: PreTrainedTokenizerBase, text: str, *, target: bool = False) -> FramedText:
    """Returns the tokens of a text, with those that the tokenizer adds.

    Args:
        tokenizer: The tokenizer.
        text: May have special tokens of its own.
        target: Whether the decoder is to write it.
    """
    # without `verbose` it does not warn of texts that are longer than the model reads: that is checked elsewhere
    encoded = tokenizer(**_as(text, target), return_special_tokens_mask=True, verbose=False)
    ids, added = list(encoded["input_ids"]), encoded["special_tokens_mask"]
    before = sum(takewhile(bool, added))
    return FramedText(ids, before=before, after=sum(takewhile(bool, reversed(added[before:]))))


def count_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """Returns how many tokens a text has, with those that the tokenizer adds."""
    return len(tokenizer(text, verbose=False)["input_ids"])


def token_spans(
    tokenizer: PreTrainedTokenizerBase, text: str, *, start: int = 0, end: int | None = None, target: bool = False
) -> list[tuple[int, int]] | None:
    """Returns from where to where the tokens of a part of a text go, counted from the start of that part.

    Args:
        tokenizer: The tokenizer.
        text: The whole text.
        start: The first character of the part.
        end: The one behind its last character; that of the text if not given.
        target: Whether the decoder is to write it.

    Returns:
        Spans of characters in order, without those of special tokens that are not in the text; None if the tokenizer
        cannot tell (only those of the `tokenizers` library can).
    """
    if not tokenizer.is_fast:
        return None
    encoded = tokenizer(**_as(text, target), return_offsets_mapping=True, verbose=False)
    end = len(text) if end is None else end
    clipped = ((max(first, start), min(last, end)) for first, last in encoded["offset_mapping"])
    return [(first - start, last - start) for first, last in clipped if first < last]


def cut_text(
    text: str,
    *,
    max_tokens: int,
    count: Callable[[str], int],
    spans: Callable[[], list[tuple[int, int]] | None],
    truncation: Truncation = "end",
) -> str:
    """Returns as much of a text as has at most `max_tokens`, cut between tokens; it is not changed otherwise.

    The text is cut and not its tokens, so that another tokenizer can read the same.

    Args:
        text: What is too long.
        max_tokens: Most tokens of what is returned.
        count: Returns the number of tokens of a text, with all that is added to it.
        spans: Returns the tokens of the text, as `token_spans`; None to cut between any two characters.
        truncation: What is left out.

    Returns:
        Empty if not a single token fits.
    """
    excess = count(text) - max_tokens
    if excess <= 0:
        return text
    tokens = spans()
    if tokens is None:
        places = [(i, i + 1) for i in range(len(text))]
        fitting = bisect_right(
            range(len(places)), max_tokens, key=lambda kept: count(_keep(text, places, kept, truncation))
        )
        most = fitting - 1
    else:
        places, most = tokens, len(tokens) - excess
    # where a text is cut, other tokens may come out, and a character may have several
    cuts = (_keep(text, places, kept, truncation) for kept in range(most, 0, -1))
    return next((cut for cut in cuts if cut.strip() and count(cut) <= max_tokens), "")


def cut_inside(
    text: str,
    *,
    before: str,
    after: str,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    truncation: Truncation = "end",
) -> str:
    """Returns as much of a text as has room between two others, which stay whole.

    Args:
        text: What may be too long.
        before: In front of it.
        after: Behind it.
        tokenizer: Reads all three as one text.
        max_tokens: Most tokens of all three, with those that the tokenizer adds.
        truncation: What is left out.

    Returns:
        Empty if not a single token fits.
    """
    end = len(before) + len(text)
    return cut_text(
        text,
        max_tokens=max_tokens,
        count=lambda kept: count_tokens(tokenizer, before + kept + after),
        spans=lambda: token_spans(tokenizer, before + text + after, start=len(before), end=end),
        truncation=truncation,
    )


def _keep(text: str, places: list[tuple[int, int]], kept: int, truncation: Truncation) -> str:
    """Returns a text with only `kept` of its places, fewer than all: the first ones, the last ones, or both."""
    head = {"end": kept, "start": 0, "middle": (kept + 1) // 2}[truncation]
    tail = kept - head
    before = text[: places[head - 1][1]] if head else ""
    # from the last place that is left out: blanks between two tokens need not be in either
    after = text[places[-tail - 1][1] :] if tail else ""
    return before + after if head else after.lstrip()


def _as(text: str, target: bool) -> dict[str, str]:
    return {"text_target" if target else "text": text}
