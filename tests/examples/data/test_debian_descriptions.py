"""Package descriptions: parsing, splits by first paragraph, and a fetch that leaves the system's lists alone."""

import gzip
import lzma
import shutil
import subprocess

import pytest
from data import debian_descriptions
from data.debian_descriptions import DebianDescriptions, fetch, join_lines, parse, read_list


LIST_NAME = "mirror_dists_stable_main_i18n_Translation-en"


def stanza(package, first_paragraph, rest=()):
    lines = [f" {line}" for line in (first_paragraph, *rest)]
    return "\n".join([f"Package: {package}", "Description-md5: 0", f"Description-en: summary of {package}", *lines])


def long_text(number):
    return f"Paragraph number {number} is about a program that does something useful, {number} times in a row."


@pytest.fixture
def text():
    """Families of two packages from one source, which have their first paragraph in common."""
    stanzas = []
    for number in range(200):
        stanzas.append(stanza(f"lib{number}", long_text(number)))
        stanzas.append(stanza(f"lib{number}-dev", long_text(number), [".", "These are the development files."]))
    return "\n\n".join(stanzas) + "\n"


def build(folder):
    builder = DebianDescriptions(folder, cache_dir=folder.parent / "cache")
    builder.download_and_prepare()
    return builder.as_dataset()


def test_a_first_paragraph_is_in_one_split_and_every_package_in_some(tmp_path, text):
    (tmp_path / LIST_NAME).write_text(text)
    dataset = build(tmp_path)
    families = {name: {row["package"].removesuffix("-dev") for row in rows} for name, rows in dataset.items()}
    assert sum(len(rows) for rows in dataset.values()) == 400
    assert all(families.values())
    assert sum(map(len, families.values())) == len(set.union(*families.values()))


def test_rows_hold_the_summary_and_the_unwrapped_description(tmp_path, text):
    (tmp_path / LIST_NAME).write_text(text)
    rows = {row["package"]: row for rows in build(tmp_path).values() for row in rows}
    assert rows["lib3-dev"]["target"] == "summary of lib3-dev"
    assert rows["lib3-dev"]["source"] == f"{long_text(3)}\nThese are the development files."


def test_wrapped_lines_are_joined_and_preformatted_ones_are_not():
    lines = ["One", "paragraph.", ".", "A list:", "  * first", "  * second", "and the end."]
    assert join_lines(lines) == "One paragraph.\nA list:\n* first\n* second\nand the end."


def test_equal_descriptions_are_one_row_and_short_ones_none(tmp_path, text):
    repeated = stanza("copy", long_text(0))
    short = stanza("short", "Too short to be summarised.")
    (tmp_path / LIST_NAME).write_text(f"{text}\n{repeated}\n\n{short}\n")
    packages = {row["package"] for rows in build(tmp_path).values() for row in rows}
    assert len(packages) == 400
    assert packages.isdisjoint({"copy", "short"})


def test_stanzas_without_an_english_description_are_left_out():
    assert list(parse("Package: a\nDescription-de: kurz\n lang\n\nOrigin: Debian\n")) == []


def test_compressed_lists_read_as_plain_ones(tmp_path, text):
    for suffix, opener in (("", open), (".gz", gzip.open), (".xz", lzma.open)):
        with opener(tmp_path / f"{LIST_NAME}{suffix}", "wt", encoding="utf-8") as file:
            file.write(text)
        assert read_list(tmp_path / f"{LIST_NAME}{suffix}") == text


def test_lz4_lists_are_read_by_apt(tmp_path, monkeypatch, text):
    helper = tmp_path / "apt-helper"
    helper.write_text('#!/bin/sh\n[ "$1" = cat-file ] && exec gzip -dc < "$2"\n')
    helper.chmod(0o755)
    monkeypatch.setattr(debian_descriptions, "_APT_HELPER", helper)
    path = tmp_path / f"{LIST_NAME}.lz4"
    path.write_bytes(gzip.compress(text.encode()))
    assert read_list(path) == text


def test_lz4_lists_without_apt_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(debian_descriptions, "_APT_HELPER", tmp_path / "none")
    with pytest.raises(OSError, match="needs apt to be read"):
        read_list(tmp_path / f"{LIST_NAME}.lz4")


def test_a_folder_without_lists_is_refused_with_the_way_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="--fetch"):
        DebianDescriptions(tmp_path, cache_dir=tmp_path / "cache")


def test_lists_without_descriptions_are_refused(tmp_path):
    (tmp_path / LIST_NAME).write_text("<html>404</html>\n")
    with pytest.raises(ValueError, match=LIST_NAME):
        build(tmp_path)


def test_fetch_runs_apt_get_update_on_the_folder_alone(tmp_path, monkeypatch):
    apt_get = tmp_path / "bin" / "apt-get"
    apt_get.parent.mkdir()
    apt_get.write_text(f'#!/bin/sh\necho "$1 $2" > {tmp_path}/command\ncp "$3" {tmp_path}/configuration\n')
    apt_get.chmod(0o755)
    monkeypatch.setenv("PATH", str(apt_get.parent), prepend=":")
    fetch(tmp_path / "lists")
    assert (tmp_path / "command").read_text() == "update --config-file\n"
    assert f'Dir::State::lists "{tmp_path}/lists";' in (tmp_path / "configuration").read_text()


@pytest.mark.skipif(shutil.which("apt-config") is None, reason="needs apt")
def test_apt_understands_the_configuration(tmp_path):
    path = tmp_path / "apt.conf"
    path.write_text(debian_descriptions._APT_CONFIGURATION.format(folder=tmp_path))
    command = ["apt-config", "--config-file", path, "dump", "--no-empty", "--format", "%F=%v%n"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    languages = {line.rpartition("=")[2] for line in lines if line.startswith("Acquire::Languages")}
    # apt adds the second one by itself, for descriptions that are not translated
    assert languages - {"none"} == {"en"}
    assert f"Dir::State::lists={tmp_path}" in lines
    assert not [line for line in lines if line.startswith("APT::Update::P")]


def test_fetch_without_apt_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match="no apt-get here"):
        fetch(tmp_path / "lists")
