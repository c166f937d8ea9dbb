"""Text into (source, target) pairs for an encoder-decoder: span corruption and prefix language modeling.

Pure functions on token ids. Each draws from the `generator` it is given; `None` is PyTorch's global one. Specials are
the ids that no target may contain: they stay where they are, in the source.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch


# first position, and the one after the last
Span = tuple[int, int]


class Limits(NamedTuple):
    """Most tokens of a source and of a target, without what the tokenizer puts around them."""

    source: int
    target: int


def _check_density(noise_density: float) -> None:
    if not 0 < noise_density < 1:
        raise ValueError(f"noise_density is {noise_density}, but it is a share between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class SpanCorruption:
    """Hides spans spread over the text: the source has a sentinel in the place of each, the target what was there.

    The target is `sentinel_0 span_0 sentinel_1 span_1 ...`, as T5's pre-training code writes it: no sentinel closes
    it, the end-of-sequence token does. (Raffel et al., arXiv 1910.10683, 3.1.4 and 3.3.4.)

    Args:
        noise_density: Share of the tokens that are hidden, in (0, 1).
        mean_span_length: Mean number of tokens of a span, at least 1.
        mode: Name of its family in UL2: R (regular) or X (extreme).
    """

    noise_density: float = 0.15
    mean_span_length: float = 3.0
    mode: str = "R"

    def __post_init__(self) -> None:
        _check_density(self.noise_density)
        if self.mean_span_length < 1:
            raise ValueError(f"mean_span_length is {self.mean_span_length}, but a span has at least 1 token")

    def counts(self, length: int) -> tuple[int, int]:
        """Returns how many tokens of a text are hidden, and in how many spans; both are the same for every draw.

        At least one token is hidden and one is not, and there are enough of these to keep the spans apart.

        Args:
            length: Number of tokens that may be hidden, at least 2.
        """
        noise = min(max(round(length * self.noise_density), 1), length - 1)
        spans = max(round(noise / self.mean_span_length), 1)
        return noise, min(spans, noise, length - noise + 1)

    def lengths(self, length: int) -> Limits:
        """Returns the exact lengths of source and target of a text without specials."""
        noise, spans = self.counts(length)
        return Limits(source=length - noise + spans, target=noise + spans)

    def corrupt(
        self,
        tokens: Sequence[int],
        *,
        specials: Collection[int] = (),
        sentinel_ids: Sequence[int] = (),
        limits: Limits | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[list[int], list[int]]:
        """Returns source and target of one text.

        A text that is too long for `limits` is shortened before it is corrupted, so that both still belong together.
        A span goes on behind a special with the next sentinel. Where specials are so many that the sentinels might
        not suffice for that, there are fewer and longer spans than usual.

        Args:
            tokens: At least two tokens that are not special.
            specials: Ids that are never hidden.
            sentinel_ids: Ids that stand for the hidden spans, in this order.
            limits: Most tokens of source and target.
            generator: Where the spans are drawn from.

        Raises:
            ValueError: If the text, or what `limits` leave of it, has fewer than two tokens that are not special, or
                if it needs more sentinels than there are.
        """
        if limits is not None:
            tokens = self._shortened(tokens, specials, limits)
        positions = [position for position, token in enumerate(tokens) if token not in specials]
        _check_length(len(positions))
        noise, spans = self.counts(len(positions))
        if spans > len(sentinel_ids):
            raise ValueError(
                f"a text of {len(tokens)} tokens needs {spans} sentinels, but there are {len(sentinel_ids)}: add "
                "sentinels to the tokenizer, make the texts shorter or the spans longer"
            )
        spans = max(1, min(spans, len(sentinel_ids) - (len(tokens) - len(positions))))
        drawn = random_spans(len(positions), noise=noise, spans=spans, generator=generator)
        return corrupt_spans(tokens, _at(positions, drawn), sentinel_ids)

    def _shortened(self, tokens: Sequence[int], specials: Collection[int], limits: Limits) -> Sequence[int]:
        length = min(len(tokens), sum(limits))
        special = sum(token in specials for token in tokens[:length])
        while length - special > 1:
            source, target = self.lengths(length - special)
            # each special is shown, and a span that goes on behind it costs one more sentinel on either side
            if source + 2 * special <= limits.source and target + special <= limits.target:
                break
            length -= 1
            special -= tokens[length] in specials
        return tokens[:length]


@dataclass(frozen=True, kw_only=True)
class PrefixLM:
    """Hides the end of the text, from a random position on: the source is what comes before, the target the rest.

    There is no sentinel: this is the form of every sequence-to-sequence task. The target ends before the first
    special, which is where a document ends in a text of several.

    Args:
        noise_density: Mean share of the tokens that are hidden, in (0, 0.5]; the share is uniform between 0 and twice
            as much. UL2 has 0.25; with 0.5 the text is split anywhere.
        mode: Name of its family in UL2: S (sequential).
    """

    noise_density: float = 0.5
    mode: str = "S"

    def __post_init__(self) -> None:
        _check_density(self.noise_density)
        if self.noise_density > 0.5:
            raise ValueError(
                f"noise_density is {self.noise_density}, but the mean share of a uniform one is at most 0.5"
            )

    def corrupt(
        self,
        tokens: Sequence[int],
        *,
        specials: Collection[int] = (),
        sentinel_ids: Sequence[int] = (),
        limits: Limits | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[list[int], list[int]]:
        """Returns source and target of one text; see `SpanCorruption.corrupt`. No sentinel is used.

        Raises:
            ValueError: If the text, or what `limits` leave of it, has fewer than two tokens that are not special.
        """
        if limits is not None:
            tokens = tokens[: sum(limits)]
        length = len(tokens)
        limits = Limits(length, length) if limits is None else limits
        _check_length(sum(token not in specials for token in tokens))
        longest_target = min(limits.target, round(2 * self.noise_density * length))
        splits = [split for split in range(1, min(length, limits.source + 1)) if tokens[split] not in specials]
        _check_length(1 + len(splits))
        # the last one may be too early for the target to be as short as that
        splits = [split for split in splits if split >= length - longest_target] or splits[-1:]
        source, target = prefix_lm(tokens, splits[_random_below(len(splits), generator)])
        end = next((place for place, token in enumerate(target) if token in specials), len(target))
        return source, target[: min(end, limits.target)]


Denoiser = SpanCorruption | PrefixLM

# the seven denoisers of UL2 (arXiv 2205.05131, 3.1.2): regular, sequential and extreme; it draws each equally often
UL2_R = (SpanCorruption(), SpanCorruption(mean_span_length=8.0))
UL2_S = (PrefixLM(noise_density=0.25),)
UL2_X = (
    SpanCorruption(noise_density=0.5, mean_span_length=3.0, mode="X"),
    SpanCorruption(noise_density=0.5, mean_span_length=8.0, mode="X"),
    SpanCorruption(noise_density=0.15, mean_span_length=64.0, mode="X"),
    SpanCorruption(noise_density=0.5, mean_span_length=64.0, mode="X"),
)


def prefix_lm(tokens: Sequence[int], split: int) -> tuple[list[int], list[int]]:
    """Returns what comes before the position `split` and the rest.

    Raises:
        ValueError: If one of them would be empty.
    """
    if not 0 < split < len(tokens):
        raise ValueError(f"split is {split}, but only 1 to {len(tokens) - 1} leave something on both sides")
    return list(tokens[:split]), list(tokens[split:])


def random_spans(length: int, *, noise: int, spans: int, generator: torch.Generator | None = None) -> list[Span]:
    """Returns non-empty spans in order, with at least one position between two of them.

    All ways to choose them are equally likely. (T5's `random_spans_noise_mask` differs in one thing: its texts always
    begin outside of a span and end inside of one.)

    Args:
        length: Number of positions.
        noise: Number of positions inside of the spans, smaller than `length`.
        spans: Number of spans, at most `noise` and at most `length - noise + 1`.
        generator: Where they are drawn from.

    Raises:
        ValueError: If there is no way to choose them.
    """
    if not 1 <= spans <= min(noise, length - noise + 1) or noise >= length:
        raise ValueError(f"{noise} of {length} positions cannot be hidden in {spans} spans with gaps between them")
    widths = _random_parts(noise, spans, generator)
    # the first and the last gap, those at the ends, may be empty
    gaps = _random_parts(length - noise + 2, spans + 1, generator)
    found, position = [], -1
    for gap, width in zip(gaps, widths, strict=False):
        found.append((position + gap, position + gap + width))
        position += gap + width
    return found


def corrupt_spans(
    tokens: Sequence[int], spans: Sequence[Span], sentinel_ids: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Returns the tokens with a sentinel in the place of each span, and each span after its sentinel.

    Args:
        tokens: The text.
        spans: Where it is hidden, in order and apart.
        sentinel_ids: An id for each span; those left over are not used.

    Raises:
        ValueError: If there are more spans than sentinels.

    Example:
    >>> corrupt_spans([10, 11, 12, 13, 14, 15], [(1, 3), (5, 6)], sentinel_ids=[99, 98])
    ([10, 99, 13, 14, 98], [99, 11, 12, 98, 15])
    """
    if len(spans) > len(sentinel_ids):
        raise ValueError(
            f"{len(spans)} spans of a text of {len(tokens)} tokens need as many sentinels, but there are "
            f"{len(sentinel_ids)}: add sentinels to the tokenizer, or keep short documents apart"
        )
    source: list[int] = []
    target: list[int] = []
    done = 0
    for (start, stop), sentinel in zip(spans, sentinel_ids, strict=False):
        source += [*tokens[done:start], sentinel]
        target += [sentinel, *tokens[start:stop]]
        done = stop
    return [*source, *tokens[done:]], target


def restore(source: Sequence[int], target: Sequence[int], sentinel_ids: Collection[int]) -> list[int]:
    """Returns the text that `corrupt_spans` made source and target of.

    A prediction may stand for the target: a sentinel that it does not have is replaced by nothing.
    """
    spans: dict[int, list[int]] = {}
    span: list[int] = []
    for token in target:
        if token in sentinel_ids:
            span = spans.setdefault(token, [])
        else:
            span.append(token)
    return [part for token in source for part in (spans.get(token, []) if token in sentinel_ids else [token])]


def _at(positions: Sequence[int], spans: Sequence[Span]) -> list[Span]:
    """Returns spans over a list of positions as spans of positions, in two where two positions are not neighbours."""
    found: list[Span] = []
    for start, stop in spans:
        for position in positions[start:stop]:
            if found and found[-1][1] == position:
                found[-1] = (found[-1][0], position + 1)
            else:
                found.append((position, position + 1))
    return found


def _random_parts(total: int, parts: int, generator: torch.Generator | None) -> list[int]:
    """Returns positive numbers with the given sum, all ways equally likely."""
    cuts = (torch.randperm(total - 1, generator=generator)[: parts - 1] + 1).sort().values.tolist()
    return [end - start for start, end in zip([0, *cuts], [*cuts, total], strict=True)]


def _random_below(end: int, generator: torch.Generator | None) -> int:
    return int(torch.randint(end, (), generator=generator))


def _check_length(ordinary: int) -> None:
    if ordinary < 2:
        raise ValueError(
            f"a text has {ordinary} tokens that are not special and within the limits, but at least 2 are needed, one "
            "to be shown and one to be hidden: leave such texts out, or raise the limits of source and target"
        )
