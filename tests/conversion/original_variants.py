"""Checkpoints of the original under `tests/fixtures`, with what the original computes from them."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file


FIXTURES = Path(__file__).parents[1] / "fixtures"
VARIANTS = sorted(path.stem for path in (FIXTURES / "original_variants").glob("*.json"))


@dataclass(frozen=True)
class Variant:
    """A checkpoint of the original, its configuration, and what the original computes from it."""

    config_path: Path
    tensors: dict
    cases: list

    @property
    def config(self):
        return json.loads(self.config_path.read_text())

    def save(self, path, **beside):
        torch.save({"model_state_dict": self.tensors, **beside}, path)
        return path


def load_variant(name):
    if name == "mu_text_tiny":
        folder = FIXTURES / name
        tensors = torch.load(folder / "model.pt", weights_only=True)["model_state_dict"]
        return Variant(folder / "mu_config.json", tensors, [load_file(folder / "expected.safetensors")])
    folder = FIXTURES / "original_variants"
    stored = load_file(folder / f"{name}.safetensors")
    tensors, cases = {}, {}
    for key, value in stored.items():
        kind, rest = key.split(".", 1)
        if kind == "checkpoint":
            tensors[rest] = value
        else:
            number, what = rest.split(".", 1)
            cases.setdefault(int(number), {})[what] = value
    return Variant(folder / f"{name}.json", tensors, [cases[number] for number in sorted(cases)])


def contents(folder):
    """Every file under a folder with its bytes, hidden ones too."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
