"""Rounded weights: as exact as their bits allow, the same when saved and loaded, and what stays whole stays."""

from pathlib import Path

import pytest
import torch
from model_tester import ModelTester
from torch import nn
from transformers import (
    AutoModelForSeq2SeqLM,
    BitsAndBytesConfig,
    T5Config,
    T5ForConditionalGeneration,
    TorchAoConfig,
)
from transformers.quantizers.quantizers_utils import should_convert_module

from encdec_slm.quantization import CpuQuantizationConfig, quantize_, read_single_rows_
from encdec_slm.quantization.linear import INT4_GROUP, Int4Linear, Int8Linear, SingleRowLinear
from encdec_slm.quantization.quantizer import is_kept


@pytest.fixture
def linear():
    return nn.Linear(64, 48)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    trained_like().save_pretrained(folder)
    return folder


def trained_like(**changes):
    return ModelTester(
        both={"intermediate_size": 64, "hidden_size": 64, "num_attention_heads": 4}, initializer_range=0.1, **changes
    ).model()


def logits_of(model):
    torch.manual_seed(1)
    inputs = ModelTester().inputs((9, 9))
    with torch.no_grad():
        return model(**inputs, labels=ModelTester().targets(batch=2)).logits


@pytest.mark.parametrize("rows", [1, 7])
@torch.no_grad()
def test_eight_bits_are_as_exact_as_eight_bits_can_be(rows, linear):
    states = torch.randn(rows, 64) * torch.logspace(-2, 2, rows)[:, None]
    layer = Int8Linear.from_linear(linear)
    weight = layer.state_dict()["weight"].float() * layer.state_dict()["weight_scale"][:, None]
    scale = linear.weight.abs().amax(1, keepdim=True) / 127
    assert ((weight - linear.weight).abs() <= 0.501 * scale).all()
    # inputs of seven bits, each row in its own range
    step = (states.amax(1).clamp(min=0) - states.amin(1).clamp(max=0)) / 127
    allowed = 0.51 * step[:, None] * weight.abs().sum(1) + 1e-5
    if rows > 1:
        allowed = 4 * allowed  # all rows are rounded in one range, of -1 to 1
    assert ((layer(states) - nn.functional.linear(states, weight, linear.bias)).abs() <= allowed).all()


@torch.no_grad()
def test_four_bits_are_as_exact_as_four_bits_can_be(linear):
    layer = Int4Linear.from_linear(linear)
    weight = layer(torch.eye(64)).T - linear.bias[:, None]
    groups = linear.weight.unflatten(1, (-1, INT4_GROUP))
    step = ((groups.amax(-1) - groups.amin(-1)) / 15)[..., None]
    error = (weight.unflatten(1, (-1, INT4_GROUP)) - groups).abs()
    assert error.square().mean() < (step.square() / 12).mean() * 1.1
    states = torch.randn(2, 3, 64).bfloat16().float()
    torch.testing.assert_close(layer(states), nn.functional.linear(states, weight, linear.bias), atol=0.02, rtol=0.02)


@torch.no_grad()
def test_one_row_gives_what_many_rows_give(linear):
    single = nn.Linear(64, 48)
    single.load_state_dict(linear.state_dict())
    single.__class__ = SingleRowLinear
    states = torch.randn(5, 64)
    torch.testing.assert_close(torch.cat([single(row[None]) for row in states]), linear(states))
    assert single(states[0].view(1, 1, 64)).shape == (1, 1, 48)
    with torch.enable_grad():
        assert single(states[:1]).requires_grad


@pytest.mark.parametrize(("bits", "most"), [(8, 0.03), (4, 0.2)])
def test_model_is_saved_and_loaded_as_it_was_rounded(bits, most, saved, tmp_path):
    whole = AutoModelForSeq2SeqLM.from_pretrained(saved)
    wanted = logits_of(whole)
    model = AutoModelForSeq2SeqLM.from_pretrained(saved, quantization_config=CpuQuantizationConfig(bits=bits))
    found = logits_of(model)
    assert 0 < (found - wanted).norm() / wanted.norm() < most
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert torch.equal(logits_of(again), found)
    assert torch.equal(logits_of(quantize_(whole, f"int{bits}")), found)
    inputs = ModelTester().inputs()
    assert torch.equal(again.generate(**inputs, max_new_tokens=6), model.generate(**inputs, max_new_tokens=6))
    assert size(tmp_path) < 0.5 * size(saved)


def size(folder):
    return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))


def test_what_is_kept_stays_and_the_class_is_not_changed(saved):
    model = AutoModelForSeq2SeqLM.from_pretrained(saved)
    quantize_(model, "int4", keep=("lm_head", "layers.0.mlp.down_proj"))
    assert model.lm_head.weight is model.model.encoder.embed_tokens.weight
    kinds = {name: type(module) for name, module in model.named_modules() if hasattr(module, "in_features")}
    assert kinds["model.decoder.layers.0.mlp.down_proj"] is nn.Linear
    assert kinds["model.decoder.layers.1.mlp.down_proj"] is Int4Linear
    assert kinds["model.encoder.layers.1.mlp.up_proj"] is Int8Linear
    assert kinds["model.decoder.layers.1.encoder_attn.kv_proj"] is Int8Linear
    quantize_(AutoModelForSeq2SeqLM.from_pretrained(saved), "int8")
    other = AutoModelForSeq2SeqLM.from_pretrained(saved)
    assert other.lm_head.weight is other.model.encoder.embed_tokens.weight


def test_what_other_quantisers_keep_is_kept(saved):
    model = AutoModelForSeq2SeqLM.from_pretrained(saved)
    names = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    patterns = ["lm_head", "fc1", "down_proj", "model.encoder", r"model\.decoder\.layers\.(0|9)", "model.*.mlp",
                "model.decoder.layers.1.", "layers.0.mlp.down_proj", "model.decoder.layer"]  # fmt: skip
    for pattern in patterns:
        kept = [name for name in names if not should_convert_module(name, [pattern])]
        assert [name for name in names if is_kept(name, pattern)] == kept
    # for short
    assert [name for name in names if is_kept(name, "encoder")] == [name for name in names if ".encoder." in name]
    assert not is_kept("model.decoder.layers.11.mlp", "layers.1")


def test_any_encoder_decoder_can_be_rounded():
    config = T5Config(vocab_size=60, d_model=64, d_kv=16, d_ff=64, num_layers=1, num_heads=2, decoder_start_token_id=0)
    model = T5ForConditionalGeneration(config).eval()
    whole = logits_of(model)
    assert (logits_of(quantize_(model, "int8")) - whole).norm() / whole.norm() < 0.1


def test_single_rows_change_no_answer_and_no_weight(saved):
    model = AutoModelForSeq2SeqLM.from_pretrained(saved)
    inputs = ModelTester().inputs((9,))
    wanted, names = model.generate(**inputs, max_new_tokens=8), [*model.state_dict()]
    assert torch.equal(read_single_rows_(model).generate(**inputs, max_new_tokens=8), wanted)
    assert [*model.state_dict()] == names
    assert type(model.lm_head) is SingleRowLinear
    assert type(model.model.encoder.layers[0].mlp.up_proj) is nn.Linear


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda model: quantize_(model, "int2"), "int8, int4"),
        (lambda model: quantize_(quantize_(model, "int8"), "int8"), "quantised already"),
        (lambda model: quantize_(model, "int8", keep=["no_such"]), "'no_such'"),
        (lambda model: quantize_(model.to("meta"), "int8"), "on meta"),
        (lambda model: CpuQuantizationConfig(bits=3), "bits is 3"),
        (lambda model: CpuQuantizationConfig(modules_to_not_convert=["layers.["]), "no regular expression"),
    ],
)
def test_bad_requests_are_refused(run, message):
    with pytest.raises(ValueError, match=message):
        run(trained_like())


def test_quantised_loading_refuses_a_gpu(saved):
    with pytest.raises(ValueError, match="computes on the CPU"):
        AutoModelForSeq2SeqLM.from_pretrained(saved, quantization_config=CpuQuantizationConfig(), device_map="cuda")


@pytest.mark.parametrize(
    ("config", "most"),
    [
        (BitsAndBytesConfig(load_in_8bit=True), 0.05),
        (BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"), 0.3),
    ],
    ids=["int8", "nf4"],
)
def test_bitsandbytes_rounds_and_reloads(config, most, saved, tmp_path):
    refuse_other_answers_after_reloading(config, most, saved, tmp_path)


# not of the extra `dev`: where it is installed, importing Transformers' models imports it, which takes a second and
# prints warnings with this torch
def test_torchao_rounds_and_reloads(saved, tmp_path):
    torchao = pytest.importorskip("torchao.quantization")
    config = TorchAoConfig(torchao.Int8WeightOnlyConfig())
    model = refuse_other_answers_after_reloading(config, 0.05, saved, tmp_path)
    # the head is the embedding, and stays whole
    assert model.lm_head.weight is model.model.encoder.embed_tokens.weight
    assert type(model.model.decoder.layers[0].mlp.up_proj.weight) is not nn.Parameter


def refuse_other_answers_after_reloading(config, most, saved, tmp_path):
    wanted = logits_of(AutoModelForSeq2SeqLM.from_pretrained(saved))
    model = AutoModelForSeq2SeqLM.from_pretrained(saved, quantization_config=config, device_map="cpu")
    found = logits_of(model)
    assert 0 < (found - wanted).norm() / wanted.norm() < most
    inputs = ModelTester().inputs()
    answer = model.generate(**inputs, max_new_tokens=6)
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, device_map="cpu")
    assert torch.equal(again.generate(**inputs, max_new_tokens=6), answer)
    return model
