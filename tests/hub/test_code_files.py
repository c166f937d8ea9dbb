"""The code that a checkpoint would run: found wherever it is named, and told from the installed code by its bytes."""

import hashlib
import json
from pathlib import Path

import pytest
from checkpoint_tester import edit_json, save_checkpoint

import encdec_slm
from encdec_slm.hub.code_files import (
    CodeFile,
    CodeReference,
    CodeStatus,
    code_files,
    code_references,
    code_table,
    refuse_unverified,
)
from encdec_slm.models.configuration_encdec_slm import REMOTE_CODE


PACKAGE = Path(encdec_slm.__file__).parent / "models"
# what a text model takes along
SHIPPED = {f"{module.split('.')[0]}.py" for module in REMOTE_CODE.values()} | {
    "modeling_encdec_slm_layers.py",
    "pipeline_encdec_slm.py",
}


def found(folder, **options):
    return code_files(code_references(folder), folder, **options)


def names(files):
    return {file.name for file in files}


def write(folder, config, **modules):
    """Writes a `config.json` and modules into a folder, and returns it."""
    (folder / "config.json").write_text(json.dumps(config))
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    return folder


@pytest.fixture
def saved(tmp_path):
    return save_checkpoint(tmp_path / "saved")


def test_code_of_a_saved_model_is_the_installed_code(saved):
    files = found(saved)
    assert names(files) == SHIPPED
    for file in files:
        assert file == CodeFile(
            file.name, hashlib.sha256((PACKAGE / file.name).read_bytes()).hexdigest(), CodeStatus.SAME
        )
    refuse_unverified("saved", files)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_one_other_byte_is_seen(saved, name):
    with (saved / name).open("a") as file:
        file.write(" ")
    files = found(saved)
    assert {file.name for file in files if file.status is not CodeStatus.SAME} == {name}
    with pytest.raises(ValueError, match=rf"saved .*{name} \(different\)"):
        refuse_unverified("saved", files)


def test_a_file_that_changes_after_it_was_read_is_read_again(tmp_path):
    folder = write(tmp_path, {"auto_map": {"AutoModel": "a.A"}}, a="", b="")
    assert names(found(folder)) == {"a.py"}
    (folder / "a.py").write_text("from .b import B")
    assert names(found(folder)) == {"a.py", "b.py"}


@pytest.mark.parametrize(
    ("file", "config"),
    [
        ("config.json", {"auto_map": {"AutoModel": "a.A"}}),
        ("config.json", {"custom_pipelines": {"task": {"impl": "a.A", "pt": ["AutoModel"]}}}),
        ("config.json", {"encoder": {"auto_map": {"AutoConfig": "a.A"}}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["a.A", None]}}),
        ("tokenizer_config.json", {"auto_map": [None, "a.A"]}),
        ("processor_config.json", {"image_processor": {"auto_map": {"AutoImageProcessor": "a.A"}}}),
        ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": {"pil": "a.A", "torchvision": "a.A"}}}),
    ],
)
def test_code_is_found_wherever_it_is_named(tmp_path, file, config):
    folder = write(tmp_path, {}, a="def later():\n    from .b import B\n", b="from .c import (\n    C,\n)", c="", d="")
    (folder / file).write_text(json.dumps(config))
    files = found(folder)
    assert names(files) == {"a.py", "b.py", "c.py"}
    assert {file.status for file in files} == {CodeStatus.UNKNOWN}
    with pytest.raises(ValueError, match=r"a\.py \(unknown\), b\.py \(unknown\), c\.py \(unknown\)"):
        refuse_unverified("it", files)


def test_a_generation_function_is_found_without_being_named(saved):
    (saved / "custom_generate").mkdir()
    (saved / "custom_generate/generate.py").write_text("from .search import run")
    (saved / "custom_generate/search.py").write_text("")
    added = names(found(saved)) - SHIPPED
    assert added == {"custom_generate/generate.py", "custom_generate/search.py"}


def test_imports_in_a_circle_end(tmp_path):
    folder = write(tmp_path, {"auto_map": {"AutoModel": "a.A"}}, a="from .b import B", b="from .a import A")
    assert names(found(folder)) == {"a.py", "b.py"}


def test_code_of_another_repository_is_told_by_its_name(saved):
    edit_json(saved / "config.json", **{"auto_map.AutoModel": "evil/code--modeling_encdec_slm.EncDecSLMModel"})
    foreign = [file for file in found(saved) if file.status is CodeStatus.FOREIGN]
    # it is not fetched to look at it
    assert foreign == [CodeFile("modeling_encdec_slm.py", None, CodeStatus.FOREIGN, "evil/code")]
    with pytest.raises(ValueError, match=r"evil/code/modeling_encdec_slm\.py \(foreign\)"):
        refuse_unverified("saved", found(saved))


def test_code_of_another_repository_is_foreign_though_its_bytes_are_ours(saved):
    edit_json(saved / "config.json", **{"auto_map.AutoModel": "other/code--modeling_encdec_slm.EncDecSLMModel"})
    foreign = [file for file in found(saved, code_folders={"other/code": PACKAGE}) if file.repository]
    assert names(foreign) == SHIPPED
    assert {file.status for file in foreign} == {CodeStatus.FOREIGN}
    assert all(file.sha256 for file in foreign)


def test_code_can_lie_in_another_folder_than_the_configuration(saved, tmp_path):
    elsewhere = write(tmp_path, {}, **{Path(name).stem: "" for name in SHIPPED})
    assert {file.status for file in found(saved, code_folders={None: elsewhere})} == {CodeStatus.DIFFERENT}


@pytest.mark.parametrize(
    "name",
    ["../../evil.Class", "/etc/evil.Class", "sub/evil.Class", "a.b.Class", "Class", "", "a--b--c.D", 5, "..--a.B.C"],
)
def test_what_is_no_class_of_a_flat_folder_is_refused_by_name(tmp_path, name):
    (tmp_path / "evil.py").write_text("")
    folder = tmp_path / "model"
    folder.mkdir()
    write(folder, {"auto_map": {"AutoModel": name}}, evil="", a="", b="")
    with pytest.raises(ValueError, match=r"names the class .* for AutoModel, which is not of the form module\.Class"):
        code_references(folder)


def test_an_import_by_a_path_is_refused(tmp_path):
    (tmp_path / "secret.py").write_text("")
    folder = tmp_path / "a/b"
    folder.mkdir(parents=True)
    # the library reads the text, not the syntax
    write(folder, {"auto_map": {"AutoModel": "a.A"}}, a='"""\nfrom ./../../secret import x\n"""')
    with pytest.raises(ValueError, match=r"imports '/\.\./\.\./secret' from its folder"):
        found(folder)


def test_missing_code_is_not_the_installed_code(saved):
    (saved / "modeling_encdec_slm_layers.py").unlink()
    (missing,) = [file for file in found(saved) if file.status is not CodeStatus.SAME]
    assert missing == CodeFile("modeling_encdec_slm_layers.py", None, CodeStatus.MISSING)
    with pytest.raises(ValueError, match=r"modeling_encdec_slm_layers\.py \(missing\)"):
        refuse_unverified("saved", found(saved))


@pytest.mark.parametrize("text", ["[]", '"auto_map"', "{", "[" * 100_000, "1" * 5000])
def test_a_configuration_that_is_no_json_object_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        code_references(tmp_path)


def test_table_shows_every_file_with_its_hash():
    files = [
        CodeFile("a.py", "0" * 64, CodeStatus.SAME),
        CodeFile("b.py", None, CodeStatus.FOREIGN, "owner/code"),
    ]
    heading, first, second = code_table(files).splitlines()
    assert heading.split() == ["code", "file", "sha256", "status"]
    assert first.split() == ["a.py", "0" * 64, "same"]
    assert second.split() == ["owner/code/b.py", "-", "foreign"]
    assert len({len(heading), len(first), len(second)}) == 1


def test_references_say_where_they_stand(tmp_path):
    folder = write(tmp_path, {"auto_map": {"AutoConfig": "a.A", "AutoModel": "b/c--d.D"}})
    assert set(code_references(folder)) == {
        CodeReference("config.json", "AutoConfig", "a", "A"),
        CodeReference("config.json", "AutoModel", "d", "D", "b/c"),
    }
