"""What has been done of an evaluation, on disk: kept as it comes, and gone on with under the same settings.

settings.json      what all answers depend on
predictions.jsonl  an answer on each line, in the order in which they came
judgements.jsonl   what a judge said of each
results.json       the scores, as model cards read them
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


Record = dict[str, Any]


class RecordFile:
    """Records by number, a line of JSON each, written at once.

    Attributes:
        path: Of the file; it need not be there.
        records: What is in it, by number.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[int, Record] = {}
        if path.is_file():
            self._read()

    def _read(self) -> None:
        whole = 0
        content = self.path.read_bytes()
        for line in content.splitlines(keepends=True):
            # the line at which a process was cut off
            if not line.endswith(b"\n"):
                break
            record = json.loads(line)
            self.records[record["number"]] = record
            whole += len(line)
        if whole < len(content):
            self.path.write_bytes(content[:whole])

    def add(self, records: Iterable[Record]) -> None:
        """Writes records, each with its `number`."""
        new = list(records)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in new)
        self.records |= {record["number"]: record for record in new}


def prepare_folder(
    folder: Path, settings: Mapping[str, Any], *, file: str, overwrite: bool, made: Iterable[str]
) -> bool:
    """Makes the folder of an evaluation ready, and returns whether it goes on with one.

    Args:
        folder: Of the evaluation.
        settings: What all that is made depends on.
        file: Name of the file of the settings.
        overwrite: Whether what is there under other settings is removed.
        made: Names of the files that depend on the settings.

    Raises:
        ValueError: If what is there was made under other settings.
    """
    path = folder / file
    # as it will be read again
    settings = json.loads(json.dumps(settings))
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        differing = [name for name in {**found, **settings} if found.get(name) != settings.get(name)]
        if not differing:
            return True
        if not overwrite:
            changes = "; ".join(
                f"{name} was {_shown(found.get(name))} and is {_shown(settings.get(name))}" for name in differing
            )
            raise ValueError(
                f"{folder} holds an evaluation under other settings ({changes}): take them again to go on with it, "
                "another --output, or --overwrite"
            )
    folder.mkdir(parents=True, exist_ok=True)
    for name in made:
        (folder / name).unlink(missing_ok=True)
    write_json(path, settings)
    return False


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def write_json(path: Path, content: Any) -> None:
    """Writes a file as a whole."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
