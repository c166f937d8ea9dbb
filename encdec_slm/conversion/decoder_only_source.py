"""Where a decoder-only model lies: a folder, a repository on the Hub, or a GGUF file; and how its parts are loaded."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not typed as such
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.hub import cached_file

from encdec_slm.conversion.gguf_checkpoint import (
    check_gguf,
    dequantize_gguf,
    has_tokenizer,
    read_gguf_header,
    require_gguf,
)
from encdec_slm.conversion.special_tokens import load_checkpoint_tokenizer


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A decoder-only model's files.

    Args:
        name: Local folder, or id of a repository on the Hub.
        gguf_file: File in it that is read in place of configuration, weights and tokenizer.
        hub: `revision` and `token`, as in `from_pretrained`.
    """

    name: str
    gguf_file: str | None
    hub: dict[str, Any]

    @classmethod
    def find(
        cls,
        name_or_path: str | PathLike[str],
        *,
        gguf_file: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> Self:
        """Returns the checkpoint in a folder or a repository, or the one that is a GGUF file.

        Raises:
            ImportError: If a package that reads GGUF files is missing.
            ValueError: If a file is named that does not exist or is not GGUF, a folder of GGUF files alone, or what
                is neither a folder nor an id.
        """
        path, name = Path(name_or_path), str(name_or_path)
        if path.suffix == ".gguf" and not path.is_dir():
            if gguf_file is not None:
                raise ValueError(f"both {name} and gguf_file={gguf_file!r} name a file: leave one of them out")
            path, gguf_file = path.parent, path.name
            name = str(path)
        if path.is_file():
            raise ValueError(f"{name} is a file: name the folder that holds the model, or a .gguf file")
        if path.is_dir():
            _check_folder(path, gguf_file)
        elif path != Path(name_or_path):
            raise ValueError(f"there is no folder {path}: of a repository, name the file by gguf_file")
        else:
            _check_id(name)
        if gguf_file is not None:
            require_gguf(gguf_file)
        return cls(name=name, gguf_file=gguf_file, hub={"revision": revision, "token": token})

    @property
    def local_paths(self) -> list[Path]:
        """The folder or file, if it is on this machine, which must not be overwritten."""
        path = Path(self.name, self.gguf_file or "")
        return [path] if path.exists() else []

    def load_config(self) -> PreTrainedConfig:
        """Returns the configuration.

        Raises:
            OSError: If there is none.
            ValueError: If Transformers has no such model, or the file is damaged.
        """
        if self.gguf_file is not None:
            read_gguf_header(self._path(self.gguf_file))
        return AutoConfig.from_pretrained(self.name, **self._loading)

    def load_model(self, dtype: torch.dtype | None) -> PreTrainedModel:
        """Returns the model with its weights in `dtype`, or in that of the checkpoint; those of a GGUF file unpacked.

        Raises:
            OSError: If there are no weights.
            ValueError: If weights are missing or of another shape than the configuration says, or Transformers would
                not understand all that a GGUF file says.
        """
        options = self._loading
        if self.gguf_file is not None:
            check_gguf(self._path(self.gguf_file))
            options |= dequantize_gguf(self.gguf_file)
        # with its report the library returns a pair, which its annotation does not say
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            self.name,
            dtype="auto" if dtype is None else dtype,
            output_loading_info=True,
            # they are refused below, in a sentence
            ignore_mismatched_sizes=True,
            **options,
        )
        model, report = loaded
        if report["mismatched_keys"]:
            name, found, configured = min(report["mismatched_keys"])
            raise ValueError(
                f"{name} has the shape {tuple(found)} in the checkpoint {self.name}, but {tuple(configured)} by its "
                "configuration: they do not belong together"
            )
        missing = sorted(report["missing_keys"])
        if missing:
            # the library only warns, and draws them at random
            raise ValueError(f"the checkpoint {self.name} lacks {len(missing)} weights, {missing[0]} among them")
        return model

    def load_tokenizer(self, vocab_size: int) -> PreTrainedTokenizerBase | None:
        """Returns the tokenizer, or None if there is none.

        Raises:
            ValueError: If it cannot be loaded, or has a token id outside the vocabulary.
        """
        return load_checkpoint_tokenizer(self.name, vocab_size, **self._loading) if self._has_tokenizer() else None

    @property
    def _loading(self) -> dict[str, Any]:
        gguf = {} if self.gguf_file is None else {"gguf_file": self.gguf_file}
        return {**self.hub, "trust_remote_code": False, **gguf}

    def _path(self, file: str) -> str:
        path = cached_file(self.name, file, **self.hub)
        if path is None:
            raise OSError(f"{self.name} has no file {file}")
        return path

    def _has_tokenizer(self) -> bool:
        if self.gguf_file is not None:
            return has_tokenizer(self._path(self.gguf_file))
        return any(
            cached_file(self.name, file, **self.hub, _raise_exceptions_for_missing_entries=False) is not None
            for file in TOKENIZER_FILES
        )


def _check_id(name: str) -> None:
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(
            f"there is no folder {name}, and no repository on the Hub can have that id: name a folder, an id such as "
            "owner/name, or a .gguf file"
        ) from error


def _check_folder(folder: Path, gguf_file: str | None) -> None:
    files = sorted(path.name for path in folder.glob("*.gguf"))
    if gguf_file is not None and not (folder / gguf_file).is_file():
        raise ValueError(f"there is no {gguf_file} in {folder}" + (f", but {', '.join(files)}" if files else ""))
    if gguf_file is None and files and not (folder / "config.json").is_file():
        raise ValueError(f"the folder {folder} has no config.json, but {', '.join(files)}: name one by gguf_file")
