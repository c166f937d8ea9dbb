"""What the laws of `tests/models` need from a family of models: a tiny model and inputs for it."""

from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel

from encdec_slm import EncDecSLMConfig, EncDecSLMEncoder, EncDecSLMForConditionalGeneration, EncDecSLMModel


Inputs = dict[str, torch.Tensor]

VOCAB_SIZE = 60
FIRST_WORD = 8  # below: special tokens and punctuation


class ModelTester:
    """The text model. A family with other inputs overrides `row` and `batch`, and the classes.

    The defaults are those in which most can go wrong: unequal depths, grouped heads, heads wider than the width.

    Args:
        encoder: What the encoder has different, as in `EncDecSLMEncoderConfig`.
        decoder: What the decoder has different.
        both: What both have different.
        top: What is different on top.
    """

    model_class = EncDecSLMForConditionalGeneration
    base_class = EncDecSLMModel
    encoder_class = EncDecSLMEncoder
    config_class = EncDecSLMConfig
    stack: ClassVar[dict[str, Any]] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 64,
    }

    def __init__(
        self,
        *,
        encoder: dict[str, Any] | None = None,
        decoder: dict[str, Any] | None = None,
        both: dict[str, Any] | None = None,
        **top: Any,
    ) -> None:
        self.encoder = {**self.stack, "num_hidden_layers": 3, **(both or {}), **(encoder or {})}
        self.decoder = {**self.stack, "num_hidden_layers": 2, **(both or {}), **(decoder or {})}
        # far above that of training: the answers of a random model then vary with its input
        self.top = {"initializer_range": 0.5, **top}

    def config(self, **changes: Any) -> EncDecSLMConfig:
        """Returns the configuration, with `changes` on top."""
        return self.config_class(encoder=dict(self.encoder), decoder=dict(self.decoder), **{**self.top, **changes})

    def model(self, **changes: Any) -> PreTrainedModel:
        """Returns a random model in evaluation mode. Biases and norms are random too: none of them is forgotten."""
        torch.manual_seed(0)
        model = self.model_class(self.config(**changes)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.2 * torch.randn_like(parameter))
        return model

    def assistant(self) -> PreTrainedModel:
        """Returns a smaller model with the same vocabulary and other weights."""
        smaller = type(self)(
            encoder={"num_hidden_layers": 1}, decoder={"num_hidden_layers": 1, "num_key_value_heads": 1}
        )
        return smaller.model()

    def row(self, length: int) -> Inputs:
        """Returns the random input of one example."""
        return self.words(length)

    def words(self, length: int) -> Inputs:
        """Returns random words as the input of one example."""
        input_ids = torch.randint(FIRST_WORD, VOCAB_SIZE, (1, length))
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}

    def batch(self, rows: list[Inputs], padding_side: str = "right") -> Inputs:
        """Returns several rows as one batch, padded with random words that only the mask tells from the input."""
        longest = max(row["input_ids"].shape[1] for row in rows)
        padded = [self.words(longest) for _ in rows]
        for target, row in zip(padded, rows, strict=True):
            length = row["input_ids"].shape[1]
            place = slice(longest - length, None) if padding_side == "left" else slice(0, length)
            target["input_ids"][:, place] = row["input_ids"]
            target["attention_mask"].zero_()[:, place] = 1
        return {name: torch.cat([row[name] for row in padded]) for name in padded[0]}

    def inputs(self, lengths: tuple[int, ...] = (9, 5, 7)) -> Inputs:
        """Returns the input of a batch of rows of unequal lengths."""
        return self.batch([self.row(length) for length in lengths])

    def targets(self, batch: int = 3, length: int = 6) -> torch.Tensor:
        """Returns random target tokens: decoder input ids, or labels."""
        return torch.randint(FIRST_WORD, VOCAB_SIZE, (batch, length))
