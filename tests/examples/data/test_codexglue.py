"""Line-aligned files: line n of the one with line n of the other, or an error."""

import pytest
from data.codexglue import CodeXGLUE


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "java [to] cs"
    folder.mkdir()
    for stem, size in (("train", 7), ("valid", 3)):
        (folder / f"{stem}.java").write_text("".join(f"int f() {{return {n};}}\n" for n in range(size)))
        (folder / f"{stem}.cs").write_text("".join(f"int F() {{return {n};}}\n" for n in range(size)))
    return folder


def build(folder):
    builder = CodeXGLUE(folder, cache_dir=folder.parent / "cache")
    builder.download_and_prepare()
    return builder.as_dataset()


def test_rows_are_the_aligned_lines_in_the_order_of_the_files(folder):
    dataset = build(folder)
    assert {name: len(rows) for name, rows in dataset.items()} == {"train": 7, "validation": 3}
    for number, row in enumerate(dataset["train"], start=1):
        assert row["line"] == number
        assert row["target"] == row["source"].replace("f()", "F()")


@pytest.mark.parametrize("separator", ["\u2028", "\x0c", "\x85", "\r"])
def test_only_a_newline_ends_a_line(folder, separator):
    (folder / "valid.java").write_text(f'String f() {{return "a{separator}b";}}\nx\n', encoding="utf-8", newline="\n")
    (folder / "valid.cs").write_text("y\nz\n")
    rows = build(folder)["validation"]
    assert len(rows) == 2
    assert separator in rows[0]["source"]


def test_unequal_files_are_refused_with_both_counts(folder):
    with (folder / "valid.cs").open("a") as file:
        file.write("int G() {return 0;}\n")
    with pytest.raises(ValueError, match=r"valid\.java has 3 lines and valid\.cs has 4"):
        build(folder)


@pytest.mark.parametrize("missing", ["train.java", "train.cs", "valid.java", "valid.cs"])
def test_a_missing_file_is_named(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        build(folder)


def test_test_files_make_a_test_split_but_only_both(folder):
    (folder / "test.java").write_text("int f() {return 9;}\n")
    with pytest.raises(FileNotFoundError, match=r"test\.cs"):
        build(folder)
    (folder / "test.cs").write_text("int F() {return 9;}\n")
    assert build(folder)["test"]["target"] == ["int F() {return 9;}"]


def test_changed_files_are_read_again(folder):
    assert len(build(folder)["validation"]) == 3
    for name in ("valid.java", "valid.cs"):
        with (folder / name).open("a") as file:
            file.write("more\n")
    assert len(build(folder)["validation"]) == 4
