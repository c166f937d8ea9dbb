"""Java to C#: the code translation task of CodeXGLUE, from line-aligned files.

One row: `{"source": "public int size() {...}", "target": "public virtual int size() {...}", "line": 1}`

    python examples/data/codexglue.py FOLDER

FOLDER holds `train.java`, `train.cs`, `valid.java` and `valid.cs`, and `test.java` and `test.cs` if you have them;
line n of the one file translates line n of the other. They are the files of `Code-Code/code-to-code-trans/data` in the
repository microsoft/CodeXGLUE (there named `train.java-cs.txt.java` and so on). Their licence is the Computational Use
of Data Agreement 1.0; this project does not pass them on.
"""

import argparse
import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets


SPLITS = {"train": "train", "validation": "valid", "test": "test"}


class CodeXGLUE(datasets.GeneratorBasedBuilder):
    """Java (`source`) to C# (`target`), in the splits and the order of the files; `line` counts from 1.

    Args:
        data_dir: The folder with the files. The test files may both be missing, the others may not.

    Raises:
        FileNotFoundError: The folder lacks a file.
        ValueError: Two files that belong together have different numbers of lines.
    """

    VERSION = datasets.Version("1.0.0")

    def __init__(self, data_dir: str | Path, **kwargs: Any) -> None:
        folder = Path(data_dir).expanduser().resolve()
        # the files are part of the name of the cache, with their times of change
        super().__init__(
            dataset_name="codexglue", base_path=glob.escape(str(folder)), data_files=aligned_files(folder), **kwargs
        )

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="CodeXGLUE code-to-code translation: methods of four projects in Java and in C#.",
            homepage="https://github.com/microsoft/CodeXGLUE",
            license="Computational Use of Data Agreement 1.0 (C-UDA-1.0): use it, do not redistribute it",
            features=datasets.Features(
                {
                    "source": datasets.Value("string"),
                    "target": datasets.Value("string"),
                    "line": datasets.Value("int32"),
                }
            ),
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        return [
            datasets.SplitGenerator(name=name, gen_kwargs={"pairs": read_pairs(Path(java), Path(csharp))})
            for name, (java, csharp) in self.config.data_files.items()
        ]

    def _generate_examples(self, pairs: tuple[tuple[str, str], ...]) -> Iterator[tuple[int, dict[str, Any]]]:
        for line, (source, target) in enumerate(pairs, start=1):
            yield line, {"source": source, "target": target, "line": line}


def aligned_files(folder: Path) -> dict[str, list[str]]:
    """File names of each split, Java first.

    Raises:
        FileNotFoundError: The folder lacks a file.
    """
    files = {name: [f"{stem}.java", f"{stem}.cs"] for name, stem in SPLITS.items()}
    if not any((folder / name).exists() for name in files["test"]):
        del files["test"]
    missing = [name for names in files.values() for name in names if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}; `{Path(__file__).name}` says where to get them")
    return files


def read_pairs(java: Path, csharp: Path) -> tuple[tuple[str, str], ...]:
    """Corresponding lines of two files, without surrounding blanks.

    Raises:
        ValueError: The files have different numbers of lines.
    """
    sources, targets = read_lines(java), read_lines(csharp)
    if len(sources) != len(targets):
        raise ValueError(
            f"{java.name} has {len(sources)} lines and {csharp.name} has {len(targets)}, but line n of the one must "
            "translate line n of the other; get both files anew"
        )
    return tuple(zip(sources, targets, strict=True))


def read_lines(path: Path) -> list[str]:
    """Lines of a file without surrounding blanks; only a newline ends a line."""
    with path.open(encoding="utf-8", newline="\n") as lines:
        return [line.strip() for line in lines]


if __name__ == "__main__":
    from preview import preview

    parser = argparse.ArgumentParser(description="Look at the Java and C# of CodeXGLUE.")
    parser.add_argument("data_dir", help="the folder with train.java, train.cs, valid.java and valid.cs")
    preview(CodeXGLUE(parser.parse_args().data_dir))
