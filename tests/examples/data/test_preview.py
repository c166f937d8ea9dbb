"""The look at a data set that every loader gives when it is run."""

import os
import subprocess
import sys
from pathlib import Path

from data.codexglue import CodeXGLUE
from data.preview import preview


FOLDER = Path(__file__).parents[3] / "examples" / "data"


def write_files(folder, rows):
    for stem in ("train", "valid"):
        (folder / f"{stem}.java").write_text("".join(f"java {stem} {n}\n" for n in range(rows)))
        (folder / f"{stem}.cs").write_text("".join(f"csharp {stem} {n}\n" for n in range(rows)))


def test_licence_sizes_and_five_rows_are_printed(tmp_path, capsys):
    write_files(tmp_path, rows=1_234)
    builder = CodeXGLUE(tmp_path, cache_dir=tmp_path / "cache")
    preview(builder)
    printed = capsys.readouterr().out
    assert f"licence: {builder.info.license}" in printed
    assert printed.count("1,234 rows") == 2
    assert printed.count("source:") == printed.count("target:") == 5


def test_a_small_split_is_printed_whole(tmp_path, capsys):
    write_files(tmp_path, rows=2)
    preview(CodeXGLUE(tmp_path, cache_dir=tmp_path / "cache"))
    assert capsys.readouterr().out.count("source:") == 2


def test_the_loaders_run_as_scripts(tmp_path):
    write_files(tmp_path, rows=7)
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "Translation-en").write_text(
        "\n\n".join(f"Package: p{n}\nDescription-en: summary {n}\n {'words ' * 20}{n}" for n in range(300))
    )
    environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache")}
    for script, arguments in (("cmudict", []), ("codexglue", [tmp_path]), ("debian_descriptions", [lists])):
        command = [sys.executable, FOLDER / f"{script}.py", *arguments]
        run = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        assert run.stdout.count("source:") == 5
