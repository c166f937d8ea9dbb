"""Fetches the common tests of the installed Transformers, which are in its source distribution and not in its wheel.

Writes `.cache/peer/<version>/transformers_tests/`; nothing of it is committed. Does nothing if the folder is there.
"""

import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import transformers


CACHE = Path(__file__).parents[2] / ".cache" / "peer" / transformers.__version__
PACKAGE = CACHE / "transformers_tests"


def download_source(folder: Path) -> Path:
    """Returns the archive of the source of the installed version, downloaded into `folder`. Nothing is built."""
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"),
            *("--no-binary", "transformers", "--dest", str(folder), f"transformers=={transformers.__version__}"),
        ],
        check=True,
    )
    (archive,) = folder.glob("transformers-*.tar.gz")
    return archive


def unpack_tests(archive: Path, folder: Path) -> None:
    """Writes the top level of the archive's `tests` to `folder`, as a package."""
    folder.mkdir(parents=True)
    # they import one another by relative name: the package may have any
    (folder / "__init__.py").touch()
    with tarfile.open(archive) as source:
        for member in source:
            path = Path(member.name)
            if path.match("transformers-*/tests/test_*.py") and member.isfile():
                (folder / path.name).write_bytes(source.extractfile(member).read())


def main() -> None:
    """Downloads and unpacks into a temporary folder, which takes its place in one step."""
    if PACKAGE.is_dir():
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=CACHE) as temporary:
        unpacked = Path(temporary) / PACKAGE.name
        unpack_tests(download_source(Path(temporary)), unpacked)
        unpacked.rename(PACKAGE)


if __name__ == "__main__":
    main()
