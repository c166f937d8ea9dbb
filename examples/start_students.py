"""The students of `start_from_decoder_only.py`: which layers they start from, and how fast their parts learn."""

from collections.abc import Mapping
from dataclasses import dataclass, field

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
        is_random: Whether the weights of that architecture are drawn anew.
        hidden_size: Of a smaller architecture with random weights, whose layers `layers` then counts.
        folder: Where the student is, started already and adapted to text; `layers` then only tells from which layers.
        learning_rate: Of all parameters without a rate of their own.
        rates: Multipliers of the learning rate by pattern of parameter names.
        frozen: Patterns of parameters that do not learn.
    """

    name: str
    label: str
    layers: str
    cross_attention: str = "zero"
    is_random: bool = False
    hidden_size: int | None = None
    folder: str | None = None
    learning_rate: float
    rates: Mapping[str, float] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()

    def build(self, source: str) -> EncDecSLMForConditionalGeneration:
        """Returns the student in float32, with the vocabulary of the source."""
        if self.folder is not None:
            return EncDecSLMForConditionalGeneration.from_pretrained(self.folder, dtype=torch.float32)
        if self.hidden_size is not None:
            return small_model(source, self.hidden_size, *map(int, self.layers.split("/")))
        model = from_decoder_only(
            source, layers=self.layers, cross_attention=self.cross_attention, dtype=torch.float32
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
        learning_rate=5e-4,
        rates={CROSS_ATTENTION: 2.0},
        frozen=(EMBEDDING,),
    ),
    Student(name="whole-random", label="random, 15 + 30 layers", layers=WHOLE, is_random=True, learning_rate=5e-4),
    Student(name="split", label="started, 20 + 10 layers", layers=SPLIT, learning_rate=1e-3, frozen=(ENCODER,)),
    Student(name="split-random", label="random, 20 + 10 layers", layers=SPLIT, is_random=True, learning_rate=1e-3),
    Student(
        name="small",
        label="from scratch, 4 + 2 layers",
        layers="4/2",
        hidden_size=256,
        learning_rate=2e-3,
        is_random=True,
    ),
)
# of three minutes each, on Java to C#: which layers, what learns, how fast
TRIALS = (
    Student(name="trial-even", label="even / even, rate 3e-4", layers="even/even", learning_rate=3e-4),
    Student(name="trial-last", label="first / first-last, rate 3e-4", layers=SPLIT, learning_rate=3e-4),
    Student(name="trial-rate", label="the same, rate 1e-3", layers=SPLIT, learning_rate=1e-3),
    Student(name="trial-first", label="first / first, rate 1e-3", layers="0-19/0-9", learning_rate=1e-3),
    Student(
        name="trial-self",
        label="first / first-last, rate 1e-3, cross-attention from self-attention",
        layers=SPLIT,
        cross_attention="self",
        learning_rate=1e-3,
    ),
    Student(
        name="trial-frozen",
        label="first / first-last, rate 1e-3, encoder and embedding frozen",
        layers=SPLIT,
        learning_rate=1e-3,
        frozen=(ENCODER,),
    ),
    Student(
        name="trial-frozen-fast",
        label="the same, rate 2e-3",
        layers=SPLIT,
        learning_rate=2e-3,
        frozen=(ENCODER,),
    ),
    Student(
        name="trial-adapted",
        label="first / first-last, rate 1e-3, encoder and embedding frozen, adapted to Python functions before",
        layers=SPLIT,
        folder="outputs/adapted",
        learning_rate=1e-3,
        frozen=(ENCODER,),
    ),
    Student(
        name="trial-frozen-cross",
        label="first / first-last, rate 1e-3, encoder and embedding frozen, cross-attention three times as fast",
        layers=SPLIT,
        learning_rate=1e-3,
        rates={r"encoder_attn": 3.0},
        frozen=(ENCODER,),
    ),
    Student(
        name="trial-frozen-even",
        label="first / even, rate 1e-3, encoder and embedding frozen",
        layers="0-19/even",
        learning_rate=1e-3,
        frozen=(ENCODER,),
    ),
    Student(
        name="trial-short",
        label="10 layers first / first-last, rate 1e-3, embedding frozen",
        layers="0-9/0-4,25-29",
        learning_rate=1e-3,
        frozen=(EMBEDDING,),
    ),
    Student(
        name="trial-whole",
        label="15 layers first / all 30, rate 3e-4",
        layers=WHOLE,
        learning_rate=3e-4,
    ),
    Student(
        name="trial-whole-rates",
        label="the same, rate 5e-4, cross-attention twice as fast, embedding frozen",
        layers=WHOLE,
        learning_rate=5e-4,
        rates={CROSS_ATTENTION: 2.0},
        frozen=(EMBEDDING,),
    ),
    Student(
        name="trial-whole-cross",
        label="the same layers, cross-attention alone learns, rate 2e-3",
        layers=WHOLE,
        learning_rate=2e-3,
        frozen=(r"self_attn|mlp|input_layernorm|post_attention_layernorm|embed_tokens|decoder\.norm",),
    ),
)

STUDENTS = {student.name: student for student in (*COMPARED, *TRIALS)}
