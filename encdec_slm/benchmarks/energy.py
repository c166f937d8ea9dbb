"""Joules that the machine says it has used: of the processors by RAPL, of a GPU by NVML, where there are any."""

from collections.abc import Callable
from pathlib import Path

import torch


POWERCAP = Path("/sys/class/powercap")


class ProcessorEnergy:
    """Joules of all processor packages since this was made.

    Args:
        folder: Where Linux shows the counters of RAPL.

    Raises:
        OSError: If there are none, or none that this user may read.
    """

    name = "RAPL, processor packages"

    def __init__(self, folder: Path = POWERCAP) -> None:
        # a package's own zone has one colon, those of its parts have two
        zones = sorted(path for path in folder.glob("*-rapl:*") if path.name.count(":") == 1)
        if not zones:
            raise FileNotFoundError(f"no counter of RAPL in {folder}")
        self._counters = [zone / "energy_uj" for zone in zones]
        self._ranges = [int((zone / "max_energy_range_uj").read_text()) for zone in zones]
        self._last = self._read()
        self._total = 0

    def _read(self) -> list[int]:
        return [int(counter.read_text()) for counter in self._counters]

    def __call__(self) -> float:
        """Returns joules; a counter that has begun anew once between two calls is understood."""
        now = self._read()
        steps = zip(now, self._last, self._ranges, strict=True)
        self._total += sum((after - before) % most for after, before, most in steps)
        self._last = now
        return self._total / 1e6


class GPUEnergy:
    """Joules of a GPU, as its driver counts them.

    Args:
        device: A CUDA device.

    Raises:
        ImportError: If the package `nvidia-ml-py` is not installed.
        OSError: If the driver does not tell.
    """

    name = "NVML, GPU"

    def __init__(self, device: torch.device) -> None:
        import pynvml

        try:
            pynvml.nvmlInit()
            uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            self._read = lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
            self._read()
        except pynvml.NVMLError as error:
            raise OSError(f"NVML does not tell the energy of {device}: {error}") from error

    def __call__(self) -> float:
        """Returns joules since the driver was loaded."""
        return self._read() / 1e3


Meter = Callable[[], float]


def energy_meter(device: torch.device) -> tuple[Meter | None, str]:
    """Returns what reads joules, and its name; or None and why there is nothing to read."""
    try:
        meter = GPUEnergy(device) if device.type == "cuda" else ProcessorEnergy()
    except (ImportError, OSError) as error:
        return None, f"not told by this machine ({error})"
    return meter, meter.name
