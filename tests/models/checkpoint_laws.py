"""What holds for the weights of any encoder-decoder of this package: saved, loaded, shared, resized, initialised."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoModelForTextEncoding


def assert_same_weights(model, other):
    weights, others = model.state_dict(), other.state_dict()
    assert weights.keys() == others.keys()
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []


def embeddings_of(model):
    """All that the vocabulary's size decides."""
    return {
        "encoder": model.get_encoder().embed_tokens.weight,
        "decoder": model.get_decoder().embed_tokens.weight,
        "head": model.get_output_embeddings().weight,
    }


def shared(model):
    """Which embeddings are one tensor, as sets of names."""
    by_address = {}
    for name, weight in embeddings_of(model).items():
        by_address.setdefault(weight.data_ptr(), set()).add(name)
    return sorted(by_address.values(), key=sorted)


def expected_sharing(config):
    if not config.tie_word_embeddings:
        return [{"decoder"}, {"encoder"}, {"head"}]
    if config.encoder.hidden_size != config.decoder.hidden_size:
        return [{"decoder", "head"}, {"encoder"}]
    return [{"decoder", "encoder", "head"}]


class CheckpointLaws:
    """Laws of `save_pretrained`, `from_pretrained` and `resize_token_embeddings`."""

    @pytest.fixture(autouse=True)
    def _no_grad(self):
        with torch.no_grad():
            yield

    @pytest.fixture
    def arguments(self, tester):
        return {**tester.inputs(), "decoder_input_ids": tester.targets()}

    @pytest.fixture
    def folder(self, model, tmp_path):
        model.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    def test_reloaded_model_is_the_same(self, model, arguments, folder):
        loaded, report = AutoModelForSeq2SeqLM.from_pretrained(folder, output_loading_info=True)
        assert type(loaded) is type(model)
        assert not any(report.values())
        assert_same_weights(loaded, model)
        # loading states the dtype of the parts too
        model.config.encoder.dtype = model.config.decoder.dtype = model.dtype
        assert loaded.config.to_dict() == {**model.config.to_dict(), "_name_or_path": str(folder)}
        assert torch.equal(loaded(**arguments).logits, model(**arguments).logits)
        assert not loaded.training

    def test_shards_are_the_same_model(self, model, arguments, tmp_path):
        model.save_pretrained(tmp_path, max_shard_size="20KB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 2
        loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
        assert_same_weights(loaded, model)
        assert torch.equal(loaded(**arguments).logits, model(**arguments).logits)

    def test_file_holds_every_weight_once(self, model, folder):
        stored = load_file(folder / "model.safetensors")
        assert sum(weight.numel() for weight in stored.values()) == model.num_parameters()
        assert stored.keys() <= dict(model.named_parameters(remove_duplicate=False)).keys()

    def test_dtype_of_the_checkpoint_is_kept_or_chosen(self, tester, arguments, tmp_path):
        model = tester.model(initializer_range=0.1)
        assert model.dtype == torch.float32
        expected = model(**arguments).logits
        model.bfloat16().save_pretrained(tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
        kept = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
        wide = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype=torch.float32)
        for loaded, dtype in ((kept, torch.bfloat16), (wide, torch.float32)):
            assert {weight.dtype for weight in loaded.parameters()} == {dtype}
            logits = loaded(**arguments).logits
            assert logits.dtype == dtype
            # eight bits of mantissa: two or three digits
            error = (logits.float() - expected).norm() / expected.norm()
            assert 0 < error < 0.02
        assert shared(kept) == shared(wide) == expected_sharing(model.config)

    def test_device_map_places_the_model(self, model, arguments, folder):
        pytest.importorskip("accelerate")
        loaded = AutoModelForSeq2SeqLM.from_pretrained(folder, device_map="auto", max_memory={"cpu": "1GB"})
        assert {weight.device.type for weight in loaded.parameters()} == {"cpu"}
        assert torch.equal(loaded(**arguments).logits, model(**arguments).logits)

    def test_parts_offloaded_to_disk_compute_the_same(self, model, arguments, folder, tmp_path):
        accelerate = pytest.importorskip("accelerate")
        sizes = accelerate.utils.compute_module_sizes(model)
        loaded = AutoModelForSeq2SeqLM.from_pretrained(
            folder, device_map="auto", max_memory={"cpu": sizes[""] * 2 // 3}, offload_folder=tmp_path / "offload"
        )
        assert {str(device) for device in loaded.hf_device_map.values()} == {"cpu", "disk"}
        torch.testing.assert_close(loaded(**arguments).logits, model(**arguments).logits, atol=1e-3, rtol=1e-3)

    def test_base_model_loads_from_the_full_checkpoint(self, tester, model, arguments, folder):
        base = AutoModel.from_pretrained(folder)
        assert type(base) is tester.base_class
        assert_same_weights(base, model.base_model)
        assert torch.equal(base(**arguments)[0], model.base_model(**arguments)[0])

    def test_full_model_loads_from_the_base_checkpoint(self, model, tmp_path):
        model.base_model.save_pretrained(tmp_path)
        loaded, report = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
        assert_same_weights(loaded.base_model, model.base_model)
        new = set() if model.config.tie_word_embeddings else {"lm_head.weight"}
        new |= {"lm_head.bias"} if model.config.lm_head_bias else set()
        assert report["missing_keys"] == new
        assert shared(loaded) == expected_sharing(model.config)

    def test_encoder_loads_from_the_full_checkpoint(self, tester, model, arguments, folder, tmp_path):
        encoder, report = AutoModelForTextEncoding.from_pretrained(folder, output_loading_info=True)
        assert type(encoder) is tester.encoder_class
        assert not any(report.values())
        inputs = {name: value for name, value in arguments.items() if not name.startswith("decoder")}
        expected = model(**arguments).encoder_last_hidden_state
        assert torch.equal(encoder(**inputs).last_hidden_state, expected)
        # and from its own, which holds nothing of the decoder
        encoder.save_pretrained(tmp_path / "encoder")
        again = AutoModelForTextEncoding.from_pretrained(tmp_path / "encoder")
        assert torch.equal(again(**inputs).last_hidden_state, expected)
        assert sum(weight.numel() for weight in again.parameters()) < model.num_parameters()

    def test_embeddings_are_shared_as_the_configuration_says(self, model):
        assert shared(model) == expected_sharing(model.config)
        assert shared(model.to(torch.float64)) == expected_sharing(model.config)

    def test_embeddings_can_be_replaced(self, model, arguments):
        expected = model(**arguments).logits
        new = torch.nn.Embedding.from_pretrained(model.get_input_embeddings().weight.detach().clone(), freeze=False)
        model.set_input_embeddings(new)
        model.tie_weights()
        assert model.get_input_embeddings() is new
        assert model.get_encoder().embed_tokens is new
        assert shared(model) == expected_sharing(model.config)
        assert torch.equal(model(**arguments).logits, expected)

    @pytest.mark.parametrize("change", [4, -3])
    def test_resizing_keeps_the_old_tokens(self, tester, model, arguments, change, tmp_path):
        size = model.config.vocab_size + change
        kept = min(size, model.config.vocab_size)
        arguments = {name: value.clamp(max=kept - 1) for name, value in arguments.items()}
        expected = model(**arguments).logits
        embeddings = model.resize_token_embeddings(size)
        assert embeddings is model.get_input_embeddings()
        assert embeddings.num_embeddings == size
        config = model.config
        assert config.vocab_size == config.encoder.vocab_size == config.decoder.vocab_size == size
        assert {weight.shape[0] for weight in embeddings_of(model).values()} == {size}
        assert shared(model) == expected_sharing(config)
        logits = model(**arguments).logits
        assert logits.shape[-1] == size
        assert torch.equal(logits[..., :kept], expected[..., :kept])
        assert model(**arguments, labels=arguments["decoder_input_ids"]).loss.isfinite()
        model.save_pretrained(tmp_path)
        loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
        assert_same_weights(loaded, model)
        assert torch.equal(loaded(**arguments).logits, logits)

    def test_new_tokens_can_be_read_written_and_learnt(self, model, arguments):
        size = model.config.vocab_size + 4
        model.resize_token_embeddings(size)
        arguments["decoder_input_ids"][:, 1] = size - 1
        arguments["input_ids"][:, 1] = size - 2
        with torch.enable_grad():
            model(**arguments, labels=torch.full_like(arguments["decoder_input_ids"], size - 3)).loss.backward()
        for weight in embeddings_of(model).values():
            assert weight.grad.shape[0] == size
        assert embeddings_of(model)["encoder"].grad[size - 2].any()
        assert embeddings_of(model)["decoder"].grad[size - 1].any()
        assert embeddings_of(model)["head"].grad[size - 3].any()

    def test_frozen_embeddings_stay_frozen_when_resized(self, model):
        for weight in embeddings_of(model).values():
            weight.requires_grad_(False)
        model.resize_token_embeddings(model.config.vocab_size + 4)
        assert [name for name, weight in embeddings_of(model).items() if weight.requires_grad] == []

    def test_resizing_rounds_up_to_a_multiple(self, model):
        model.resize_token_embeddings(model.config.vocab_size + 1, pad_to_multiple_of=16)
        assert model.config.vocab_size == 64
        assert {weight.shape[0] for weight in embeddings_of(model).values()} == {64}
        assert model.resize_token_embeddings().num_embeddings == 64

    @pytest.mark.parametrize("part", ["base_class", "encoder_class"])
    def test_parts_can_be_resized(self, tester, model, part, tmp_path):
        part_class = getattr(tester, part)
        part = part_class(tester.config())
        part.resize_token_embeddings(70)
        assert part.get_input_embeddings().num_embeddings == 70
        part.save_pretrained(tmp_path)
        assert_same_weights(part_class.from_pretrained(tmp_path), part)

    def test_initial_weights_have_the_stated_spread(self, tester):
        model = tester.model_class(tester.config(initializer_range=0.07))
        for name, module in model.named_modules():
            # it is of the library, with a spread of its own
            if "vision_tower" in name:
                continue
            if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
                assert module.weight.std().item() == pytest.approx(0.07, rel=0.15), name
            if getattr(module, "bias", None) is not None:
                assert not module.bias.any(), name
            if name.endswith("norm"):
                assert torch.equal(module.weight, torch.ones_like(module.weight)), name

    def test_same_seed_same_weights_even_by_way_of_the_meta_device(self, tester, folder):
        torch.manual_seed(1)
        model = tester.model_class(tester.config())
        torch.manual_seed(1)
        assert_same_weights(tester.model_class(tester.config()), model)
        loaded = tester.model_class.from_pretrained(folder)
        fresh = tester.model()
        for name, buffer in fresh.named_buffers():
            assert torch.equal(loaded.get_buffer(name), buffer), name
