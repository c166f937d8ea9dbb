"""Files with bad intentions are refused by their names, sizes and headers, before anything is loaded."""

import json

import pytest
import torch
from checkpoint_tester import edit_json, save_checkpoint, write_safetensors
from safetensors.torch import save_file

from encdec_slm.hub.checkpoint import fetch_checkpoint
from encdec_slm.hub.checkpoint_files import (
    MAX_FILE_BYTES,
    check_files,
    check_folder,
    check_name,
    file_sizes,
    first_weight_file,
    read_json_object,
    tensor_shapes,
    weight_files,
)


def tensor(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of a whole checkpoint, to be spoilt."""
    copy = tmp_path / "model"
    copy.mkdir()
    for path in saved.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def test_a_saved_folder_passes(folder):
    checkpoint = fetch_checkpoint(folder)
    assert checkpoint.shapes
    assert set(file_sizes(folder)) == {path.name for path in folder.iterdir()}


LIES = {
    "a shape of terabytes": ({"a": tensor([2, 10**12], 0, 8)}, 8),
    "a shape that overflows": ({"a": tensor([2**40, 2**40], 0, 8)}, 8),
    "a negative shape": ({"a": tensor([-2], 0, 8)}, 8),
    "a shape smaller than its bytes": ({"a": tensor([1], 0, 8)}, 8),
    "an unknown type": ({"a": tensor([2], 0, 8, "PICKLE")}, 8),
    "tensors that overlap": ({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, 12),
    "two tensors in one place": ({"a": tensor([2], 0, 8), "b": tensor([2], 0, 8)}, 8),
    "a gap, in which something can hide": ({"a": tensor([2], 0, 8), "b": tensor([2], 12, 20)}, 20),
    "bytes behind the last tensor": ({"a": tensor([2], 0, 8)}, 80),
    "a tensor beyond the end of the file": ({"a": tensor([200], 0, 800)}, 8),
    "one name twice": (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}',
        12,
    ),
    "a header that is no JSON": (b"{{{{", 0),
    "a header that is a list": (b"[]", 0),
    "brackets without end": (b'{"a":' + b"[" * 100_000, 0),
}


@pytest.mark.parametrize(("header", "data"), LIES.values(), ids=LIES.keys())
def test_weights_whose_header_lies_are_refused_by_name(tmp_path, header, data):
    path = write_safetensors(tmp_path / "model.safetensors", header, bytes(data))
    with pytest.raises(ValueError, match=r"model\.safetensors is no safetensors file, or a damaged one"):
        tensor_shapes([path])


@pytest.mark.parametrize("header_bytes", [10**12, 2**63, 101 * 10**6, 0])
def test_weights_with_a_header_of_another_length_are_refused(tmp_path, header_bytes):
    path = write_safetensors(
        tmp_path / "model.safetensors", {"a": tensor([2], 0, 8)}, bytes(8), header_bytes=header_bytes
    )
    with pytest.raises(ValueError, match="damaged"):
        tensor_shapes([path])


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"version https://git-lfs.github.com/spec/v1\n"])
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="no safetensors file"):
        tensor_shapes([path])


def test_honest_weights_pass_with_their_shapes(tmp_path):
    save_file({"a": torch.zeros(3, 0), "b": torch.zeros(()), "c": torch.zeros(2, 5).bfloat16()}, tmp_path / "x")
    assert tensor_shapes([tmp_path / "x"]) == {"a": (3, 0), "b": (), "c": (2, 5)}


def test_a_tensor_in_two_files_is_refused(tmp_path):
    paths = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    for path in paths:
        save_file({"twice": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"2\.safetensors holds twice, and so does another"):
        tensor_shapes(paths)


OUTSIDE = ["../x.safetensors", "/x.safetensors", "a/../../x.safetensors", "C:\\x.safetensors", "..\\x.safetensors", ""]


@pytest.mark.parametrize("name", [*OUTSIDE, "\\\\server\\x.safetensors", "c:x.safetensors", 7, None, ["x"]])
def test_a_name_that_leaves_the_folder_is_refused(name):
    with pytest.raises(ValueError, match="not in its folder"):
        check_name(name, "somebody")


@pytest.mark.parametrize("name", ["x.json", "a/b.json", "..x.json", "a..b/x"])
def test_a_name_in_the_folder_passes(name):
    assert check_name(name, "somebody") == name


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_index_that_names_a_file_outside_is_refused(folder, tmp_path, name):
    (folder / "model.safetensors").rename(tmp_path / "x.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"model.encoder.norm.weight": name}}))
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json names the file"):
        fetch_checkpoint(folder)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_configuration_that_names_weights_outside_is_refused(folder, tmp_path, name):
    (folder / "model.safetensors").rename(tmp_path / "x.safetensors")
    edit_json(folder / "config.json", transformers_weights=name)
    with pytest.raises(ValueError, match=r"config\.json names the file"):
        fetch_checkpoint(folder)


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": ["model.safetensors"]}])
def test_an_index_without_a_map_is_refused(folder, index):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="no weight_map"):
        fetch_checkpoint(folder)


def test_a_missing_shard_is_named(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "b.safetensors"}}))
    with pytest.raises(ValueError, match=r"there is no b\.safetensors"):
        fetch_checkpoint(folder)


def test_shards_are_one_checkpoint(saved, tmp_path, tiny_model):
    sharded = save_checkpoint(tmp_path / "sharded", model=tiny_model, max_shard_size="20KB")
    assert len(weight_files(sharded, first_weight_file(sharded, {}), [])) > 2
    assert fetch_checkpoint(sharded).shapes == fetch_checkpoint(saved).shapes


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt", "model.pkl", "x.pth", "x.pickle"])
def test_a_checkpoint_of_pickles_is_refused_by_name(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"\x80\x04")
    with pytest.raises(ValueError, match=rf"no model\.safetensors, but {name}.*save_pretrained"):
        fetch_checkpoint(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin"])
def test_a_pickle_as_the_named_weights_is_refused(folder, name):
    (folder / name).write_bytes(b"\x80\x04")
    edit_json(folder / "config.json", transformers_weights=name)
    with pytest.raises(ValueError, match=name):
        fetch_checkpoint(folder)


def test_a_pickle_beside_safetensors_is_of_no_interest(folder):
    (folder / "training_args.bin").write_bytes(b"\x80\x04")
    fetch_checkpoint(folder)
    assert "training_args.bin" not in file_sizes(folder)


def test_files_that_the_library_would_read_instead_are_refused(folder):
    (folder / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="distributed checkpoint"):
        fetch_checkpoint(folder)


def test_a_tokenizer_of_100_mb_is_refused_before_it_is_read(folder):
    with (folder / "tokenizer.json").open("wb") as file:
        file.truncate(100 * 2**20)
    with pytest.raises(ValueError, match=r"tokenizer\.json has 104,857,600 bytes.*max_file_bytes"):
        fetch_checkpoint(folder)
    assert fetch_checkpoint(folder, max_file_bytes=2**30).folder == folder


@pytest.mark.parametrize(
    "name",
    ["config.json", "vocab.txt", "spiece.model", "modeling_encdec_slm.py", "additional_chat_templates/x.jinja",
     "custom_generate/generate.py", "model.safetensors.index.json"],
)  # fmt: skip
def test_every_file_but_weights_has_a_limit(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    with (folder / name).open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(ValueError, match=name):
        check_folder(folder)


def test_weights_may_be_large_and_their_names_must_be_inside():
    check_files({"model.safetensors": 10**12, "config.json": 100})
    with pytest.raises(ValueError, match="not in its folder"):
        check_files({"../../model.safetensors": 5})


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "modeling_encdec_slm.py"])
def test_a_link_out_of_the_folder_is_refused(folder, tmp_path, name):
    (folder / name).rename(tmp_path / "secret")
    (folder / name).symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=rf"{name} is a link to .*secret, outside of the folder"):
        fetch_checkpoint(folder)


def test_links_of_the_cache_to_its_blobs_pass_and_no_others(saved, tmp_path):
    # snapshots/<commit>/name -> ../../blobs/<etag>, which may be a link to a blob that repositories share
    cache = tmp_path / "hub"
    repository = cache / "models--a--b"
    snapshot, blobs = repository / "snapshots/0", repository / "blobs"
    for path in (snapshot, blobs, cache / "blobs"):
        path.mkdir(parents=True)
    for number, path in enumerate(sorted(saved.iterdir())):
        blob = blobs / str(number)
        blob.write_bytes(path.read_bytes())
        if number == 0:
            blob.rename(cache / "blobs/shared")
            blob.symlink_to(cache / "blobs/shared")
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    fetch_checkpoint(snapshot)
    (snapshot / "tokenizer.json").unlink()
    (snapshot / "tokenizer.json").symlink_to(saved / "tokenizer.json")
    with pytest.raises(ValueError, match="outside of the folder"):
        fetch_checkpoint(snapshot)


def test_a_link_within_the_folder_passes(folder):
    (folder / "vocab.json").symlink_to("tokenizer.json")
    fetch_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "[]", "nan", "{", '{"a":' * 50_000, "\ud800".encode("utf-8", "surrogatepass")])
def test_what_is_no_json_object_is_refused_by_name(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"config\.json"):
        read_json_object(path)


def test_a_folder_has_no_revision(folder):
    with pytest.raises(ValueError, match="is a folder here, which has no revisions"):
        fetch_checkpoint(folder, revision="main")
