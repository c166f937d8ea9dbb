"""A folder is written whole or not at all, and what is not the model's stays."""

from pathlib import Path

import pytest
from original_variants import contents
from vision_tester import WITH_IMAGE_TOKEN, VisionTester, processor_of, with_image_token

from encdec_slm.output_folder import output_folder


def write_model(folder, text="new"):
    (folder / "config.json").write_text(text)
    (folder / "model.safetensors").write_text(text)


def write_beside(folder, text):
    """What another process that writes to the same place does."""
    (folder.parent / "out").mkdir()
    write_model(folder.parent / "out", text)
    write_model(folder)


def write_and_fail(folder, error):
    write_model(folder)
    raise error


@pytest.fixture
def occupied(tmp_path):
    """An older, larger model with things of its owner beside it."""
    folder = tmp_path / "out"
    folder.mkdir()
    write_model(folder, "old")
    for name in (
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "README.md",
        "adapter_model.safetensors",
    ):
        (folder / name).write_text("old")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("old")
    return folder


@pytest.mark.parametrize("prepare", [lambda path: None, lambda path: path.mkdir(parents=True)])
def test_new_and_empty_folders_are_written(prepare, tmp_path):
    path = tmp_path / "a" / "b" / "out"
    prepare(path)
    with output_folder(path) as folder:
        write_model(folder)
        assert not path.exists() or not contents(path)
    assert {name: text.decode() for name, text in contents(path.parent).items()} == {
        (path / name).relative_to(path.parent): "new" for name in ("config.json", "model.safetensors")
    }


@pytest.mark.parametrize("error", [ValueError("disk full"), KeyboardInterrupt()])
def test_an_error_leaves_nothing(error, tmp_path):
    with pytest.raises(type(error)), output_folder(tmp_path / "a" / "out") as folder:
        write_and_fail(folder, error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError("disk full"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_folder(error, occupied):
    before = contents(occupied.parent)
    with pytest.raises(type(error)), output_folder(occupied, overwrite=True) as folder:
        write_and_fail(folder, error)
    assert contents(occupied.parent) == before


def test_occupied_folder_is_refused_before_the_work_starts(occupied):
    before = contents(occupied.parent)
    message = r"already holds something \(\.git, README\.md, adapter_model\.safetensors, .*\.\.\.\)"
    with pytest.raises(ValueError, match=message), output_folder(occupied):
        pytest.fail("the block must not run")
    assert contents(occupied.parent) == before


def test_what_appears_meanwhile_is_not_overwritten(tmp_path):
    with pytest.raises(ValueError, match="already holds something"), output_folder(tmp_path / "out") as folder:
        write_beside(folder, "other")
    assert contents(tmp_path).keys() == {Path("out/config.json"), Path("out/model.safetensors")}
    assert (tmp_path / "out" / "config.json").read_text() == "other"


def test_overwriting_replaces_the_model_and_keeps_the_rest(occupied):
    with output_folder(occupied, overwrite=True) as folder:
        write_model(folder)
    assert {str(name): text.decode() for name, text in contents(occupied.parent).items()} == {
        "out/config.json": "new",
        "out/model.safetensors": "new",
        "out/README.md": "old",
        "out/adapter_model.safetensors": "old",
        "out/.git/config": "old",
    }


def test_nothing_stays_of_a_model_that_sees(tiny_tokenizer, tmp_path):
    """All that a checkpoint holds counts as the model's, its code too."""
    tester, path = VisionTester(**WITH_IMAGE_TOKEN), tmp_path / "out"
    with output_folder(path) as folder:
        tester.model().save_pretrained(folder)
        processor_of(tester, with_image_token(tiny_tokenizer)).save_pretrained(folder)
    assert {"image_reading_encdec_slm.py", "processor_config.json"} <= {str(name) for name in contents(path)}
    with output_folder(path, overwrite=True) as folder:
        write_model(folder)
    assert {str(name) for name in contents(path)} == {"config.json", "model.safetensors"}


def test_a_new_file_wins_over_one_that_would_stay(occupied):
    with output_folder(occupied, overwrite=True) as folder:
        (folder / "README.md").write_text("new")
    assert (occupied / "README.md").read_text() == "new"


def test_what_was_replaced_is_told(occupied, warnings_of_the_library):
    with output_folder(occupied, overwrite=True) as folder:
        write_model(folder)
    message = " ".join(warnings_of_the_library())
    for name in ("config.json", "model-00001-of-00002.safetensors", "tokenizer.json"):
        assert name in message
    assert "README.md" not in message


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ValueError, match="is a file"), output_folder(tmp_path / "out", overwrite=True):
        pytest.fail("the block must not run")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("name", ["out", "out/model.safetensors", "link"])
def test_an_input_is_not_overwritten(name, occupied):
    (occupied.parent / "link").symlink_to(occupied / "model.safetensors")
    source = occupied.parent / name
    folder = output_folder(occupied, overwrite=True, inputs=[source])
    with pytest.raises(ValueError, match="lies in the output folder"), folder:
        pytest.fail("the block must not run")


def test_a_linked_folder_stays_a_link(occupied):
    link = occupied.parent / "link"
    link.symlink_to(occupied, target_is_directory=True)
    with output_folder(link, overwrite=True) as folder:
        write_model(folder)
    assert link.is_symlink()
    assert (occupied / "config.json").read_text() == "new"


def test_failing_to_move_brings_the_old_folder_back(occupied, monkeypatch):
    before = contents(occupied.parent)
    rename = type(occupied).rename

    def fail_for_the_new_one(path, target):
        if path.name.endswith(".partial"):
            raise OSError("no")
        return rename(path, target)

    monkeypatch.setattr(type(occupied), "rename", fail_for_the_new_one)
    with pytest.raises(OSError, match="no"), output_folder(occupied, overwrite=True) as folder:
        write_model(folder)
    assert contents(occupied.parent) == before
