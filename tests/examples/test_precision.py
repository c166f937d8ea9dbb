"""A machine trains in the precision whose products are faster there."""

from dataclasses import dataclass
from types import SimpleNamespace

import precision
import pytest
import torch


@pytest.mark.parametrize(("bfloat16", "faster"), [(0.1, True), (3.0, False)])
def test_the_faster_precision_is_measured(monkeypatch, bfloat16, faster):
    now = 0.0
    seconds = {torch.float32: 1.0, torch.bfloat16: bfloat16}

    @dataclass
    class Factor:
        """A matrix whose products take time by a clock of their own."""

        dtype: torch.dtype

        def __matmul__(self, other):
            nonlocal now
            now += seconds[self.dtype]
            return torch.zeros(1, 1)

    monkeypatch.setattr(precision, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(torch, "ones", lambda *_, dtype, device: Factor(dtype))
    assert precision.bfloat16_is_faster() is faster
