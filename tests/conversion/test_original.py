"""A converted checkpoint computes what the original computes; what fits nowhere is refused and nothing is written."""

import json

import pytest
import torch
from original_variants import VARIANTS, load_variant
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForSeq2SeqLM, GenerationConfig

from encdec_slm.conversion import convert_original


TOLERANCE = {"atol": 1e-4, "rtol": 0}


@pytest.fixture(scope="module", params=["mu_text_tiny", *VARIANTS])
def converted(request, tmp_path_factory):
    """A variant and the model loaded from its converted folder."""
    variant = load_variant(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = variant.save(folder / "model.pt")
    convert_original(checkpoint, folder / "converted", config=variant.config_path)
    return variant, AutoModelForSeq2SeqLM.from_pretrained(folder / "converted").eval()


def masks(case, pad_token_id):
    """The masks that the original derives from the ids, whatever it is given."""
    return {
        "attention_mask": (case["input_ids"] != pad_token_id).long(),
        "decoder_attention_mask": (case["decoder_input_ids"] != pad_token_id).long(),
    }


@torch.no_grad()
def test_forward_equals_the_original(converted):
    variant, model = converted
    pad = variant.config["pad_token_id"]
    for case in variant.cases:
        outputs = model(
            input_ids=case["input_ids"],
            decoder_input_ids=case["decoder_input_ids"],
            labels=case["targets"].masked_fill(case["targets"] == pad, -100),
            **masks(case, pad),
        )
        torch.testing.assert_close(outputs.encoder_last_hidden_state, case["encoder_last_hidden_state"], **TOLERANCE)
        torch.testing.assert_close(outputs.logits, case["logits"], **TOLERANCE)
        torch.testing.assert_close(outputs.loss.reshape(()), case["loss"].reshape(()), **TOLERANCE)


def test_greedy_tokens_equal_the_original(converted):
    variant, model = converted
    pad = variant.config["pad_token_id"]
    for case in variant.cases:
        tokens = model.generate(
            case["input_ids"],
            attention_mask=masks(case, pad)["attention_mask"],
            max_new_tokens=case["greedy"].shape[1] - 1,
            do_sample=False,
        )
        assert tokens.tolist() == case["greedy"].tolist()


def test_generation_stops_at_the_stated_eos(variant, tmp_path):
    case = variant.cases[0]
    eos = case["greedy"][0, 3].item()
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**variant.config, "eos_token_id": eos}))
    convert_original(variant.save(tmp_path / "model.pt"), tmp_path / "out", config=config)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    mask = masks(case, variant.config["pad_token_id"])["attention_mask"]
    tokens = model.generate(case["input_ids"], attention_mask=mask, max_new_tokens=24, do_sample=False)
    for row, expected in zip(tokens.tolist(), case["greedy"].tolist(), strict=True):
        length = expected.index(eos) + 1 if eos in expected else len(expected)
        assert row[:length] == expected[:length]
        assert set(row[length:]) <= {variant.config["pad_token_id"]}


def test_dynamic_ntk_decodes_with_a_cache_up_to_block_size(tmp_path):
    variant = load_variant("dynamic_ntk")
    convert_original(variant.save(tmp_path / "model.pt"), tmp_path / "out", config=variant.config_path)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    block_size = variant.config["block_size"]
    for case in variant.cases:
        output = model.generate(
            case["input_ids"],
            attention_mask=masks(case, 0)["attention_mask"],
            max_length=block_size,
            do_sample=False,
            return_dict_in_generate=True,
        )
        assert output.past_key_values.get_seq_length() == block_size - 1
        assert output.sequences.tolist() == case["greedy"][:, :block_size].tolist()


def test_folder_says_what_the_checkpoint_is(variant, tmp_path):
    convert_original(variant.save(tmp_path / "model.pt"), tmp_path / "out", config=variant.config_path)
    config = AutoConfig.from_pretrained(tmp_path / "out")
    stated = variant.config
    assert (config.encoder.num_hidden_layers, config.decoder.num_hidden_layers) == (2, 1)
    for stack in (config.encoder, config.decoder):
        assert stack.num_attention_heads * stack.head_dim == stated["qkv_embd"]
        assert stack.num_key_value_heads == stated["n_kv_head"]
        assert stack.max_position_embeddings == stated["block_size"]
        assert stack.dropout == stack.attention_dropout == stated["dropout"]
    generation = GenerationConfig.from_pretrained(tmp_path / "out")
    assert generation.decoder_start_token_id == generation.bos_token_id == 1
    assert generation.pad_token_id == stated["pad_token_id"]


def test_rope_factor_becomes_dynamic_scaling(tmp_path):
    variant = load_variant("dynamic_ntk")
    convert_original(variant.save(tmp_path / "model.pt"), tmp_path / "out", config=variant.config_path)
    config = AutoConfig.from_pretrained(tmp_path / "out")
    expected = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
    assert config.encoder.rope_parameters == config.decoder.rope_parameters == expected


def logits_of(folder, case, pad_token_id):
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    with torch.no_grad():
        return model(
            case["input_ids"], decoder_input_ids=case["decoder_input_ids"], **masks(case, pad_token_id)
        ).logits


def save_bare(variant, path):
    torch.save(variant.tensors, path)


def save_with_head(variant, path):
    torch.save({"model_state_dict": {**variant.tensors, "lm_head.weight": variant.tensors[EMBEDDING].clone()}}, path)


def save_with_training_state(variant, path):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    variant.save(path, optimizer_state_dict=optimizer.state_dict(), global_step=7, score=-0.5)


def save_legacy(variant, path):
    torch.save({"model_state_dict": variant.tensors}, path, _use_new_zipfile_serialization=False)


EMBEDDING = "transformer.wte.weight"
FORMS = {
    "bare.pt": save_bare,
    "head.pt": save_with_head,
    "training.pt": save_with_training_state,
    "legacy.bin": save_legacy,
    "model.safetensors": lambda variant, path: save_file(variant.tensors, path),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_the_checkpoint_gives_the_same_model(name, variant, tmp_path):
    FORMS[name](variant, tmp_path / name)
    convert_original(tmp_path / name, tmp_path / "out", config=variant.config_path)
    logits = logits_of(tmp_path / "out", variant.cases[0], variant.config["pad_token_id"])
    torch.testing.assert_close(logits, variant.cases[0]["logits"], **TOLERANCE)


def test_bfloat16_stays_bfloat16(variant, tmp_path):
    tensors = {name: tensor.bfloat16() for name, tensor in variant.tensors.items()}
    torch.save({"model_state_dict": tensors}, tmp_path / "model.pt")
    convert_original(tmp_path / "model.pt", tmp_path / "out", config=variant.config_path)
    assert AutoConfig.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    assert torch.equal(saved["model.encoder.norm.weight"], tensors["transformer.ln_e.weight"])


def test_mixed_dtypes_lose_no_bit(variant, tmp_path):
    tensors = {name: tensor if ".ln" in name else tensor.half() for name, tensor in variant.tensors.items()}
    torch.save(tensors, tmp_path / "model.pt")
    convert_original(tmp_path / "model.pt", tmp_path / "out", config=variant.config_path)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float32
    assert torch.equal(model.model.decoder.norm.weight, tensors["transformer.ln_f.weight"])


def test_sizes_and_key_value_heads_come_from_the_tensors(variant, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({name: variant.config[name] for name in ("n_head", "block_size", "pad_token_id")}))
    convert_original(variant.save(tmp_path / "model.pt"), tmp_path / "out", config=config)
    logits = logits_of(tmp_path / "out", variant.cases[0], variant.config["pad_token_id"])
    torch.testing.assert_close(logits, variant.cases[0]["logits"], **TOLERANCE)


def test_configuration_saved_by_the_trainer_is_used(variant, tmp_path):
    checkpoint = variant.save(tmp_path / "model.pt", model_config=variant.config, global_step=3)
    convert_original(checkpoint, tmp_path / "out")
    logits = logits_of(tmp_path / "out", variant.cases[0], variant.config["pad_token_id"])
    torch.testing.assert_close(logits, variant.cases[0]["logits"], **TOLERANCE)


def test_file_wins_over_the_saved_configuration_with_a_warning(variant, tmp_path, warnings_of_the_library):
    checkpoint = variant.save(tmp_path / "model.pt", model_config={**variant.config, "block_size": 99})
    convert_original(checkpoint, tmp_path / "out", config=variant.config_path)
    assert AutoConfig.from_pretrained(tmp_path / "out").encoder.max_position_embeddings == 32
    assert "block_size is 99" in " ".join(warnings_of_the_library())


def test_assumed_fields_are_told(variant, tmp_path, warnings_of_the_library):
    convert_original(variant.save(tmp_path / "model.pt"), tmp_path / "out")
    assert "n_head=6" in " ".join(warnings_of_the_library())
    assert "pad_token_id=0" in " ".join(warnings_of_the_library())
