"""All inputs of a comparison, each measured once: what is finished is kept, and a run that was stopped goes on."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch

from encdec_slm.benchmarks.compare import Setting, Shape, compare
from encdec_slm.benchmarks.efficiency_tables import Run, result_from
from encdec_slm.benchmarks.energy import Meter, energy_meter
from encdec_slm.benchmarks.model_choice import Candidate, refuse_what_does_not_fit
from encdec_slm.benchmarks.partial_record import PartialRecord
from encdec_slm.benchmarks.report import conditions


# what an interrupted run is compared with when it goes on
SETTINGS = ("models", "exported", "preset", "uncached", "new_tokens", "repeats", "threads", "attention", "device")
SWEPT = ("dtype", "batch_size", "input_length")
Report = Callable[[str], None]


def measure(options: argparse.Namespace, candidates: Sequence[Candidate], report: Report) -> dict[str, Any]:
    """Returns the record: settings, conditions, and a run for each dtype, batch size and input length.

    Args:
        options: Of the command.
        candidates: What is compared.
        report: Called with a line for each thing that is done.
    """
    device = torch.device(options.device)
    meter, energy = energy_meter(device)
    settings = {name: getattr(options, name) for name in SETTINGS}
    found = {**conditions(), "device": device_name(device), "energy": energy}
    path = options.output.with_suffix(".partial.jsonl") if options.output else None
    partial = PartialRecord(path, {**settings, **found})
    runs = []
    for setting, shapes in plan(options, device):
        measurer = Measurer(candidates, setting, meter, report)
        runs += [measurer.once(shape, partial).to_dict() for shape in shapes]
    partial.delete()
    swept = {name: getattr(options, name) for name in SWEPT}
    return {"settings": {**settings, **swept}, "conditions": found, "runs": runs}


def device_name(device: torch.device) -> str:
    """Returns the name of what computes."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def plan(options: argparse.Namespace, device: torch.device) -> Iterator[tuple[Setting, list[Shape]]]:
    """Yields each dtype with all inputs."""
    shapes = [
        Shape(batch_size=batch_size, input_length=input_length, new_tokens=options.new_tokens)
        for batch_size in options.batch_size
        for input_length in options.input_length
    ]
    for dtype in options.dtype:
        yield (
            Setting(
                dtype=dtype,
                device=device,
                attention=options.attention,
                threads=options.threads,
                repeats=options.repeats,
            ),
            shapes,
        )


class Measurer:
    """Models of one dtype, which are built when the first input is measured that was not measured before.

    Args:
        candidates: What is compared.
        setting: How it is built and run.
        meter: Returns the joules used so far.
        report: Called with a line for each thing that is done.
    """

    def __init__(self, candidates: Sequence[Candidate], setting: Setting, meter: Meter | None, report: Report) -> None:
        self.candidates = candidates
        self.setting = setting
        self.meter = meter
        self.report = report
        self._models: list[Any] = []

    def once(self, shape: Shape, partial: PartialRecord) -> Run:
        """Returns the results of all models with one input, measured unless they are in the partial record."""
        asked = f"{self.setting.dtype}, batch {shape.batch_size}, {shape.input_length} tokens"
        keys = [f"{asked}, {one.name}" for one in self.candidates]
        if (done := partial.find(keys)) is not None:
            self.report(f"{asked}: done already")
            return Run(dtype=self.setting.dtype, shape=shape, results=tuple(result_from(one) for one in done))
        self.report(asked)
        results = compare(self.candidates, self.models(), shape, self.setting, report=self.report, meter=self.meter)
        for key, result in zip(keys, results, strict=True):
            partial.add(key, asdict(result))
        return Run(dtype=self.setting.dtype, shape=shape, results=tuple(results))

    def models(self) -> list[Any]:
        """Returns the models, those of one source once."""
        if not self._models:
            refuse_what_does_not_fit(self.candidates, self.setting.dtype, self.setting.device)
            built: dict[int, Any] = {}
            for one in self.candidates:
                if id(one.source) not in built:
                    built[id(one.source)] = one.build(self.setting.dtype, self.setting.device, self.setting.attention)
                self._models.append(built[id(one.source)])
        return self._models
