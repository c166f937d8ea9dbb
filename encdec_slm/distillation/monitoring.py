"""What a training tells about itself: seconds by part, mean losses, samples, and a batch whose loss is no number."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from encdec_slm.distillation.chunked_divergence import IGNORE_INDEX
from encdec_slm.distillation.images import RowImages


@dataclass
class Stopwatch:
    """Seconds by part of a step, summed up until they are taken.

    On an accelerator, work is only queued when a call returns: `synchronize` waits for it, at both ends of a part.

    Args:
        synchronize: Waits for the device.
        now: A clock, in seconds.
    """

    synchronize: Callable[[], None]
    now: Callable[[], float] = time.perf_counter
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to a part."""
        self.synchronize()
        begin = self.now()
        try:
            yield
        finally:
            self.synchronize()
            self.seconds[name] = self.seconds.get(name, 0.0) + self.now() - begin

    def take(self) -> dict[str, float]:
        """Returns the seconds of all parts and starts anew."""
        taken, self.seconds = self.seconds, {}
        return taken


def waiter(device: torch.device) -> Callable[[], None]:
    """Returns a function that waits until a device has done its work."""
    if device.type == "cpu":
        return lambda: None
    return lambda: torch.accelerator.synchronize(device)


@dataclass
class Sums:
    """Sums by name, kept where they are computed: reading them on every step would make a GPU wait."""

    values: dict[str, torch.Tensor] = field(default_factory=dict)

    def add(self, values: Mapping[str, torch.Tensor | None]) -> None:
        """Adds numbers; None adds nothing."""
        for name, value in values.items():
            if value is not None:
                value = value.detach().double() if value.device.type != "mps" else value.detach().float()
                self.values[name] = self.values[name] + value if name in self.values else value

    def take(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """Returns the sums and starts anew.

        Args:
            reduce: Adds up a number over all processes.
        """
        taken, self.values = self.values, {}
        return {name: float(reduce(taken[name])) for name in sorted(taken)}


@dataclass
class AnswerLog:
    """A JSON Lines file of answers, to which so many are added at a time.

    Args:
        path: The file.
        tokenizer: The student's.
        room: How many answers are left to add.
    """

    path: Path
    tokenizer: PreTrainedTokenizerBase
    room: int = 0

    def add(self, facts: Mapping[str, Any], *, is_writing: bool = True, **columns: torch.Tensor) -> None:
        """Adds as many rows as there is room for.

        Args:
            facts: What is the same in all rows.
            is_writing: Whether this process writes; if not, the room is used up all the same.
            columns: Ids by the names of their texts, of shape (rows, tokens).
        """
        number = min(self.room, *map(len, columns.values()))
        self.room -= number
        if not number or not is_writing:
            return
        texts = [self._texts(ids[:number]) for ids in columns.values()]
        records = [{**facts, **dict(zip(columns, row, strict=True))} for row in zip(*texts, strict=True)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)

    def _texts(self, ids: torch.Tensor) -> list[str]:
        padding = self.tokenizer.eos_token_id
        return self.tokenizer.batch_decode(ids.masked_fill(ids == IGNORE_INDEX, padding), skip_special_tokens=True)


def refuse_loss(
    loss: torch.Tensor, parts: Mapping[str, torch.Tensor | None], batch: Mapping[str, Any], path: Path
) -> None:
    """Stops a training whose loss is no number, and keeps the batch.

    Args:
        loss: The loss of the batch.
        parts: Its parts by name.
        batch: Tensors, images, or dictionaries of them.
        path: The safetensors file to write.

    Raises:
        FloatingPointError: If the loss is NaN or infinite.
    """
    if torch.isfinite(loss):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in _flat(batch)}, path)
    shown = ", ".join(f"{name} {value.item():.4g}" for name, value in parts.items() if value is not None)
    raise FloatingPointError(
        f"the loss is {loss.item()} ({shown}). The batch is saved in {path}. If the divergence is at fault, look for "
        "infinite logits of the teacher (float16 overflows: load it in bfloat16 or float32), or for probabilities of "
        "exactly 0 in a KL: jsd and the skewed divergences are finite. If the cross-entropy is, lower learning_rate "
        "or max_grad_norm"
    )


def _flat(batch: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in batch.items():
        if isinstance(value, torch.Tensor):
            yield prefix + name, value
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, RowImages):
            yield from _flat({str(i): row for i, row in enumerate(value.rows)}, f"{prefix}{name}.")
