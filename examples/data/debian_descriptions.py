"""Long description to one-line summary: the packages of Debian or Ubuntu, extreme summarisation in the manner of XSum.

One row: `{"source": "The GNU hello program produces a familiar, friendly greeting. ...",
"target": "example package based on GNU hello", "package": "hello"}`

    python examples/data/debian_descriptions.py FOLDER --fetch

The descriptions come from apt's `Translation-en` lists. `--fetch` gets them into FOLDER with `apt-get update`, as any
user; the system's own lists stay as they are. Without it FOLDER must hold such lists, for instance a copy of them.
"""

import argparse
import glob
import gzip
import hashlib
import lzma
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import datasets


LIST_PATTERN = "*Translation-en*"
SHORTEST_DESCRIPTION = 80
HELD_OUT_PART = 30

_APT_HELPER = Path("/usr/lib/apt/apt-helper")
# hooks of the system would touch its caches; `#clear` is a directive of apt, not a comment
_APT_CONFIGURATION = """
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear Acquire::Languages;
Acquire::Languages "en";
Acquire::GzipIndexes "false";
APT::Update::Error-Mode "any";
Acquire::IndexTargets::deb::Packages::DefaultEnabled "false";
Acquire::IndexTargets::deb-src::Sources::DefaultEnabled "false";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::State::lists "{folder}";
"""


class DebianDescriptions(datasets.GeneratorBasedBuilder):
    """Long description (`source`) to one-line summary (`target`) of a `package`.

    A paragraph or list item of the long description is a line of `source`. Descriptions of fewer than
    `SHORTEST_DESCRIPTION` characters are left out, and of equal ones all but the first. Packages built from one source
    often begin with the same paragraph, so the digest of that paragraph decides: one part in `HELD_OUT_PART` is
    `validation`, another one is `test`, and a first paragraph is in one split only.

    Args:
        data_dir: Folder with apt's lists, plain or ending in .gz, .xz, .lz4 or .zst; see `fetch`.

    Raises:
        FileNotFoundError: The folder holds no such list.
        ValueError: The lists hold no description.
    """

    VERSION = datasets.Version("1.0.0")

    def __init__(self, data_dir: str | Path, **kwargs: Any) -> None:
        folder = Path(data_dir).expanduser().resolve()
        if not any(folder.glob(LIST_PATTERN)):
            raise FileNotFoundError(
                f"{folder} holds no file {LIST_PATTERN}; to get the lists: "
                f"python examples/data/debian_descriptions.py {folder} --fetch"
            )
        # the files are part of the name of the cache, with their times of change
        super().__init__(
            dataset_name="debian_descriptions",
            base_path=glob.escape(str(folder)),
            data_files={"train": LIST_PATTERN},
            **kwargs,
        )

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Descriptions of Debian packages: the long description and its one-line summary, in English.",
            homepage="https://www.debian.org/doc/debian-policy/ch-binary.html#the-description-of-a-package",
            license="each description is under the licence of its package: build it, do not redistribute it",
            features=datasets.Features({name: datasets.Value("string") for name in ("source", "target", "package")}),
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        files = sorted(Path(path) for path in self.config.data_files["train"])
        splits: dict[str, list[dict[str, str]]] = {"train": [], "validation": [], "test": []}
        for row in unique(row for path in files for row in parse(read_list(path))):
            splits[split_of(row["source"])].append(row)
        if not splits["train"]:
            raise ValueError(
                f"{', '.join(path.name for path in files)}: no descriptions in there; fetch the lists anew"
            )
        # a list would be taken for shards of the data
        return [datasets.SplitGenerator(name=name, gen_kwargs={"rows": tuple(rows)}) for name, rows in splits.items()]

    def _generate_examples(self, rows: tuple[dict[str, str], ...]) -> Iterator[tuple[int, dict[str, str]]]:
        yield from enumerate(rows)


def fetch(folder: str | Path) -> None:
    """Get the lists of the distribution that this computer runs into a folder, about 7 MB to transfer for Debian 12.

    Raises:
        OSError: There is no `apt-get` here.
        subprocess.CalledProcessError: `apt-get update` failed; it has said why on standard error.
    """
    if shutil.which("apt-get") is None:
        raise OSError("there is no apt-get here: fetch the lists on Debian or Ubuntu and copy them")
    lists = Path(folder).expanduser().resolve()
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as configuration:
        configuration.write(_APT_CONFIGURATION.format(folder=lists))
        configuration.flush()
        subprocess.run(["apt-get", "update", "--config-file", configuration.name], check=True)


def read_list(path: Path) -> str:
    """The text of one of apt's lists, uncompressed according to the ending of its name.

    Raises:
        OSError: Only apt can uncompress the list, and apt is not installed.
    """
    if path.suffix in {".lz4", ".zst"}:
        if not _APT_HELPER.exists():
            raise OSError(f"{path.name} needs apt to be read: uncompress it, or fetch the lists on Debian or Ubuntu")
        return subprocess.run([_APT_HELPER, "cat-file", path], check=True, capture_output=True).stdout.decode()
    openers: dict[str, Callable[..., IO[str]]] = {".gz": gzip.open, ".xz": lzma.open}
    with openers.get(path.suffix, open)(path, "rt", encoding="utf-8") as text:
        return text.read()


def parse(text: str) -> Iterator[dict[str, str]]:
    """Rows in the order of the list, whose stanzas of `Field: value` are separated by empty lines."""
    for stanza in text.split("\n\n"):
        fields: dict[str, list[str]] = {}
        name = ""
        for line in stanza.split("\n"):
            if line.startswith(" "):
                fields[name].append(line[1:])
            else:
                name, _, value = line.partition(": ")
                fields[name] = [value]
        if "Description-en" in fields:
            summary, *description = fields["Description-en"]
            yield {"source": join_lines(description), "target": summary.strip(), "package": fields["Package"][0]}


def join_lines(lines: Iterable[str]) -> str:
    """Undo the wrapping of a description: each paragraph becomes one line, each preformatted line stays one.

    Args:
        lines: Lines without the first of their leading blanks; `.` stands for an empty one, and one that still begins
            with a blank is preformatted.
    """
    paragraphs: list[str] = []
    wrapped: list[str] = []
    for line in [*lines, "."]:
        if line.strip() == "." or line.startswith((" ", "\t")):
            paragraphs += [" ".join(wrapped), line.strip().removeprefix(".")]
            wrapped = []
        else:
            wrapped.append(line.strip())
    return "\n".join(paragraph for paragraph in paragraphs if paragraph)


def unique(rows: Iterable[dict[str, str]]) -> Iterator[dict[str, str]]:
    """Rows with a summary and a long enough description, the first of each description."""
    seen = set()
    for row in rows:
        if row["target"] and len(row["source"]) >= SHORTEST_DESCRIPTION and row["source"] not in seen:
            seen.add(row["source"])
            yield row


def split_of(source: str) -> str:
    """The split that the first paragraph of a description belongs to."""
    first_paragraph = source.partition("\n")[0]
    digest = hashlib.sha256(first_paragraph.encode()).digest()
    return {0: "validation", 1: "test"}.get(int.from_bytes(digest) % HELD_OUT_PART, "train")


if __name__ == "__main__":
    from preview import preview

    parser = argparse.ArgumentParser(description="Look at the package descriptions of Debian or Ubuntu.")
    parser.add_argument("data_dir", help="folder with apt's Translation-en lists")
    parser.add_argument("--fetch", action="store_true", help="get the lists into the folder with apt-get update")
    arguments = parser.parse_args()
    if arguments.fetch:
        fetch(arguments.data_dir)
    preview(DebianDescriptions(arguments.data_dir))
