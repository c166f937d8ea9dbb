"""How far a student of `start_from_decoder_only.py` is, and what its checkpoints tell a training that goes on."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from timed_training import Clock
from transformers import TrainerCallback, TrainerState, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


def last_checkpoint(folder: Path) -> str | None:
    """Returns the last checkpoint that was written as a whole, if there is one: the state is written last."""
    states = folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{TRAINER_STATE_NAME}")
    written = sorted((state.parent for state in states), key=lambda path: int(path.name.split("-")[-1]))
    return str(written[-1]) if written else None


@dataclass
class Progress:
    """What is known of a training that is under way.

    Attributes:
        settings: What the training is of. They must be the same when it goes on.
        marks: Seconds at which a score is still to be taken; the last ends it.
        adaptation_rows: Rows of an adaptation before it.
        seconds: Time so far.
        points: Scores so far, the start's first.
    """

    settings: Mapping[str, Any]
    marks: list[float]
    adaptation_rows: int = 0
    seconds: float = 0.0
    points: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def of(cls, checkpoint: str | None, settings: Mapping[str, Any], marks: list[float]) -> Self:
        """Returns that of a checkpoint, or of a training that is to begin.

        Raises:
            ValueError: If the checkpoint is of other settings.
        """
        if checkpoint is None:
            return cls(settings, marks)
        state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        progress = cls(**state.stateful_callbacks[Budget.__name__]["attributes"])
        # as they are read back: tuples have become lists
        for name, value in json.loads(json.dumps(settings)).items():
            if progress.settings[name] != value:
                raise ValueError(
                    f"{checkpoint} is of {name} {progress.settings[name]}, and not {value}: name another output_dir, "
                    "or delete it"
                )
        return progress


class Budget(TrainerCallback, ExportableState):
    """Scores a student whenever its time has doubled, with the clock stopped, and ends the training in time.

    Args:
        clock: Of the training; it stands.
        measure: Returns a point, from steps, seconds and the mark that was passed.
        progress: Of the training; it is kept up to date, and stands in each checkpoint.
    """

    def __init__(
        self,
        clock: Clock,
        measure: Callable[[int, float, float], dict[str, float]],
        progress: Progress,
    ) -> None:
        self.clock = clock
        self.measure = measure
        self.progress = progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Scores the student as it starts, unless it goes on."""
        if self.progress.points:
            self.clock.spent = self.progress.seconds
        else:
            spent = self.clock.seconds()
            self.progress.points.append(self.measure(0, spent, spent))
        self.clock.start()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Makes the order of the rows depend on the epoch alone."""
        set_seed(args.seed + int(state.epoch))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Scores it if a mark is passed."""
        marks = self.progress.marks
        passed = [mark for mark in marks if mark <= self.clock.seconds()]
        if passed:
            seconds = self.clock.stop()
            self.progress.points.append(self.measure(state.global_step, seconds, passed[-1]))
            del marks[: len(passed)]
            self.clock.start()
        control.should_training_stop = not marks
        if control.should_save:
            self.progress.seconds = self.clock.stop()
            if state.epoch.is_integer():
                # for one that goes on from here: its trainer takes this up after the epoch has begun
                self.on_epoch_begin(args, state, control)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Lets the clock go on."""
        self.clock.start()

    def state(self) -> dict[str, Any]:
        """What stands in a checkpoint."""
        return {"args": {}, "attributes": asdict(self.progress)}
