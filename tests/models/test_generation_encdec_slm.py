"""Generation by the text model."""

import pytest
from generation_laws import GenerationLaws
from variants import VARIANTS


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def tester(request):
    return request.param


class TestGeneration(GenerationLaws):
    pass
