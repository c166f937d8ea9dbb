"""How much memory a process takes while it answers, over what it takes with the libraries loaded and no model.

A process of its own for each model: what others have left behind is not in it.
"""

import multiprocessing
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch


STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# what the kernel understands as: forget the highest mark so far
FORGET_HIGHEST = "5"


def available_bytes(device: torch.device) -> int | None:
    """Returns the bytes that can still be had, of the device's memory; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    (line,) = (line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024


def peak_over_base(prepare: Callable[[], Callable[[], object]], device: torch.device) -> int:
    """Returns the highest memory of this process while something runs, less what it took before the preparation.

    Where the system cannot forget an earlier peak, that of the preparation is in it.

    Args:
        prepare: Loads a model, and returns what is to run.
        device: Of the model; of a GPU what the allocator has given out is counted.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        run = prepare()
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    before = _resident("VmRSS")
    run = prepare()
    _forget_peak()
    run()
    return _resident("VmHWM") - before


def in_a_process_of_its_own(function: Callable[..., int], *arguments: object) -> int:
    """Returns what a function returns in a fresh process.

    Args:
        function: A function of a module, not one that was made in another.
        arguments: That can be pickled.
    """
    # not a fork, which would inherit the memory and the threads
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def _resident(field: str) -> int:
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # kilobytes, but on macOS bytes
    return highest if sys.platform == "darwin" else highest * 1024


def _forget_peak() -> None:
    try:
        CLEAR.write_text(FORGET_HIGHEST)
    except OSError:
        # not Linux, or not allowed: the peak of the preparation stays in it, as the docstring says
        return
