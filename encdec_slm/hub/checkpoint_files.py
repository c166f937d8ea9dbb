"""The files of a checkpoint that somebody else wrote: names, sizes and headers, before anything of it is loaded."""

import json
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from safetensors import SafetensorError, safe_open


WEIGHTS = "*.safetensors"
# what is read beside the weights: configurations, tokenizers, templates and code
SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.py", "*.spm", "*.tiktoken", "*.txt")
# where the library looks below the top
SUBFOLDERS = ("additional_chat_templates", "custom_generate")
# the tokenizer of 256,000 tokens that Gemma has takes half of it
MAX_FILE_BYTES = 64 * 2**20
# files of these names are, or may be, pickles
PICKLES = ("*.bin", "*.ckpt", "*.pickle", "*.pkl", "*.pt", "*.pth")
MODEL_WEIGHTS = "model.safetensors"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
# the library reads these before all others if they are in a folder
DISTRIBUTED = "shard-*-model-*.safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
INDEX = f"model{INDEX_SUFFIX}"

Shapes = dict[str, tuple[int, ...]]


def check_files(sizes: Mapping[str, int], *, max_file_bytes: int = MAX_FILE_BYTES) -> None:
    """Refuses names that leave their folder, and files that would be read whole though they are too large for it.

    Args:
        sizes: Bytes of each file, by its path in the repository or the folder.
        max_file_bytes: Largest size of a file that is no weights.

    Raises:
        ValueError: If a file is refused.
    """
    for name, size in sizes.items():
        check_name(name, "the repository")
        if size > max_file_bytes and not fnmatchcase(name, WEIGHTS):
            raise ValueError(
                f"{name} has {size:,} bytes, but only weights may be larger than {max_file_bytes:,} bytes: if you "
                "know why it is so large, pass a larger max_file_bytes"
            )


def check_name(name: object, named_by: str) -> str:
    """Returns the name of a file that lies in its folder or below.

    Args:
        name: What somebody else wrote.
        named_by: Where it was read, for the message.

    Raises:
        ValueError: If it is no such name.
    """
    if isinstance(name, str) and name:
        # a name for Linux may be a path on Windows
        windows, posix = PureWindowsPath(name), PurePosixPath(name)
        if not (windows.is_absolute() or windows.drive or posix.is_absolute() or ".." in windows.parts):
            return name
    raise ValueError(f"{named_by} names the file {name!r}, which is not in its folder: nothing outside it is read")


def check_folder(folder: Path, *, max_file_bytes: int = MAX_FILE_BYTES) -> None:
    """Refuses files too large to be read whole, and links out of the folder, except to the blobs of the Hub's cache.

    Args:
        folder: A model folder, or a snapshot in the cache.
        max_file_bytes: Largest size of a file that is no weights.

    Raises:
        ValueError: If a file is refused.
    """
    homes = [folder.resolve()]
    if folder.parent.name == "snapshots":
        # of the repository, and those that repositories share
        homes += [home.resolve() / "blobs" for home in (folder.parents[1], folder.parents[2])]
    sizes = file_sizes(folder)
    for path in (folder / name for name in sizes):
        target = path.resolve()
        if not any(target.is_relative_to(home) for home in homes):
            raise ValueError(
                f"{path} is a link to {target}, outside of the folder: put the file itself there if it belongs to it"
            )
    check_files(sizes, max_file_bytes=max_file_bytes)


def file_sizes(folder: Path) -> dict[str, int]:
    """Returns the bytes of each file that is or may be read, by its path in the folder."""
    read = (WEIGHTS, *SMALL_FILES)
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for place in (folder, *(folder / name for name in SUBFOLDERS))
        for path in (sorted(place.iterdir()) if place.is_dir() else ())
        if path.is_file() and any(fnmatchcase(path.name, pattern) for pattern in read)
    }


def read_json_object(path: Path) -> dict[str, Any]:
    """Returns what a JSON file holds.

    Raises:
        ValueError: If it does not hold an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    # RecursionError: brackets without end
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a JSON {type(value).__name__}, not an object")
    return value


def first_weight_file(folder: Path, config: Mapping[str, Any]) -> str:
    """Returns the name of the file from which `from_pretrained` reads a model, or of the index of several.

    Args:
        folder: Of the model.
        config: What its `config.json` holds, which may name another file than the usual.

    Raises:
        ValueError: If the name is not of a file in the folder, or there are files that would be read instead.
    """
    distributed = next((path.name for path in folder.iterdir() if fnmatchcase(path.name, DISTRIBUTED)), None)
    if distributed is not None:
        raise ValueError(
            f"{folder} holds {distributed}, a part of a distributed checkpoint, which is not checked here: put the "
            "parts together with consolidate_distributed_checkpoint of transformers.distributed.checkpoint"
        )
    if config.get("transformers_weights") is not None:
        return check_name(config["transformers_weights"], "config.json")
    return MODEL_WEIGHTS if (folder / MODEL_WEIGHTS).is_file() or not (folder / INDEX).is_file() else INDEX


def weight_files(folder: Path, first: str, listed: Iterable[str]) -> list[Path]:
    """Returns the safetensors files of a checkpoint.

    Args:
        folder: Of a model or an adapter.
        first: The file, or the index of several.
        listed: All files of the checkpoint, also those that are not in the folder because they are never read.

    Raises:
        ValueError: If there are none, or a name is not that of a safetensors file in the folder.
    """
    names = [first]
    if first.endswith(INDEX_SUFFIX) and (folder / first).is_file():
        weight_map = read_json_object(folder / first).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ValueError(f"{folder / first} has no weight_map, which says where each tensor lies")
        names = sorted({check_name(shard, first) for shard in weight_map.values()})
    for name in names:
        if not name.endswith(".safetensors") or not (folder / name).is_file():
            raise ValueError(_no_such_weights(folder, name, listed))
    return [folder / name for name in names]


def _no_such_weights(folder: Path, wanted: str, listed: Iterable[str]) -> str:
    pickles = sorted(name for name in listed if any(fnmatchcase(name, pattern) for pattern in PICKLES))
    if pickles:
        return (
            f"{folder} has no {wanted}, but {', '.join(pickles)}. Opening a pickle can run code, and none is opened "
            "here: ask for safetensors, or load it where you trust it and save it again by save_pretrained"
        )
    return f"{folder} has no weights in safetensors: there is no {wanted}"


def tensor_shapes(paths: Iterable[Path]) -> Shapes:
    """Returns the shape of every tensor, from the headers of safetensors files.

    The library compares each header with its file: tensors lie one behind the other, within the file, without gaps,
    and each has as many bytes as its shape and type take.

    Raises:
        ValueError: If a file is damaged or lies, or a tensor is in two files.
    """
    shapes: Shapes = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is no safetensors file, or a damaged one: {error}") from error
        twice = sorted(shapes.keys() & found.keys())
        if twice:
            raise ValueError(f"{path} holds {twice[0]}, and so does another file of the checkpoint: save it again")
        shapes |= found
    return shapes
