"""What records say that a measurement was made on."""

import os
import subprocess
import sys

import pytest
import torch


@pytest.mark.parametrize("capability", ["DEFAULT", torch.backends.cpu.get_cpu_capability()])
def test_tells_processors_apart_that_multiply_by_other_instructions(capability):
    printed = subprocess.run(
        [sys.executable, "-c", "from encdec_slm.processor_name import processor_name; print(processor_name())"],
        env={**os.environ, "ATEN_CPU_CAPABILITY": capability.lower()},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    name, _, instructions = printed.strip().rpartition(" with ")
    assert name
    assert instructions == capability
