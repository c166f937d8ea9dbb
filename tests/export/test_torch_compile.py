"""Compiled steps answer what others answer."""

import pytest
import torch
from model_tester import ModelTester

from encdec_slm.export.torch_compile import compiled_steps


@pytest.mark.slow
def test_compiled_steps_answer_the_same():
    torch.compiler.reset()
    model = ModelTester(initializer_range=0.15).model()
    inputs = ModelTester().inputs((9,))
    torch._dynamo.utils.counters.clear()
    for _ in range(2):
        tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False, **compiled_steps())
    assert torch.equal(tokens, model.generate(**inputs, max_new_tokens=8, do_sample=False))
    # one graph for all steps of both calls
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
