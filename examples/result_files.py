"""Results that take long: each part of a comparison is done once, and kept as soon as it is done."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import transformers

from encdec_slm.processor_name import processor_name


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a comparison.

    Args:
        folder: Has a record of each part, as JSON.
        results: JSON file of all records, written anew after each part.
        settings: What all records depend on.
        common: What all records say besides.
    """

    folder: Path
    results: Path
    settings: Mapping[str, Any]
    common: Mapping[str, Any] = field(default_factory=dict)

    def once(self, name: str, part: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Returns the record of a part, which is done if there is none.

        Raises:
            ValueError: If the record that is there is of other settings.
        """
        path = self.folder / f"{name}.json"
        if path.exists():
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            self._refuse(path, record["settings"])
            print(f"{name}: done already")
            return record
        began = time.monotonic()
        record = {"name": name, **self.common, **part()}
        record |= {"seconds": round(time.monotonic() - began), "settings": dict(self.settings)}
        write_json(path, record)
        files = sorted(self.folder.glob("*.json"))
        write_json(self.results, [json.loads(file.read_text(encoding="utf-8")) for file in files])
        return record

    def _refuse(self, path: Path, done: Mapping[str, Any]) -> None:
        if other := [key for key, value in self.settings.items() if done.get(key) != value]:
            raise ValueError(
                f"{path} was made with {other[0]} {done.get(other[0])}, not {self.settings[other[0]]}: name another "
                "output_dir, or delete it"
            )


def machine(device: torch.device, threads: int) -> str:
    """What the times were taken on."""
    where = f"{processor_name()}, {threads} thread(s)" if device.type == "cpu" else torch.cuda.get_device_name(device)
    return f"{where}, torch {torch.__version__}, transformers {transformers.__version__}"


def spread(values: Sequence[float], digits: int = 3) -> str:
    """The mean, and of several values the least and the greatest.

    Example:
        >>> spread([1.0, 2.0], 1)
        '1.5 (1.0 to 2.0)'
    """
    text = f"{mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def write_json(path: Path, content: Any) -> None:
    """Writes a file as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
