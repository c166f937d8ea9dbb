"""A frozen vision tower that looks at a picture once, however often a training shows it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from encdec_slm import EncDecSLMVisionForConditionalGeneration


class RememberingTower(nn.Module):
    """Gives the states that a tower gives, and keeps them.

    Args:
        tower: A tower that is frozen and in evaluation mode: it says the same of a picture whenever it is asked.
        layer: Which of its hidden states are read.
    """

    def __init__(self, tower: nn.Module, layer: int) -> None:
        super().__init__()
        # in a list: it is no part of the model as long as it is remembered
        self._tower = [tower]
        self.layer = layer
        self._states: dict[bytes, torch.Tensor] = {}

    def __len__(self) -> int:
        """How many views have been seen."""
        return len(self._states)

    @torch.no_grad()
    def forward(self, pixel_values: torch.Tensor, **arguments: Any) -> BaseModelOutput:
        """Returns hidden states of which the wanted layer alone is there."""
        keys = [
            hashlib.sha1(view.numpy(force=True).tobytes(), usedforsecurity=False).digest() for view in pixel_values
        ]
        unseen = {key: view for key, view in zip(keys, pixel_values, strict=True) if key not in self._states}
        if unseen:
            states = self._tower[0](torch.stack(list(unseen.values())), **arguments).hidden_states[self.layer]
            self._states |= zip(unseen, states.cpu(), strict=True)
        wanted = torch.stack([self._states[key] for key in keys]).to(pixel_values.device)
        return BaseModelOutput(hidden_states={self.layer: wanted})


@contextmanager
def remembered(
    model: EncDecSLMVisionForConditionalGeneration, memory: RememberingTower | None = None
) -> Iterator[RememberingTower]:
    """Within the block the model's tower looks at every picture once.

    Args:
        model: Its tower must be frozen; it has it back afterwards.
        memory: What another block has seen, with the same tower.

    Yields:
        What is seen.
    """
    encoder = model.get_encoder()
    tower = encoder.vision_tower
    if memory is None:
        memory = RememberingTower(tower.eval(), model.config.encoder.vision_feature_layer)
    encoder.vision_tower = memory
    try:
        yield memory
    finally:
        encoder.vision_tower = tower
