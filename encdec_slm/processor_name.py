"""What a measurement or a score was made on."""

import platform
from pathlib import Path

import torch


def processor_name() -> str:
    """Returns the processor's name, and the instructions that torch uses: processors of one name differ in them.

    The name is as the operating system gives it, the instructions as `torch.backends.cpu.get_cpu_capability` does.
    """
    return f"{_model_name()} with {torch.backends.cpu.get_cpu_capability()}"


def _model_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
