"""The laws are in modules that pytest does not collect: their assertions are to be explained all the same."""

import pytest
import transformers
from packaging.version import Version


pytest.register_assert_rewrite("forward_laws", "checkpoint_laws", "training_laws", "generation_laws")


@pytest.fixture
def model(tester):
    """A model of the family under test; the test's module says which by its fixture `tester`."""
    return tester.model()


def pytest_collection_modifyitems(items):
    """Skips what is of images on releases of the library that can run the text model alone."""
    if Version(transformers.__version__) >= Version("5.12"):
        return
    for item in items:
        if "vision" in item.path.name or "image" in item.path.name:
            item.add_marker(pytest.mark.skip(reason="the vision model needs Transformers 5.12"))
