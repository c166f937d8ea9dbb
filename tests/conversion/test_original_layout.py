"""Tensors that are not the original's are named, all of them, and nothing else."""

import pytest
import torch

from encdec_slm.conversion.original_layout import EMBEDDING, LM_HEAD, group_query_heads, measure


def test_sizes_are_the_tensors(variant):
    config = variant.config
    sizes = measure(variant.tensors)
    assert {name: size for name, size in sizes.items() if name in config} == {
        name: config[name]
        for name in ("n_encoder_layer", "n_decoder_layer", "n_embd", "qkv_embd", "hidden_dim", "vocab_size")
    }
    assert sizes["kv_embd"] == config["qkv_embd"] // config["n_head"] * config["n_kv_head"]


def test_all_faults_are_listed_at_once(variant, refused, tmp_path):
    tensors = dict(variant.tensors)
    missing = ["transformer.e.1.attn.q_linear.bias", "transformer.ln_f.weight"]
    for name in missing:
        del tensors[name]
    tensors["transformer.h.0.cross_attn.rotary"] = torch.ones(3)
    tensors["lm_head.bias"] = torch.ones(64)
    tensors["transformer.e.0.mlp.fc1.weight"] = torch.ones(48, 31)
    tensors["transformer.h.0.mlp.fc2.bias"] = torch.ones(1, 32)
    tensors["transformer.ln_e.weight"] = torch.ones(32, dtype=torch.int8)
    torch.save({"model_state_dict": tensors}, tmp_path / "model.pt")
    message = refused(tmp_path / "model.pt", config=variant.config_path)
    for fault in (
        f"missing {', '.join(sorted(missing, reverse=True))}",
        "unknown transformer.h.0.cross_attn.rotary, lm_head.bias",
        "transformer.e.0.mlp.fc1.weight has the shape (48, 31) instead of (48, 32)",
        "transformer.h.0.mlp.fc2.bias has the shape (1, 32) instead of (32,)",
        "transformer.ln_e.weight has the dtype torch.int8",
    ):
        assert fault in message
    assert len(message.split("; ")) == 5


def test_one_wrong_tensor_is_named_alone(variant):
    with pytest.raises(ValueError, match=r"original: transformer\.wte\.weight has the shape \(64, 31\)[^;]*$"):
        measure({**variant.tensors, EMBEDDING: torch.ones(64, 31)})


def test_a_lost_layer_is_missing(variant):
    tensors = {name: tensor for name, tensor in variant.tensors.items() if not name.startswith("transformer.e.0.")}
    with pytest.raises(ValueError, match=r"missing transformer\.e\.0\.ln1\.weight") as error:
        measure(tensors)
    assert "transformer.e.1." not in str(error.value)


@pytest.mark.parametrize("stack", ["e", "h"])
def test_a_stack_without_layers_is_refused(stack, variant):
    tensors = {name: tensor for name, tensor in variant.tensors.items() if f"transformer.{stack}." not in name}
    with pytest.raises(ValueError, match="coder_layer is 0"):
        measure(tensors)


def test_names_of_a_wrapped_model_are_unknown(variant):
    with pytest.raises(ValueError, match=r"unknown .*module\.transformer\.wte\.weight"):
        measure({f"module.{name}": tensor for name, tensor in variant.tensors.items()})


def test_layer_number_beyond_reason_is_unknown(variant):
    with pytest.raises(ValueError, match=r"unknown transformer\.e\.4000000000\.ln1\.weight$"):
        measure({**variant.tensors, "transformer.e.4000000000.ln1.weight": torch.ones(32)})


def test_empty_tensors_are_refused(variant):
    with pytest.raises(ValueError, match="hidden_dim is 0"):
        measure({name: tensor[:0] if ".fc1." in name else tensor for name, tensor in variant.tensors.items()})


def test_head_must_equal_the_embedding(variant):
    with pytest.raises(ValueError, match=r"lm_head\.weight differs from transformer\.wte\.weight"):
        measure({**variant.tensors, LM_HEAD: variant.tensors[EMBEDDING] + 1})


@pytest.mark.parametrize(("num_heads", "num_key_value_heads"), [(6, 3), (6, 2), (4, 1), (4, 4), (8, 2)])
@pytest.mark.parametrize("dim", [0, 1])
def test_grouped_heads_read_the_same_key_value_head(num_heads, num_key_value_heads, dim):
    # each element is the number of the original's head that it belongs to
    head_dim = 2
    heads = torch.arange(num_heads).repeat_interleave(head_dim)
    tensor = heads[:, None].expand(-1, 3) if dim == 0 else heads.expand(3, -1)
    grouped = group_query_heads(tensor, dim, num_heads=num_heads, num_key_value_heads=num_key_value_heads)
    order = grouped.select(1 - dim, 0)[::head_dim].tolist()
    assert sorted(order) == list(range(num_heads))
    groups = num_heads // num_key_value_heads
    for new, original in enumerate(order):
        assert new // groups == original % num_key_value_heads
