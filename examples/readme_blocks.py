"""Parts of the README that commands write: what stands between two markers is replaced, and nothing else.

<!-- efficiency: begin -->
<!-- efficiency: end -->
"""

from collections.abc import Callable
from pathlib import Path


README = Path(__file__).parents[1] / "README.md"
RESULTS = Path(__file__).parent / "results"


def markers(name: str) -> tuple[str, str]:
    """The lines around a part."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def replaced(text: str, name: str, content: str) -> str:
    r"""The text with another part.

    Args:
        text: Has each of the two markers once, on a line of its own.
        name: Of the part.
        content: Markdown.

    Raises:
        ValueError: If a marker is missing, there twice, or the end comes first.

    Example:
        >>> print(replaced("a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb", "x", "new"))
        a
        <!-- x: begin -->
        <BLANKLINE>
        new
        <BLANKLINE>
        <!-- x: end -->
        b
    """
    begin, end = markers(name)
    lines = text.split("\n")
    for marker in (begin, end):
        if lines.count(marker) != 1:
            raise ValueError(
                f"there is {lines.count(marker) or 'no'} line {marker} where one is needed: put {begin} and {end} on "
                "lines of their own where the part is to stand"
            )
    first, last = lines.index(begin), lines.index(end)
    if last < first:
        raise ValueError(f"{end} comes before {begin}: exchange them")
    return "\n".join([*lines[: first + 1], "", content.strip("\n"), "", *lines[last:]])


def write(name: str, content: str, path: Path = README) -> None:
    """Replaces a part of a file, by default of the README."""
    text = path.read_text(encoding="utf-8")
    try:
        text = replaced(text, name, content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    path.write_text(text, encoding="utf-8")


def write_report(name: str, report: Callable[[Path], str], results: Path = RESULTS, readme: Path = README) -> None:
    """Writes a part that is made of records, and says so.

    Args:
        name: Of the part.
        report: Returns the part, from the folder of the records.
        results: That folder.
        readme: File with the markers.
    """
    write(name, report(results), readme)
    print(f"wrote the part `{name}` of {readme}")
