"""Trainings that a clock ends, and not a number of steps."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from result_files import machine, write_json
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback


TRAINING = "training.json"


def first_process_time() -> float:
    """The seconds of a clock that all processes of a training share: the first one's.

    Each process has to ask as often as the others do.
    """
    now = torch.tensor(time.monotonic(), dtype=torch.float64)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast(now, 0)
    return now.item()


class Clock:
    """Seconds of training: those between `start` and `stop`."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.spent = 0.0
        self.since: float | None = None

    def start(self) -> None:
        """Goes on."""
        self.since = self.now()

    def stop(self) -> float:
        """Stands still; returns the seconds so far."""
        if self.since is not None:
            self.spent += self.now() - self.since
        self.since = None
        return self.spent

    def seconds(self) -> float:
        """The seconds so far."""
        return self.spent + (0.0 if self.since is None else self.now() - self.since)


def pace(optimizer: torch.optim.Optimizer, clock: Clock, end: float, warmup_steps: int) -> LambdaLR:
    """A learning rate that rises over the first steps, and falls to zero as the clock comes to `end`, in seconds."""
    begin = clock.seconds()

    def share(step: int) -> float:
        left = (end - clock.seconds()) / (end - begin)
        return min(1.0, (step + 1) / warmup_steps) * max(0.0, left)

    return LambdaLR(optimizer, share)


class TimedTraining(TrainerCallback):
    """Ends a training when its time is over; its clock starts with the first step."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock = clock
        self.seconds = seconds

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts the clock."""
        self.clock.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Looks at it."""
        control.should_training_stop = self.clock.seconds() >= self.seconds


def write_record(trainer: Trainer, clock: Clock, threads: int, **said: Any) -> None:
    """Writes beside a trained model, as `training.json`, what its time was enough for.

    Args:
        trainer: After the training; each row of its batches is a pair, unless another number of `pairs` is said.
        clock: The training's.
        threads: CPU threads of a process.
        **said: What is to be said besides, or instead.
    """
    args = trainer.args
    rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    record = {
        "parameters": trainer.model.num_parameters(),
        "minutes": round(clock.seconds() / 60, 1),
        "pairs": trainer.state.global_step * rows,
        "loss": trainer.state.log_history[-1]["train_loss"],
        "machine": machine(args.device, threads * args.world_size),
        **said,
    }
    if trainer.is_world_process_zero():
        write_json(Path(args.output_dir) / TRAINING, record)
