"""The contestants of the comparison with images: models of equal size, with one tower, and what they are asked."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from encdec_slm.benchmarks.decoding import Contestant
from encdec_slm.benchmarks.peers import llava_of_equal_size, random_model


OURS, PEER = "encdec_slm", "decoder-only"
# side of the square of patches that becomes one image token
FACTOR = 2
# LLaVA's names for what a vision model has beside a text model
VISION_PARTS = ("vision_tower", "multi_modal_projector")


@dataclass(frozen=True, kw_only=True)
class Question:
    """What all are asked.

    Attributes:
        views: Square views that the tower sees, each an image of its own.
        text_tokens: Tokens of the question itself.
    """

    views: int
    text_tokens: int


@dataclass(frozen=True)
class Case:
    """A contestant with its input, and what the table says of it.

    Attributes:
        family: Which of the two architectures.
        image_tokens: Tokens of all images in the input.
        image_states: How many states of them a decoder reads for every token that it writes.
        contestant: Model and input.
    """

    family: str
    image_tokens: int
    image_states: int
    contestant: Contestant


def part(model: nn.Module, name: str) -> nn.Module:
    """Returns the part of a model that has this name, however deep it lies."""
    return next(module for path, module in model.named_modules() if path.rpartition(".")[2] == name)


def share_weights(model: nn.Module, donor: nn.Module) -> None:
    """Makes a model use another one's weights wherever name and shape are the same, and give its own ones back."""
    own = model.state_dict()
    theirs = donor.state_dict(keep_vars=True)
    same = {name: value for name, value in theirs.items() if name in own and own[name].shape == value.shape}
    model.load_state_dict(same, strict=False, assign=True)


def ask(family: str, model: Any, question: Question, image_tokens: int, pooling: int = 1) -> Case:
    """Returns a model with its input: random words, after random images if any tokens of them are wanted.

    Args:
        family: Which of the two architectures.
        model: The model.
        question: How many words and views.
        image_tokens: Tokens that the model makes of all views; 0 for words alone.
        pooling: How many states of them the model averages before its decoder reads them.
    """
    config, generator = model.config, torch.Generator().manual_seed(0)
    vocab_size = config.get_text_config(decoder=True).vocab_size
    # the last token stands for an image
    input_ids = torch.randint(3, vocab_size - 1, (1, question.text_tokens), generator=generator)
    name = f"{family}, {image_tokens:,} image tokens"
    inputs: dict[str, torch.Tensor] = {}
    if image_tokens:
        tower: Any = part(model, "vision_tower")
        edge = tower.config.image_size
        pixels = torch.randn(question.views, 3, edge, edge, generator=generator)
        inputs["pixel_values"] = pixels.to(model.dtype)
        marks = torch.full((1, image_tokens), config.image_token_id)
        input_ids = torch.cat((marks, input_ids), dim=1)
    if pooling > 1:
        name += f", {image_tokens // pooling:,} states"
    inputs |= {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    return Case(family, image_tokens, image_tokens // pooling, Contestant(name, model, inputs))


def build(configs: dict[str, Any], dtype: str, tower: nn.Module | None = None) -> dict[str, Any]:
    """Returns models that share what weights they have alike, and those of a tower if one is given."""
    models: dict[str, Any] = {}
    for name, config in configs.items():
        models[name] = random_model(config, dtype, AutoModelForImageTextToText)
        if tower is not None:
            share_weights(part(models[name], "vision_tower"), tower)
        share_weights(models[name], next(iter(models.values())))
    return models


def peer_configurations(configs: dict[str, Any]) -> dict[str, Any]:
    """Returns the configurations of the decoder-only models, as large as the encoder-decoder that is `plain`.

    Args:
        configs: Configurations of the encoder-decoder: `plain`, `compressed` and others.
    """
    with torch.device("meta"):
        plain = AutoModelForImageTextToText.from_config(configs["plain"])
    vision = sum(weight.numel() for name in VISION_PARTS for weight in part(plain, name).parameters())
    text_parameters = plain.num_parameters() - vision
    return {name: llava_of_equal_size(configs[name], text_parameters) for name in ("plain", "compressed")}


def cases(configs: dict[str, Any], question: Question, dtype: str) -> list[Case]:
    """Returns the encoder-decoder and its peer, each without images, with all image tokens, and with fewer.

    All models of an architecture share their weights, and all models one tower's, so that they fit in memory together.

    Args:
        configs: Configurations of the encoder-decoder: `plain`, `compressed` by pixel shuffle, and `pooled`.
        question: What they are asked.
        dtype: Of the weights.
    """
    ours = build(configs, dtype)
    peers = build(peer_configurations(configs), dtype, part(ours["plain"], "vision_tower"))
    whole = question.views * configs["plain"].encoder.patches_per_side ** 2
    fewer = whole // FACTOR**2
    return [
        ask(OURS, ours["plain"], question, 0),
        ask(OURS, ours["compressed"], question, fewer),
        ask(OURS, ours["plain"], question, whole),
        ask(OURS, ours["pooled"], question, whole, pooling=FACTOR**2),
        ask(PEER, peers["plain"], question, 0),
        ask(PEER, peers["compressed"], question, fewer),
        ask(PEER, peers["plain"], question, whole),
    ]
