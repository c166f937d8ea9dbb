"""Floating-point operations of an answer by formula: from the sizes of a model's matrices and the lengths alone.

What `counting.py` counts while a model runs must be this, to within `AGREEMENT`; where it is not, one of the two does
not know the model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from torch import nn
from transformers.pytorch_utils import Conv1D


# what the library's models call the last projection of an attention, and the modules that it lies in
OUTPUT_PROJECTIONS = ("o", "o_proj", "out_proj", "c_proj", "dense")
ATTENTION = "att"
# an attention to the encoder's states, and what projects those states
CROSS_ATTENTION = ("encdecattention", "encoder_attn", "cross_attn", "crossattention")
# of the angles of rotary positions, which some models compute by a product, the formula knows nothing
AGREEMENT = 1e-4
STATE_PROJECTIONS = ("k", "v", "k_proj", "v_proj", "kv_proj", "key", "value")


@dataclass(frozen=True)
class Stack:
    """What the work of an encoder or decoder follows from.

    Attributes:
        weights: Numbers in the matrices that every position is multiplied with.
        attention: Heads times their width, summed over the layers, of the self-attention.
        cross_attention: The same of the attention to an encoder's states.
        state_weights: Numbers in the matrices that an encoder's states are multiplied with.
    """

    weights: int
    attention: int
    cross_attention: int = 0
    state_weights: int = 0

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """Reads it off the modules of a stack, by the names that the library's models give them."""
        sums = dict.fromkeys(("weights", "attention", "cross_attention", "state_weights"), 0)
        for path, part in module.named_modules():
            if not isinstance(part, nn.Linear | Conv1D):
                continue
            parent, _, name = path.lower().rpartition(".")
            is_cross = any(mark in parent for mark in CROSS_ATTENTION)
            sums["state_weights" if is_cross and name in STATE_PROJECTIONS else "weights"] += part.weight.numel()
            if name in OUTPUT_PROJECTIONS and ATTENTION in parent:
                width = part.weight.shape[1 if isinstance(part, nn.Linear) else 0]
                sums["cross_attention" if is_cross else "attention"] += width
        return cls(**sums)


@dataclass(frozen=True)
class ModelShape:
    """What the work of a model follows from.

    Attributes:
        decoder: The stack that writes.
        encoder: The stack that reads, if there are two.
        head: Numbers in the head.
        reads_last_logits: Whether `generate` asks for the logits of the last position alone.
    """

    decoder: Stack
    encoder: Stack | None
    head: int
    reads_last_logits: bool

    @classmethod
    def of(cls, model: Any) -> Self:
        """Reads it off a model of Transformers that generates."""
        is_encoder_decoder = model.config.is_encoder_decoder
        return cls(
            decoder=Stack.of(model.get_decoder()),
            encoder=Stack.of(model.get_encoder()) if is_encoder_decoder else None,
            head=model.get_output_embeddings().weight.numel(),
            reads_last_logits=model._supports_logits_to_keep(),
        )


@dataclass(frozen=True)
class StepFlops:
    """Operations of one token; a multiplication and an addition are two.

    Attributes:
        total: As kernels are counted: attention that must not look ahead counts whole.
        least: Without what such an attention masks and its kernel may leave out.
    """

    total: int
    least: int


def answer_flops(
    shape: ModelShape, *, batch_size: int, input_length: int, new_tokens: int, use_cache: bool = True
) -> list[StepFlops]:
    """Returns the operations of each token of an answer, the first one with the reading of the input.

    Args:
        shape: Of the model.
        batch_size: Rows, all of the same length.
        input_length: Tokens that are read.
        new_tokens: Tokens that are written.
        use_cache: Whether keys and values are kept. Without, the decoder goes over all tokens so far for each.
    """
    steps = _steps(shape, input_length, new_tokens, use_cache)
    return [StepFlops(total=batch_size * total, least=batch_size * least) for total, least in steps]


def _steps(shape: ModelShape, input_length: int, new_tokens: int, use_cache: bool) -> Iterator[tuple[int, int]]:
    decoder, encoder = shape.decoder, shape.encoder
    prompt = input_length if encoder is None else 1
    for step in range(new_tokens):
        keys = prompt + step
        queries = 1 if use_cache and step else keys
        flops = _pass(decoder, queries, keys)
        flops += 4 * decoder.cross_attention * queries * input_length
        flops += 2 * shape.head * (1 if shape.reads_last_logits else queries)
        if encoder is not None and not (use_cache and step):
            flops += 2 * decoder.state_weights * input_length
        if encoder is not None and not step:
            flops += _pass(encoder, input_length, input_length)
        # of the products with keys that come later, a kernel needs none
        masked = 4 * decoder.attention * (queries * (queries - 1) // 2)
        yield flops, flops - masked


def _pass(stack: Stack, queries: int, keys: int) -> int:
    return 2 * stack.weights * queries + 4 * stack.attention * queries * keys
