"""What is counted while a model runs is what the formula says, and what a token reads is what its modules hold."""

import pytest
from efficiency_tester import configurations, model_of

from encdec_slm.benchmarks.compare import FormulaError, Shape, count, inputs_of
from encdec_slm.benchmarks.cost_model import Rates, limit
from encdec_slm.benchmarks.counting import TokenCost
from encdec_slm.benchmarks.decoding import Contestant
from encdec_slm.benchmarks.formula import ModelShape, StepFlops, answer_flops


SHAPE = Shape(batch_size=2, input_length=9, new_tokens=4)
CONFIGURATIONS = configurations()


@pytest.fixture(scope="module")
def models():
    return {name: model_of(config) for name, config in CONFIGURATIONS.items()}


def asked(model, **arguments):
    return Contestant("a model", model, {**inputs_of(SHAPE, 512, model.device), **arguments})


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_counted_operations_are_those_of_the_formula_token_by_token(models, name, use_cache):
    costs, flops, work, _ = count(asked(models[name], use_cache=use_cache), SHAPE)
    assert [cost.flops for cost in costs] == pytest.approx([step.total for step in flops], rel=1e-4)
    assert work.answer_flops == sum(cost.flops for cost in costs)
    assert (work.cache_bytes > 0) == use_cache
    # nothing but attention grows with a cache; everything grows without
    growth = costs[-1].flops / costs[1].flops
    assert growth < 1.02 if use_cache else growth > 1.2


def test_a_formula_of_another_shape_is_refused(models, monkeypatch):
    other = ModelShape.of(models["ours"])
    monkeypatch.setattr(ModelShape, "of", lambda model: other)
    with pytest.raises(FormulaError, match=r"a model took [0-9,]+ operations for token 1, but by formula"):
        count(asked(models["t5-shape"]), SHAPE)


def test_a_kernel_may_leave_out_what_a_causal_mask_hides():
    shape = ModelShape.of(model_of(CONFIGURATIONS["decoder-only"]))
    (first, second) = answer_flops(shape, batch_size=1, input_length=6, new_tokens=2)
    # of 6 by 6 products 15 are masked, with keys and with values; of one new token none
    assert first.total - first.least == 4 * shape.decoder.attention * 15
    assert second.total == second.least


def test_bytes_of_a_token_are_those_of_the_decoder_and_of_its_cache(models):
    model = models["ours"]
    costs, flops, _, cached = count(asked(model), SHAPE)
    least = limit(costs, flops, cached, Rates(1e9, 1e12))
    # the projection of the encoder's states was done with the first token
    read = {weight for name, weight in model.model.decoder.named_parameters() if "encoder_attn.kv_proj" not in name}
    stack = model.config.decoder
    # keys and values of four bytes, of 9 tokens read and, on average over three tokens, 3 written before and with it
    of_a_position = 4 * 2 * stack.num_hidden_layers * stack.num_key_value_heads * stack.head_dim * SHAPE.batch_size
    assert least.token_bytes == sum(weight.nbytes for weight in read) + of_a_position * (9 + 3)


def test_limit_by_hand():
    costs = [TokenCost(flops=0, weight_bytes=100), TokenCost(0, 40), TokenCost(0, 60)]
    flops = [StepFlops(total=9000, least=8000), StepFlops(10, 10), StepFlops(10, 10)]
    least = limit(costs, flops, 30, Rates(bytes_per_second=10, flops_per_second=100))
    assert least.first_token_seconds == 80
    assert (least.token_bytes, least.seconds_per_token) == (80, 8)
    # operations, where they take longer than the bytes
    assert limit(costs, flops, 30, Rates(bytes_per_second=1e9, flops_per_second=1)).seconds_per_token == 10
