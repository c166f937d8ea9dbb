"""What the original's text model is: its `MuConfig`, put together from the tensors, what is stated, and defaults."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any, Self

from transformers.utils import logging


logger = logging.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class OriginalConfig:
    """The original's configuration, by its names; the defaults are those of the released 330M model.

    `bos_token_id` and `eos_token_id` are not the original's, which leaves them to its tokenizer.
    """

    n_encoder_layer: int = 20
    n_decoder_layer: int = 10
    n_embd: int = 1024
    qkv_embd: int = 384
    hidden_dim: int = 4096
    vocab_size: int = 32_128
    n_head: int = 6
    n_kv_head: int = 3
    is_interleaved: bool = False
    block_size: int = 1024
    dropout: float = 0.1
    rope_theta: float = 10_000
    rope_factor: float = 1.0
    pad_token_id: int = 0
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.qkv_embd // self.n_head

    @property
    def rope_parameters(self) -> dict[str, Any]:
        """`rope_theta` and `rope_factor` in the library's words.

        A factor above 1 is dynamic NTK scaling: for a sequence of `L` > `block_size` tokens the base grows by
        `(factor * L / block_size - (factor - 1)) ** (head_dim / (head_dim - 2))`, the same formula in both. Other
        factors have no effect in the original.
        """
        scaling = {"rope_type": "dynamic", "factor": float(self.rope_factor)} if self.rope_factor > 1 else {}
        return {"rope_type": "default", "rope_theta": float(self.rope_theta), **scaling}

    @classmethod
    def from_sources(cls, stated: Mapping[str, Any], measured: Mapping[str, int]) -> Self:
        """Returns the configuration that the tensors show, completed by what is stated, then by the released model's.

        Args:
            stated: Fields and values, any number of them. `qkv_embd` may be None, for `n_embd`.
            measured: Sizes of the tensors, as `original_layout.measure` returns them.

        Raises:
            ValueError: If a stated field is unknown, has a value of the wrong kind or outside its range, or
                contradicts the tensors; or if the tensors cannot be cut into heads.
        """
        stated = dict(stated)
        if "qkv_embd" in stated and stated["qkv_embd"] is None:
            stated["qkv_embd"] = measured["n_embd"]
        _check_values(stated)
        sizes = {**measured, "n_kv_head": _count_key_value_heads(stated, measured)}
        sizes.pop("kv_embd")
        differing = [
            f"{name} is {stated[name]} in the configuration but {size} in the tensors"
            for name, size in sizes.items()
            if stated.get(name, size) != size
        ]
        if differing:
            raise ValueError("the configuration does not fit the checkpoint: " + "; ".join(differing))
        config = cls(**{**stated, **sizes})
        config._check_rope_and_tokens()
        config._tell_what_is_assumed(stated, sizes)
        return config

    def _check_rope_and_tokens(self) -> None:
        if self.rope_factor > 1 and self.head_dim == 2:
            raise ValueError(
                f"rope_factor {self.rope_factor} cannot scale heads of width 2: its exponent is d / (d - 2)"
            )
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            token_id = getattr(self, name)
            if token_id is not None and not 0 <= token_id < self.vocab_size:
                raise ValueError(f"{name} is {token_id}, but the checkpoint has {self.vocab_size} tokens")

    def _tell_what_is_assumed(self, stated: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
        released = OriginalConfig()
        if all(getattr(released, name) == size for name, size in sizes.items()):
            return
        assumed = [
            field.name for field in fields(self) if field.name not in {*stated, *sizes} and field.default is not None
        ]
        if assumed:
            values = ", ".join(f"{name}={getattr(self, name)}" for name in assumed)
            logger.warning(
                f"The checkpoint does not have the sizes of the released model, and nothing states {values}: these "
                "are taken from the released model. State them in a configuration file if they are others."
            )


FIELDS = {field.name: field for field in fields(OriginalConfig)}
POSITIVE = ("n_head", "n_kv_head", "block_size", "rope_theta")


def read_original_config(path: str | PathLike[str]) -> dict[str, Any]:
    """Returns the fields that a JSON file like the original's `mu_config.json` states.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a JSON object.
    """
    try:
        stated = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the configuration {path} is not JSON: {error}") from error
    if not isinstance(stated, dict):
        raise ValueError(f"the configuration {path} must be a JSON object of fields, not a {type(stated).__name__}")
    return stated


def _check_values(stated: Mapping[str, Any]) -> None:
    unknown = [name for name in stated if name not in FIELDS]
    if unknown:
        raise ValueError(f"the configuration has unknown fields ({', '.join(unknown)}); known are {', '.join(FIELDS)}")
    for name, value in stated.items():
        kind = FIELDS[name].type
        if not _is_of_kind(value, kind):
            raise ValueError(f"{name} in the configuration must be of the kind {kind}, got {value!r}")
        if name in POSITIVE and value <= 0:
            raise ValueError(f"{name} in the configuration must be positive, got {value}")
    if not 0 <= stated.get("dropout", 0) <= 1:
        raise ValueError(f"dropout in the configuration must be between 0 and 1, got {stated['dropout']}")


def _is_of_kind(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, kind)


def _count_key_value_heads(stated: Mapping[str, Any], measured: Mapping[str, int]) -> int:
    n_head = stated.get("n_head", OriginalConfig.n_head)
    origin = "stated" if "n_head" in stated else "of the released model, since nothing states another"
    head_dim, rest = divmod(measured["qkv_embd"], n_head)
    if rest or head_dim % 2:
        raise ValueError(
            f"the checkpoint's {measured['qkv_embd']} query rows do not make n_head = {n_head} ({origin}) heads of an "
            "even width: state the right n_head in a configuration file"
        )
    n_kv_head, rest = divmod(measured["kv_embd"], head_dim)
    if rest or n_head % n_kv_head:
        raise ValueError(
            f"the checkpoint's {measured['kv_embd']} key rows do not make key/value heads of width {head_dim} whose "
            f"number divides n_head = {n_head} ({origin}): state the right n_head in a configuration file"
        )
    return n_kv_head
