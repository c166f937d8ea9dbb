"""Only tensors are read, and a file that cannot be read is named."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from encdec_slm.conversion.checkpoint_file import read_checkpoint_file


class Payload:
    """Writes a file as soon as it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_code_in_a_pickle_does_not_run(save, refused, tmp_path):
    save({"model_state_dict": {"transformer.wte.weight": Payload(tmp_path / "harm")}}, tmp_path / "model.pt")
    message = refused(tmp_path / "model.pt")
    assert "open" in message
    assert "not opened" in message
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "value",
    [
        [1, 2],
        {"model_state_dict": [torch.ones(1)]},
        {"model_state_dict": {"transformer.wte.weight": 3}},
        {"model_state_dict": {7: torch.ones(1)}},
        {"state_dict": {"transformer.wte.weight": torch.ones(1)}},
        {"model_state_dict": {"transformer.wte.weight": torch.ones(1)}, "model_config": [1]},
        {},
    ],
    ids=str,
)
def test_plain_values_that_are_no_state_dict_are_refused(value, refused, tmp_path):
    torch.save(value, tmp_path / "model.pt")
    assert "checkpoint" in refused(tmp_path / "model.pt")


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: b"text"])
def test_damaged_files_are_refused(name, damage, variant, refused, tmp_path):
    if name == "model.pt":
        variant.save(tmp_path / name)
    else:
        save_file(variant.tensors, tmp_path / name)
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    assert name in refused(tmp_path / name)


def test_git_lfs_pointer_is_told_apart(refused, tmp_path):
    (tmp_path / "model.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 664270379\n")
    assert "git lfs pull" in refused(tmp_path / "model.pt")


def test_folder_is_no_checkpoint(refused, tmp_path):
    (tmp_path / "model.pt").mkdir()
    assert "folder" in refused(tmp_path / "model.pt")


def test_checkpoint_must_exist(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_checkpoint_file(tmp_path / "model.pt")
