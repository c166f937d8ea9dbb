"""The laws are in modules that pytest does not collect: their assertions are to be explained all the same."""

import pytest


pytest.register_assert_rewrite("forward_laws", "checkpoint_laws", "training_laws", "generation_laws")


@pytest.fixture
def model(tester):
    """A model of the family under test; the test's module says which by its fixture `tester`."""
    return tester.model()
