"""Vision checkpoints of the original under `tests/fixtures`, with what the original computes from pictures."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file


FIXTURES = Path(__file__).parents[1] / "fixtures"
TINY = FIXTURES / "mu_vision_tiny"
VARIANTS = FIXTURES / "original_vision_variants"
NAMES = ("mu_vision_tiny", *sorted(path.name for path in VARIANTS.iterdir() if path.is_dir()))
IMAGE_MARKER = -200


@dataclass(frozen=True)
class Case:
    """A batch of rows with markers of pictures in their words, and what the original computes from it."""

    images: list
    pixel_values: list
    image_features: list
    expected: dict

    def inputs(self, image_token_id, pad_token_id):
        """What our model takes for the words: as many tokens as the original has features in place of a marker."""
        counts = iter([len(features) for features in self.image_features])
        rows = []
        for row in self.expected["input_ids"].tolist():
            words = [token for token in row if token != pad_token_id]
            rows.append([t for token in words for t in ([image_token_id] * next(counts) if token < 0 else [token])])
        longest = max(map(len, rows))
        input_ids = torch.tensor([row + [pad_token_id] * (longest - len(row)) for row in rows])
        return {"input_ids": input_ids, "attention_mask": (input_ids != pad_token_id).long()}


def folder_of(name):
    return TINY if name == TINY.name else VARIANTS / name


def load_cases(name):
    folder = folder_of(name)
    expected = load_file(folder / "expected.safetensors")
    if name != TINY.name:
        with safe_open(folder / "expected.safetensors", "pt") as file:
            order = json.loads(file.metadata()["images"])
        lists = [[expected.pop(f"{key}.{i}") for i in range(len(order))] for key in ("pixel_values", "image_features")]
        return [Case([Image.open(VARIANTS / f"image_{i}.png") for i in order], *lists, expected)]
    expected |= load_file(folder / "answers.safetensors")
    cases = []
    for number, path in enumerate(sorted(folder.glob("*.png"))):
        case = {key.split(".")[1]: value for key, value in expected.items() if key.startswith(f"{number}.")}
        cases.append(Case([Image.open(path)], [case.pop("pixel_values")], [case.pop("image_features")], case))
    return cases
