"""The text model: the laws of every encoder-decoder, and what is its own."""

import pytest
import torch
from checkpoint_laws import CheckpointLaws
from datasets import Dataset
from forward_laws import ForwardLaws
from model_tester import ModelTester
from torch.nn.functional import gelu, linear, silu
from training_laws import LoraLaws, TrainingLaws
from transformers import (
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    DynamicCache,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)
from variants import VARIANTS

from encdec_slm import EncDecSLMConfig, EncDecSLMForConditionalGeneration
from encdec_slm.models.configuration_encdec_slm import PRESETS


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def tester(request):
    return request.param


class TestForward(ForwardLaws):
    pass


class TestCheckpoint(CheckpointLaws):
    pass


class TestTraining(TrainingLaws):
    pass


class TestLora(LoraLaws):
    pass


def on_meta_device(config):
    with torch.device("meta"):
        return EncDecSLMForConditionalGeneration(config)


def test_released_size_has_the_released_number_of_parameters():
    assert on_meta_device(EncDecSLMConfig.from_preset("330m")).num_parameters() == 332_042_240


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_two_thirds_of_their_layers_in_the_encoder_and_at_most_a_billion_parameters(name):
    model = on_meta_device(EncDecSLMConfig.from_preset(name))
    encoder, decoder = model.get_encoder(), model.get_decoder()
    assert len(encoder.layers) == 2 * len(decoder.layers)
    assert model.num_parameters() <= 1_000_000_000
    assert encoder.config.hidden_size == decoder.config.hidden_size


def test_presets_grow():
    sizes = [on_meta_device(EncDecSLMConfig.from_preset(name)).num_parameters() for name in PRESETS]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == len(sizes)


def mlp_by_hand(mlp, x):
    return linear(
        gelu(linear(x, mlp.up_proj.weight, mlp.up_proj.bias), approximate="tanh"),
        mlp.down_proj.weight,
        mlp.down_proj.bias,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 1, 32), (3, 7, 32), (2, 40, 32), (2, 0, 32), (0, 3, 32)])
@pytest.mark.parametrize("with_grad", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_feed_forward_is_two_products_around_gelu(dtype, shape, with_grad, bias):
    mlp = ModelTester(both={"mlp_bias": bias}, initializer_range=0.2).model().get_encoder().layers[0].mlp.to(dtype)
    x = (2 * torch.randn(shape)).to(dtype)
    with torch.set_grad_enabled(with_grad):
        actual = mlp(x)
    assert actual.requires_grad == with_grad
    # in bfloat16 the product may keep more digits on its way into the activation than by hand
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 2e-2, "rtol": 2e-2}
    torch.testing.assert_close(actual, mlp_by_hand(mlp, x), **tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prompt_is_read_as_precisely_as_with_gradients(dtype):
    """The kernels differ with and without gradients: neither may be further from the truth than the other."""
    mlp = ModelTester(initializer_range=0.2).model().get_encoder().layers[0].mlp
    x = 2 * torch.randn(3, 40, 32)
    x = x.to(dtype)
    truth = mlp_by_hand(mlp.to(dtype).double(), x.double())
    mlp.to(dtype)
    errors = []
    for with_grad in (True, False):
        with torch.set_grad_enabled(with_grad):
            errors.append((mlp(x).double() - truth).norm().item() / truth.norm().item())
    assert errors[1] <= 1.5 * errors[0] + 1e-7


def test_strided_input_is_read_and_left_alone():
    mlp = ModelTester().model().get_encoder().layers[0].mlp
    x = torch.randn(32, 5, 3).transpose(0, 2)
    before = x.clone()
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), mlp_by_hand(mlp, x.contiguous()), atol=1e-4, rtol=1e-4)
    assert torch.equal(x, before)


@torch.no_grad()
def test_hooks_of_the_projections_are_called():
    mlp, seen = ModelTester().model().get_encoder().layers[0].mlp, []
    x = torch.randn(2, 5, 32)
    expected = mlp(x)
    handles = [mlp.up_proj.register_forward_hook(lambda *_: seen.append("after"))]
    handles += [mlp.down_proj.register_forward_pre_hook(lambda *_: seen.append("before"))]
    torch.testing.assert_close(mlp(x), expected, atol=1e-5, rtol=1e-5)
    assert seen == ["after", "before"]
    for handle in handles:
        handle.remove()
    mlp.down_proj.register_forward_hook(lambda module, args, output: 2 * output)
    torch.testing.assert_close(mlp(x), 2 * expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_projections_of_another_kind_are_called():
    class Doubling(torch.nn.Linear):
        """As quantisers have them: a subclass whose weight is not the whole story."""

        def forward(self, x):
            return 2 * super().forward(x)

    mlp = ModelTester().model().get_encoder().layers[0].mlp
    x = torch.randn(2, 5, 32)
    expected = mlp(x)
    doubling = Doubling(mlp.down_proj.in_features, mlp.down_proj.out_features)
    doubling.load_state_dict(mlp.down_proj.state_dict())
    mlp.down_proj = doubling
    torch.testing.assert_close(mlp(x), 2 * expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_autocast_computes_in_its_dtype():
    tester = ModelTester(initializer_range=0.1)
    model, inputs, tokens = tester.model(), tester.inputs(), tester.targets()
    expected = model(**inputs, decoder_input_ids=tokens).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.get_encoder().layers[0].mlp(torch.randn(2, 5, 32)).dtype == torch.bfloat16
        logits = model(**inputs, decoder_input_ids=tokens).logits
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("num_key_value_heads", [1, 2, 4])
def test_key_heads_are_those_of_all_heads_repeated(num_key_value_heads):
    """A model whose heads share keys and values equals one that has a copy for every head."""
    model = ModelTester(both={"num_key_value_heads": num_key_value_heads}).model()
    every = ModelTester(both={"num_key_value_heads": 4}).model()
    groups = 4 // num_key_value_heads

    def repeat(weight):
        heads = weight.view(num_key_value_heads, 16, *weight.shape[1:])
        return heads.repeat_interleave(groups, dim=0).flatten(0, 1)

    weights = model.state_dict()
    for name, weight in weights.items():
        if "qkv_proj" in name:
            query, key, value = weight.split([64, num_key_value_heads * 16, num_key_value_heads * 16])
            weights[name] = torch.cat([query, repeat(key), repeat(value)])
        elif "kv_proj" in name:
            weights[name] = torch.cat([repeat(part) for part in weight.chunk(2)])
    every.load_state_dict(weights)
    tester = ModelTester()
    inputs, decoder_input_ids = tester.inputs(), tester.targets()
    for length in (6, 1):
        arguments = {**inputs, "decoder_input_ids": decoder_input_ids[:, :length]}
        torch.testing.assert_close(model(**arguments).logits, every(**arguments).logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_projections_hold_queries_then_keys_then_values():
    """Keys that are all alike are all looked at alike, which nothing but the keys does."""
    tester = ModelTester()
    model, rows = tester.model(), {"qkv_proj": slice(64, 96), "kv_proj": slice(0, 32)}
    model.set_attn_implementation("eager")
    for name, module in model.named_modules():
        if name.endswith("kv_proj"):
            for parameter in module.parameters():
                parameter[rows[name.split(".")[-1]]] = 0
    outputs = model(**tester.row(5), decoder_input_ids=tester.targets(1, 4), output_attentions=True)
    seen = {"encoder": torch.full((5, 5), 1 / 5), "cross": torch.full((4, 5), 1 / 5)}
    seen["decoder"] = torch.ones(4, 4).tril() / torch.arange(1, 5)[:, None]
    for name in seen:
        attentions = outputs[f"{name}_attentions"]
        torch.testing.assert_close(torch.stack(attentions), seen[name].expand(len(attentions), 1, 4, -1, -1))


def test_gate_multiplies_the_activation():
    model = VARIANTS["llama_like"].model()
    mlp = model.get_encoder().layers[0].mlp
    x = torch.randn(2, 3, 32)
    by_hand = mlp.down_proj.weight @ (silu(x @ mlp.gate_proj.weight.T) * (x @ mlp.up_proj.weight.T)).transpose(1, 2)
    torch.testing.assert_close(mlp(x), by_hand.transpose(1, 2), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"attention_bias": False, "mlp_bias": False}, set()),
        ({"attention_bias": False}, {"up_proj", "down_proj"}),
        ({"mlp_bias": False}, {"q_proj", "kv_proj", "qkv_proj", "o_proj"}),
        ({"gated_mlp": True, "attention_bias": False}, {"gate_proj", "up_proj", "down_proj"}),
    ],
)
def test_biases_are_where_the_configuration_says(changes, names):
    model = ModelTester(both=changes).model()
    assert {name.split(".")[-2] for name, _ in model.named_parameters() if name.endswith(".bias")} == names
    assert "lm_head.bias" in dict(ModelTester(lm_head_bias=True).model().named_parameters())


@pytest.mark.parametrize("activation", ["gelu", "relu", "silu"])
def test_other_activations_of_the_library(activation):
    tester = ModelTester(both={"hidden_act": activation})
    inputs, labels = tester.inputs(), tester.targets()
    losses = {
        ModelTester(both={"hidden_act": name}).model()(**inputs, labels=labels).loss.item()
        for name in ("gelu", "relu", "silu")
    }
    assert tester.model()(**inputs, labels=labels).loss.item() in losses
    assert len(losses) == 3


def test_norm_divides_by_the_root_mean_square():
    norm = ModelTester().model().get_encoder().norm
    x = 3 * torch.randn(2, 5, 32)
    by_hand = x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), by_hand)


def test_cache_of_self_attention_alone_is_enough():
    tester = ModelTester()
    model, inputs, tokens = tester.model(), tester.inputs(), tester.targets()
    cache = DynamicCache(config=model.config.decoder)
    first = model(**inputs, decoder_input_ids=tokens[:, :3], past_key_values=cache)
    assert first.past_key_values is cache
    assert cache.get_seq_length() == 3
    second = model(**inputs, decoder_input_ids=tokens[:, 3:], past_key_values=cache)
    expected = model(**inputs, decoder_input_ids=tokens).logits
    torch.testing.assert_close(second.logits, expected[:, 3:], atol=1e-4, rtol=1e-4)


def test_too_long_input_is_warned_about_once(warnings_of_the_library):
    tester = ModelTester(both={"max_position_embeddings": 8})
    model = tester.model()
    model(**tester.inputs((8,)), decoder_input_ids=tester.targets(1, 8))
    assert warnings_of_the_library() == []
    for _ in range(2):
        model(**tester.inputs((9,)), decoder_input_ids=tester.targets(1, 8))
    (warning,) = warnings_of_the_library()
    assert "The encoder was given more than the 8 tokens" in warning
    model(**tester.inputs((9,)), decoder_input_ids=tester.targets(1, 9))
    assert len(warnings_of_the_library()) == 2
    assert "The decoder was given more than the 8 tokens" in warnings_of_the_library()[1]


def test_stock_trainer_and_collator_train_evaluate_and_save(tiny_tokenizer, tmp_path):
    def encode(rows):
        return tiny_tokenizer(rows["text"], text_target=rows["answer"])

    # the answer is the last letter and the end
    letters = "abcdefgh"
    rows = {
        "text": [a + b for a in letters for b in letters],
        "answer": [f"{b}</s>" for _ in letters for b in letters],
    }
    data = Dataset.from_dict(rows).map(encode, batched=True, remove_columns=["text", "answer"])
    model = ModelTester(initializer_range=0.1).model()
    arguments = Seq2SeqTrainingArguments(
        output_dir=tmp_path,
        num_train_epochs=12,
        per_device_train_batch_size=16,
        per_device_eval_batch_size=32,
        learning_rate=5e-3,
        predict_with_generate=True,
        generation_max_length=4,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )

    def accuracy(prediction):
        texts = tiny_tokenizer.batch_decode(prediction.predictions, skip_special_tokens=True)
        return {"accuracy": sum(map(str.__eq__, texts, [b for _ in letters for b in letters])) / len(texts)}

    trainer = Seq2SeqTrainer(
        model,
        arguments,
        train_dataset=data,
        eval_dataset=data,
        data_collator=DataCollatorForSeq2Seq(tiny_tokenizer, model=model),
        processing_class=tiny_tokenizer,
        compute_metrics=accuracy,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert before["eval_accuracy"] < 0.5
    assert after["eval_accuracy"] > 0.9
    assert after["eval_loss"] < before["eval_loss"]
    trainer.save_model(tmp_path / "model")
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model")
    encoded = tiny_tokenizer(rows["text"], return_tensors="pt")
    assert torch.equal(loaded.generate(**encoded), model.generate(**encoded))
