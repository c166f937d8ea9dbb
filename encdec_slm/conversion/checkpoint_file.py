"""Reading a checkpoint file that somebody else wrote: tensors and plain values, never code."""

import pickle
import re
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


GIT_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def read_checkpoint_file(path: str | PathLike[str]) -> Any:
    """Returns what a safetensors file (by its suffix) or a `torch.save` file holds, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is a folder, a Git LFS pointer, damaged, or a pickle of more than tensors and plain
            containers, numbers and strings.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"the checkpoint {path} is a folder: name the file in it")
    with path.open("rb") as file:
        if file.read(len(GIT_LFS_POINTER)) == GIT_LFS_POINTER:
            raise ValueError(
                f"the checkpoint {path} is a Git LFS pointer, not the weights: fetch them with git lfs pull"
            )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(_why_not_unpickled(path, error)) from error
    # the readers stumble over damaged bytes in many ways: IndexError, RuntimeError, EOFError, SafetensorError...
    except Exception as error:
        raise ValueError(f"the checkpoint {path} is damaged or of another format: {error}") from error


def _why_not_unpickled(path: Path, error: pickle.UnpicklingError) -> str:
    asked_for = re.search(r"GLOBAL (\S+)", str(error))
    reason = f"it asks for {asked_for[1]}" if asked_for else "it is no pickle that PyTorch wrote"
    return (
        f"the checkpoint {path} is not made of plain tensors ({reason}) and was not opened, because a pickle can run "
        "code: save the model's state dict alone, or use safetensors"
    )
