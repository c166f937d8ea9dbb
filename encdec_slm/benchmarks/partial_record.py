"""What a long comparison has finished so far: a line of JSON for each model with each input."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class PartialRecord:
    """A file that is read when a comparison begins again, and deleted when it is complete.

    Args:
        path: Of the file; None to keep nothing.
        settings: What all that is in it depends on.

    Raises:
        ValueError: If what is there was measured with other settings.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        self.path = path
        self._finished: dict[str, Any] = {}
        if path is None:
            return
        # as JSON gives it back
        settings = json.loads(json.dumps(dict(settings)))
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(settings) + "\n", encoding="utf-8")
            return
        first, *lines = path.read_text(encoding="utf-8").splitlines()
        done = json.loads(first)
        if other := [name for name, value in settings.items() if done.get(name) != value]:
            raise ValueError(
                f"{path} holds what was measured with {other[0]} {done.get(other[0])}, not {settings[other[0]]}: "
                "delete it, or name another --output"
            )
        for line in lines:
            # a line may have been cut off with the process that wrote it
            if line.endswith("]"):
                key, result = json.loads(line)
                self._finished[key] = result

    def find(self, keys: Sequence[str]) -> list[Any] | None:
        """Returns the results of some models if all of them are there: they took turns, and belong together."""
        return [self._finished[key] for key in keys] if all(key in self._finished for key in keys) else None

    def add(self, key: str, result: Any) -> None:
        """Appends a result."""
        self._finished[key] = result
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([key, result]) + "\n")

    def delete(self) -> None:
        """Deletes the file."""
        if self.path is not None:
            self.path.unlink()
