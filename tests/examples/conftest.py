"""The examples are scripts: what they import from each other is found as if one of them were run."""

import sys
from pathlib import Path

import datasets
import pytest


sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))


@pytest.fixture(autouse=True)
def _quiet_progress():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()
