"""What CTranslate2 computes is what PyTorch computes, for every architecture that is not refused."""

import json

import ctranslate2
import pytest
import torch
from ctranslate2.specs.model_spec import LayerSpec
from model_tester import ModelTester
from transformers import AutoConfig, AutoTokenizer

from encdec_slm.export import load_exported
from encdec_slm.export.ctranslate2_export import export_ctranslate2, token_names
from encdec_slm.export.ctranslate2_spec import refuse_what_ctranslate2_cannot_compute


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
VARIANTS = {
    "plain": {},
    "llama": {"both": {"gated_mlp": True, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}},
    "linear rope, exact gelu": {
        "both": {
            "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0},
            "hidden_act": "gelu",
            "rms_norm_eps": 1e-3,
        },
    },
    "unequal, untied": {
        "encoder": {"qk_norm": True},
        "decoder": {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1},
        "tie_word_embeddings": False,
        "lm_head_bias": True,
    },
}
REFUSED = {
    "decoder.qk_norm": {"decoder": {"qk_norm": True}},
    "decoder.cross_attention_rope": {"decoder": {"cross_attention_rope": True}},
    "hidden_act is 'mish'": {"decoder": {"hidden_act": "mish"}},
    "'llama3'": {"encoder": {"rope_parameters": {**LLAMA3, "rope_theta": 10_000.0}}},
    "'dynamic'": {"decoder": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}}},
    "rms_norm_eps": {"encoder": {"rms_norm_eps": 1e-5}},
    "num_hidden_layers": {"encoder": {"num_hidden_layers": 0}},
}


def trained_like(**changes):
    # closer to trained weights than the models of other tests: logits are then of the size of a few units
    return ModelTester(**changes, initializer_range=0.15).model()


@pytest.mark.parametrize("variant", VARIANTS)
def test_export_of_every_architecture_passes_its_own_check(variant, tmp_path):
    trained_like(**VARIANTS[variant]).save_pretrained(tmp_path / "model")
    report = export_ctranslate2(tmp_path / "model", tmp_path / "out")
    assert report.max_logit_error < 1e-4
    assert report.equal_greedy_tokens == 1


@pytest.mark.parametrize("reason", REFUSED)
def test_what_the_engine_cannot_compute_is_refused_by_name(reason):
    with pytest.raises(ValueError, match=reason.replace(".", r"\.")):
        refuse_what_ctranslate2_cannot_compute(ModelTester(**REFUSED[reason]).config())


def test_folder_is_the_engines_and_transformers(tmp_path, tiny_tokenizer):
    model = trained_like()
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    sizes = {}
    for dtype in ("fp32", "int8"):
        report = export_ctranslate2(tmp_path / "model", tmp_path / dtype, dtype=dtype)
        sizes[dtype] = report.bytes
        assert (
            json.loads((tmp_path / dtype / "export.json").read_text())["mean_logit_error"] == report.mean_logit_error
        )
    assert sizes["int8"] < 0.5 * sizes["fp32"]
    folder = tmp_path / "fp32"
    assert AutoConfig.from_pretrained(folder).decoder.num_hidden_layers == 2
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(["hello"], return_tensors="pt")
    with torch.no_grad():
        wanted = model.generate(**ids, max_new_tokens=9, do_sample=False)
    assert torch.equal(load_exported(folder).generate(**ids, max_new_tokens=9), wanted)
    # without this package
    translator = ctranslate2.Translator(str(folder))
    tokens = translator.translate_batch(
        [tokenizer.convert_ids_to_tokens(ids["input_ids"][0])],
        beam_size=1,
        max_decoding_length=9,
        return_end_token=True,
    )[0].hypotheses[0]
    assert tokenizer.convert_tokens_to_ids(tokens) == wanted[0, 1:].tolist()


def test_export_that_computes_something_else_leaves_no_folder(tmp_path, tiny_model, monkeypatch):
    tiny_model.save_pretrained(tmp_path / "model")
    monkeypatch.setattr("encdec_slm.export.ctranslate2_spec.ACTIVATIONS", {"gelu_pytorch_tanh": 0})
    with pytest.raises(ValueError, match="is not the model"):
        export_ctranslate2(tmp_path / "model", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_dtype_that_the_engine_has_not_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"int4.*fp32, fp16, int8"):
        export_ctranslate2(tmp_path / "model", tmp_path / "out", dtype="int4")


def test_kept_layers_are_refused_since_the_engine_rounds_them_when_it_loads(tmp_path, monkeypatch):
    trained_like().save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"keep was given \(lm_head\).*Export to ONNX"):
        export_ctranslate2(tmp_path / "model", tmp_path / "out", dtype="int8", keep=["lm_head"])
    rounded = export_ctranslate2(tmp_path / "model", tmp_path / "int8", dtype="int8")

    def all_but_the_head(spec, quantization):
        spec._quantize(quantization, variable_filter=lambda name: "projection" not in name)

    # the engine's own means of keeping a layer: once it makes a difference, `keep` can be written
    monkeypatch.setattr(LayerSpec, "optimize", all_but_the_head)
    assert rounded.bytes < export_ctranslate2(tmp_path / "model", tmp_path / "kept", dtype="int8").bytes
    tokens, labels = torch.arange(3, 20)[None], torch.arange(5, 25)[None]
    found = [load_exported(tmp_path / name).log_probabilities(tokens, labels) for name in ("int8", "kept")]
    assert torch.equal(*found)


def test_token_names_are_unique_and_as_many_as_the_model_has(tiny_tokenizer):
    names = token_names(tiny_tokenizer, 70)
    assert names[:60] == tiny_tokenizer.convert_ids_to_tokens(range(60))
    assert len(set(names)) == 70
    with pytest.raises(ValueError, match="60 tokens and the model 50"):
        token_names(tiny_tokenizer, 50)
