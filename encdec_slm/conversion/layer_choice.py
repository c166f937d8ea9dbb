"""Which layers of a decoder-only model the encoder and the decoder start from: pure functions of numbers and names."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction


DEFAULT_SPLIT = "2/3-1/3"
DEFAULT_ENCODER_LAYERS = "first"
DEFAULT_DECODER_LAYERS = "first-last"


@dataclass(frozen=True, kw_only=True)
class LayerChoice:
    """For every layer of the two stacks, from the bottom up, the number of the source's layer that it starts from."""

    encoder: tuple[int, ...]
    decoder: tuple[int, ...]


def even(count: int, available: int) -> tuple[int, ...]:
    """Returns `count` layers at equal distances, the first and the last among them if there is more than one."""
    if count == 1:
        return (0,)
    # half a step up, as `round` would go to the even neighbour
    return tuple((2 * i * (available - 1) + count - 1) // (2 * (count - 1)) for i in range(count))


def first(count: int, available: int) -> tuple[int, ...]:
    """Returns the lowest `count` layers."""
    return tuple(range(count))


def last(count: int, available: int) -> tuple[int, ...]:
    """Returns the highest `count` layers."""
    return tuple(range(available - count, available))


def first_last(count: int, available: int) -> tuple[int, ...]:
    """Returns the lowest layers and the highest, half of each; an odd one is from below."""
    from_above = count // 2
    return first(count - from_above, available) + last(from_above, available)


PICKS: dict[str, Callable[[int, int], tuple[int, ...]]] = {
    "even": even,
    "first": first,
    "first-last": first_last,
    "last": last,
}


def choose_layers(
    available: int,
    *,
    encoder_layers: int | None = None,
    decoder_layers: int | None = None,
    split: str = DEFAULT_SPLIT,
    layers: str | None = None,
) -> LayerChoice:
    """Returns which layers of the source each stack starts from.

    Args:
        available: Number of layers of the source.
        encoder_layers: Layers of the encoder; by default what `split` says, or what `layers` lists.
        decoder_layers: Layers of the decoder, likewise.
        split: Layers of encoder and decoder as fractions of the source's, such as `2/3-1/3` or `1-0.5`.
        layers: One part for both stacks, or one for the encoder and one for the decoder with `/` between. A part is
            `even`, `first`, `first-last` or `last`, or lists layers from 0 such as `0-4,25-29`, ends included, in
            which a layer may come again.

    Raises:
        ValueError: If a text has another form, there are fewer layers than asked for, a listed layer does not exist,
            or a list has not as many layers as the stack.

    Example:
        >>> choose_layers(6, layers="first/first-last")
        LayerChoice(encoder=(0, 1, 2, 3), decoder=(0, 5))
        >>> choose_layers(6, layers="0-2,2/5")
        LayerChoice(encoder=(0, 1, 2, 2), decoder=(5,))
    """
    if layers is None:
        layers = f"{DEFAULT_ENCODER_LAYERS}/{DEFAULT_DECODER_LAYERS}"
    parts = layers.split("/")
    if len(parts) > 2:
        raise ValueError(f"layers {layers!r} has {len(parts)} parts: one for both stacks, or ENCODER/DECODER")
    split_counts = split_layers(available, split)
    encoder, decoder = (
        _choose_for_stack(stack, part, available, asked, split_count)
        for stack, part, asked, split_count in zip(
            ("encoder", "decoder"), (parts[0], parts[-1]), (encoder_layers, decoder_layers), split_counts, strict=True
        )
    )
    return LayerChoice(encoder=encoder, decoder=decoder)


def list_layers(numbers: Sequence[int]) -> str:
    """Returns layers as `choose_layers` reads them, rising neighbours as ranges.

    Example:
        >>> list_layers((0, 1, 2, 3, 28, 29, 29))
        '0-3,28-29,29'
    """
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1].append(number)
        else:
            ranges.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in ranges)


def split_layers(available: int, split: str) -> tuple[int, int]:
    """Returns the layers of encoder and decoder, at least one each, for fractions of the source's such as `2/3-1/3`.

    Fractions that make a whole share the layers without a rest, the encoder's number being rounded.

    Raises:
        ValueError: If it is not two fractions above 0 and up to 1.
    """
    fractions = _fractions(split)
    encoder = max(1, _round_half_up(fractions[0] * available))
    decoder = available - encoder if sum(fractions) == 1 else _round_half_up(fractions[1] * available)
    return encoder, max(1, decoder)


def _fractions(split: str) -> list[Fraction]:
    try:
        fractions = [Fraction(part) for part in split.split("-")]
    except (ValueError, ZeroDivisionError):
        fractions = []
    if len(fractions) != 2 or not all(0 < fraction <= 1 for fraction in fractions):
        raise ValueError(
            f"split {split!r} is not ENCODER-DECODER as two fractions of the source's layers, each above 0 and up to "
            f"1, such as {DEFAULT_SPLIT}"
        )
    return fractions


def _round_half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def _choose_for_stack(stack: str, part: str, available: int, asked: int | None, split_count: int) -> tuple[int, ...]:
    if asked is not None and asked < 1:
        raise ValueError(f"{stack}_layers is {asked}, but the {stack} needs at least one layer")
    if part in PICKS:
        count = split_count if asked is None else asked
        if count > available:
            raise ValueError(
                f"the {stack} was asked for with {count} layers, but the source has {available}: ask for fewer, or "
                f"list the layers, some of them twice"
            )
        return PICKS[part](count, available)
    listed = tuple(number for item in part.split(",") for number in _numbers(stack, part, item))
    if absent := [number for number in listed if number >= available]:
        raise ValueError(
            f"the {stack} was asked for with layer {absent[0]} ({part!r}), but the source has {available} layers, "
            f"0 to {available - 1}"
        )
    if asked is not None and asked != len(listed):
        raise ValueError(
            f"{stack}_layers is {asked}, but {part!r} lists {len(listed)} of the source's {available} layers: leave "
            "one of them out"
        )
    return listed


def _numbers(stack: str, part: str, item: str) -> range:
    match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", item, re.ASCII)
    if match is None or int(match[1]) > int(match[2] or match[1]):
        raise ValueError(
            f"layers of the {stack}: {item!r} in {part!r} is neither a layer nor a range such as 0-4; the named "
            f"choices are {', '.join(PICKS)}"
        )
    return range(int(match[1]), int(match[2] or match[1]) + 1)
