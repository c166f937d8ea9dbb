"""The students of `start_from_decoder_only.py`: which layers they start from, and how fast their parts learn."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from transformers import AutoConfig

from encdec_slm import EncDecSLMConfig, EncDecSLMForConditionalGeneration
from encdec_slm.adaptation import freeze
from encdec_slm.conversion import from_decoder_only


CROSS_ATTENTION = r"encoder_attn|cross_attention_layernorm|encoder\.norm"
EMBEDDING = r"embed_tokens"
ENCODER = r"^model\.encoder\."


@dataclass(frozen=True, kw_only=True)
class Student:
    """How a student starts and learns.

    Args:
        name: Short, for the command line; those of trials begin with `trial`.
        label: What a reader is told of it.
        layers: Layers of the source as `from_decoder_only` reads them, `ENCODER/DECODER`.
        cross_attention: What cross-attention starts from, `zero` or `self`.
        cross_attention_rope: Whether it compares places, as self-attention does.
        is_random: Whether the weights of that architecture are drawn anew.
        hidden_size: Of a smaller architecture with random weights, whose layers `layers` then counts.
        learning_rate: Of all parameters without a rate of their own.
        rates: Multipliers of the learning rate by pattern of parameter names.
        frozen: Patterns of parameters that do not learn.
        adaptation_share: Part of the time that goes to an adaptation, before the task.
        adaptation: In which it learns to `continue` the texts of the task, or to `copy` random tokens.
        warmup_steps: Steps over which the learning rate rises. Random weights need more of them.
    """

    name: str
    label: str
    layers: str
    cross_attention: str = "zero"
    cross_attention_rope: bool = False
    is_random: bool = False
    hidden_size: int | None = None
    learning_rate: float
    rates: Mapping[str, float] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    adaptation_share: float = 0.0
    adaptation: Literal["continue", "copy"] = "continue"
    warmup_steps: int = 20

    def build(self, source: str) -> EncDecSLMForConditionalGeneration:
        """Returns the student in float32, with the vocabulary of the source."""
        if self.hidden_size is not None:
            return small_model(source, self.hidden_size, *map(int, self.layers.split("/")))
        model = from_decoder_only(
            source,
            layers=self.layers,
            cross_attention=self.cross_attention,
            cross_attention_rope=self.cross_attention_rope,
            dtype=torch.float32,
        )
        if self.is_random:
            return EncDecSLMForConditionalGeneration(model.config)
        return model

    def freeze(self, model: EncDecSLMForConditionalGeneration) -> None:
        """Excludes from training what shall stay as it is."""
        if self.frozen:
            freeze(model, self.frozen)


def small_model(
    source: str, hidden_size: int, encoder_layers: int, decoder_layers: int
) -> EncDecSLMForConditionalGeneration:
    """Returns a model with random weights, of the source's kind and vocabulary but narrow and shallow."""
    vocabulary = AutoConfig.from_pretrained(source)
    stack = {
        "hidden_size": hidden_size,
        "intermediate_size": 8 * hidden_size // 3 // 32 * 32,
        "num_attention_heads": hidden_size // 64,
        "head_dim": 64,
        "hidden_act": "silu",
        "gated_mlp": True,
        "attention_bias": False,
        "mlp_bias": False,
        "dropout": 0.0,
        "attention_dropout": 0.0,
    }
    config = EncDecSLMConfig(
        encoder={**stack, "num_hidden_layers": encoder_layers},
        decoder={**stack, "num_hidden_layers": decoder_layers},
        vocab_size=vocabulary.vocab_size,
        bos_token_id=vocabulary.bos_token_id,
        eos_token_id=vocabulary.eos_token_id,
        pad_token_id=0,
        decoder_start_token_id=vocabulary.bos_token_id,
    )
    return EncDecSLMForConditionalGeneration(config)


SPLIT = "0-19/0-4,25-29"
WHOLE = "0-14/0-29"

COMPARED = (
    Student(
        name="whole",
        label="started, 15 + 30 layers",
        layers=WHOLE,
        learning_rate=1e-4,
        rates={CROSS_ATTENTION: 10.0},
        frozen=(ENCODER,),
    ),
    Student(
        name="whole-random",
        label="random, 15 + 30 layers",
        layers=WHOLE,
        is_random=True,
        learning_rate=5e-4,
        warmup_steps=200,
    ),
    Student(name="split", label="started, 20 + 10 layers", layers=SPLIT, learning_rate=1e-3, frozen=(ENCODER,)),
    Student(
        name="split-random",
        label="random, 20 + 10 layers",
        layers=SPLIT,
        is_random=True,
        learning_rate=1e-3,
        warmup_steps=200,
    ),
    Student(
        name="small",
        label="from scratch, 4 + 2 layers",
        layers="4/2",
        hidden_size=256,
        learning_rate=2e-3,
        is_random=True,
        warmup_steps=200,
    ),
)
# what was tried: which layers, what cross-attention starts from, what learns and how fast
TRIALS = (
    Student(name="trial-even", label="20 + 10: even / even, 1e-3", layers="even/even", learning_rate=1e-3),
    Student(name="trial-first-last", label="20 + 10: first / first-last, 1e-3", layers=SPLIT, learning_rate=1e-3),
    Student(
        name="trial-self",
        label="20 + 10: first / first-last, cross-attention from self-attention, 1e-3",
        layers=SPLIT,
        cross_attention="self",
        learning_rate=1e-3,
    ),
    Student(
        name="trial-frozen",
        label="20 + 10: first / first-last, encoder frozen, 1e-3",
        layers=SPLIT,
        learning_rate=1e-3,
        frozen=(ENCODER,),
    ),
    Student(
        name="trial-frozen-slow",
        label="20 + 10: first / first-last, encoder frozen, 5e-4",
        layers=SPLIT,
        learning_rate=5e-4,
        frozen=(ENCODER,),
    ),
    Student(
        name="trial-frozen-first",
        label="20 + 10: first / first, encoder frozen, 1e-3",
        layers="0-19/0-9",
        learning_rate=1e-3,
        frozen=(ENCODER,),
    ),
    Student(name="trial-whole", label="15 + 30: first / all, 5e-4", layers=WHOLE, learning_rate=5e-4),
    Student(
        name="trial-whole-frozen",
        label="15 + 30: first / all, encoder frozen, 1e-4, cross-attention 1e-3",
        layers=WHOLE,
        learning_rate=1e-4,
        rates={CROSS_ATTENTION: 10.0},
        frozen=(ENCODER,),
    ),
    Student(
        name="trial-whole-self",
        label="15 + 30: first / all, encoder frozen, 1e-4, cross-attention 1e-3 from self-attention",
        layers=WHOLE,
        cross_attention="self",
        learning_rate=1e-4,
        rates={CROSS_ATTENTION: 10.0},
        frozen=(ENCODER,),
    ),
    Student(
        name="trial-whole-cross",
        label="15 + 30: first / all, cross-attention alone learns, 2e-3",
        layers=WHOLE,
        learning_rate=2e-3,
        frozen=(r"self_attn|mlp|input_layernorm|post_attention_layernorm|embed_tokens|decoder\.norm",),
    ),
)

# the student `whole` with and without an adaptation, in the same time
ADAPTED = (
    replace(COMPARED[0], name="adapted-0", label="15 + 30: the task alone"),
    replace(
        COMPARED[0],
        name="adapted-25",
        label="15 + 30: a quarter of the time prefix language modeling, then the task",
        adaptation_share=0.25,
    ),
    replace(
        COMPARED[0],
        name="adapted-copy",
        label="15 + 30: a quarter of the time random tokens to copy, then the task",
        adaptation_share=0.25,
        adaptation="copy",
    ),
)
# smaller than the model that it starts from
DISTILLED = (
    Student(
        name="half",
        label="started, 10 + 5 layers",
        layers="0-9/0-2,28-29",
        cross_attention_rope=True,
        learning_rate=1e-3,
        frozen=(ENCODER,),
    ),
)

STUDENTS = {student.name: student for student in (*COMPARED, *TRIALS, *ADAPTED, *DISTILLED)}
