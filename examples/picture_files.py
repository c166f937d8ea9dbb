"""The questions of the vision demo as files: rows with paths of their pictures, as `encdec-slm distill` reads them.

    python examples/picture_files.py outputs/picture_files

One row: `{"images": ["pictures/0f8c21d6a4b37e95.png"], "source": "Which group does it belong to?", "target": "food"}`
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vision_rows import Splits, load_splits


def write_files(splits: Splits, folder: Path) -> dict[str, Path]:
    """Writes `train.jsonl` and `validation.jsonl`, and what they show to `pictures`; their names.

    A picture that is asked about several times is written once.

    Args:
        splits: The rows to learn become `train`, those of the test `validation`.
        folder: What is there already is replaced.
    """
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    files = {"train": folder / "train.jsonl", "validation": folder / "validation.jsonl"}
    for file, rows in zip(files.values(), (splits.train, splits.test), strict=True):
        file.write_text("".join(_line(row, pictures) for row in rows), encoding="utf-8")
    return files


def _line(row: dict[str, Any], pictures: Path) -> str:
    image = row["image"]
    path = pictures / f"{hashlib.sha256(image.tobytes()).hexdigest()[:16]}.png"
    if not path.exists():
        image.save(path)
    kept = {"images": [f"{pictures.name}/{path.name}"], "source": row["source"], "target": row["target"]}
    return json.dumps(kept, ensure_ascii=False) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the files.

    Args:
        argv: Command line arguments; those of the process by default.
    """
    parser = argparse.ArgumentParser(description="Write the questions of the vision demo, and their pictures.")
    parser.add_argument("folder", type=Path, help="the folder to write")
    parser.add_argument("--charts", type=int, default=1_000, help="number of charts to learn")
    parser.add_argument("--test_charts", type=int, default=100, help="number of charts to be examined on")
    arguments = parser.parse_args(argv)
    for file in write_files(load_splits(arguments.charts, arguments.test_charts), arguments.folder).values():
        print(file)


if __name__ == "__main__":
    main()
