"""An encoder-decoder that starts from a decoder-only model computes what that model computes, as far as it can."""

import json

import pytest
import torch
from decoder_only_sources import LAYERS, SOURCES, VOCAB_SIZE, assert_same, make_source, tokens
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline
from word_tokenizers import save_word_tokenizer

from encdec_slm.conversion import convert_decoder_only, from_decoder_only
from encdec_slm.models.modeling_encdec_slm_layers import eager_attention_forward


ALL_IN_THE_DECODER = {"layers": f"0/0-{LAYERS - 1}"}


@pytest.fixture(scope="module", params=SOURCES)
def source(request):
    return make_source(request.param)


@pytest.fixture(scope="module")
def whole(source):
    """A model with all layers of the source in the decoder, which does not hear the encoder."""
    return from_decoder_only(source, **ALL_IN_THE_DECODER, cross_attention="zero").eval()


@torch.no_grad()
def test_decoder_is_the_source(source, whole):
    decoder_input_ids = tokens(3, 20)
    expected = source(decoder_input_ids).logits
    for input_ids in (tokens(3, 1), tokens(3, 9)):
        assert_same(whole(input_ids=input_ids, decoder_input_ids=decoder_input_ids).logits, expected)


@torch.no_grad()
def test_decoder_is_the_source_in_a_padded_batch(source, whole):
    decoder_input_ids = tokens(3, 12)
    mask = torch.ones_like(decoder_input_ids)
    mask[0, 7:] = mask[2, 3:] = 0
    expected = source(decoder_input_ids, attention_mask=mask).logits
    outputs = whole(input_ids=tokens(3, 5), decoder_input_ids=decoder_input_ids, decoder_attention_mask=mask)
    assert_same(outputs.logits[mask.bool()], expected[mask.bool()])


def test_cached_decoding_is_that_of_the_source(source, whole):
    prefix = tokens(1, 4)
    # `generate` would put it before another first token
    prefix[0, 0] = whole.config.decoder_start_token_id
    options = {"max_new_tokens": 12, "do_sample": False, "use_cache": True}
    expected = source.generate(prefix, attention_mask=torch.ones_like(prefix), **options)
    generated = whole.generate(tokens(1, 6), decoder_input_ids=prefix, **options)
    assert generated.tolist() == expected.tolist()
    assert len(set(expected[0].tolist())) > 3


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 3, LAYERS])
def test_encoder_is_the_source_for_one_token(source, depth):
    # attention in both directions is causal attention there
    input_ids = tokens(8, 1)
    model = from_decoder_only(source, layers=f"0-{depth - 1}/0").eval()
    states = source(input_ids, output_hidden_states=True).hidden_states
    layers = source.model.layers
    # the state before layer `depth` as that layer reads it; the library has normalised the last one already
    expected = layers[depth].input_layernorm(states[depth]) if depth < LAYERS else states[LAYERS]
    outputs = model.get_encoder()(input_ids=input_ids)
    assert_same(outputs.last_hidden_state, expected)


@torch.no_grad()
def test_encoder_of_other_layers_ends_with_the_last_norm():
    source = make_source()
    for listed in ("1-2", "0-1,3", "0,0"):
        model = from_decoder_only(source, layers=f"{listed}/0")
        assert torch.equal(model.model.encoder.norm.weight, source.model.norm.weight)


def test_each_layer_starts_from_its_own(source):
    model = from_decoder_only(source, layers="0,2/4,1,1")
    stacks = {"encoder": (0, 2), "decoder": (4, 1, 1)}
    for name, numbers in stacks.items():
        for layer, number in zip(getattr(model.model, name).layers, numbers, strict=True):
            mlp = source.model.layers[number].mlp
            assert torch.equal(layer.mlp.up_proj.weight, mlp.up_proj.weight)
            values = source.model.layers[number].self_attn.v_proj.weight
            assert torch.equal(layer.self_attn.qkv_proj.weight[-len(values) :], values)


@torch.no_grad()
def test_cross_attention_starts_from_self_attention(source):
    model = from_decoder_only(source, layers="0-1/2,4", cross_attention="self")
    for layer, number in zip(model.model.decoder.layers, (2, 4), strict=True):
        attention, copied = source.model.layers[number].self_attn, layer.encoder_attn
        assert torch.equal(copied.q_proj.weight, attention.q_proj.weight)
        keys_and_values = torch.cat((attention.k_proj.weight, attention.v_proj.weight))
        assert torch.equal(copied.kv_proj.weight, keys_and_values)
        assert torch.equal(copied.o_proj.weight, attention.o_proj.weight)
        assert torch.equal(layer.cross_attention_layernorm.weight, layer.input_layernorm.weight)
        if model.config.decoder.qk_norm:
            assert torch.equal(copied.q_norm.weight, attention.q_norm.weight)
            assert torch.equal(copied.k_norm.weight, attention.k_norm.weight)
        if attention.q_proj.bias is not None:
            biases = torch.cat((attention.k_proj.bias, attention.v_proj.bias))
            assert torch.equal(copied.kv_proj.bias, biases)


@torch.no_grad()
def test_rotated_cross_attention_computes_what_self_attention_did(source):
    """Of the source, among tokens that see each other."""
    options = {"layers": "0-1/2,4", "cross_attention": "self", "cross_attention_rope": True}
    if source.config.rope_parameters["rope_type"] == "dynamic":
        with pytest.raises(ValueError, match="cross_attention_rope does not go with rope_type 'dynamic'"):
            from_decoder_only(source, **options)
        return
    model = from_decoder_only(source, **options).eval()
    states, places = torch.randn(2, 6, model.config.decoder.hidden_size), torch.arange(6).unsqueeze(0)
    attention = source.model.layers[2].self_attn.eval()
    angles = source.model.rotary_emb(states, places)
    expected, _ = attention(states, position_embeddings=angles, attention_mask=torch.zeros(2, 1, 6, 6))
    decoder = model.get_decoder()
    ours = decoder.rotary_emb.for_heads(states, places)
    actual, _ = decoder.layers[0].encoder_attn(
        states,
        ours,
        key_value_states=states,
        key_position_embeddings=ours,
        attention_interface=eager_attention_forward,
    )
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_silent_cross_attention_learns_at_once(source):
    model = from_decoder_only(source, cross_attention="zero").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = {"input_ids": tokens(2, 6), "labels": tokens(2, 5)}
    model(**batch).loss.backward()
    attention = model.model.decoder.layers[-1].encoder_attn
    assert attention.o_proj.weight.grad.abs().max() > 0
    optimizer.step()
    optimizer.zero_grad()
    model(**batch).loss.backward()
    assert attention.q_proj.weight.grad.abs().max() > 0
    assert attention.kv_proj.weight.grad.abs().max() > 0
    assert model.model.encoder.layers[0].mlp.up_proj.weight.grad.abs().max() > 0


@torch.no_grad()
def test_source_is_not_changed_and_nothing_is_shared(source):
    input_ids = tokens(2, 5)
    before = source(input_ids).logits
    model = from_decoder_only(source, layers="0,0/0,0")
    for parameter in model.parameters():
        parameter.fill_(7.0)
    assert torch.equal(source(input_ids).logits, before)
    addresses = [parameter.data_ptr() for parameter in model.parameters()]
    assert len(set(addresses)) == len(addresses)


def test_tables_are_tied_as_in_the_source(source):
    model = from_decoder_only(source)
    config = source.config
    tied = config.tie_word_embeddings and config.model_type != "gemma"
    assert model.config.tie_word_embeddings == tied
    assert (model.lm_head.weight is model.model.encoder.embed_tokens.weight) == tied
    assert (model.model.decoder.embed_tokens.weight is model.model.encoder.embed_tokens.weight) == tied
    assert torch.equal(model.model.decoder.embed_tokens.weight, model.model.encoder.embed_tokens.weight)
    assert torch.equal(model.lm_head.weight, source.lm_head.weight)


def test_gemma_rounds_its_factor_like_the_source():
    source = make_source("gemma", hidden_size=48).to(torch.bfloat16)
    model = from_decoder_only(source)
    input_ids = tokens(1, 20)
    # the square root of 48 is no number of bfloat16
    assert torch.equal(model.model.encoder.embed_tokens(input_ids), source.model.embed_tokens(input_ids))


def test_head_that_is_not_the_embedding_stays():
    source = make_source()
    source.lm_head.weight = torch.nn.Parameter(torch.randn_like(source.lm_head.weight))
    model = from_decoder_only(source, **ALL_IN_THE_DECODER).eval()
    assert not model.config.tie_word_embeddings
    input_ids = tokens(1, 5)
    with torch.no_grad():
        assert_same(model(input_ids=input_ids, decoder_input_ids=input_ids).logits, source(input_ids).logits)


@pytest.mark.parametrize("dtype", ["auto", "float32", torch.float16])
def test_dtype(dtype):
    source = make_source().to(torch.bfloat16)
    expected = {"auto": torch.bfloat16, "float32": torch.float32}.get(dtype, dtype)
    model = from_decoder_only(source, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
    assert model.config.dtype == expected
    weight = source.model.layers[0].mlp.up_proj.weight
    assert torch.equal(model.model.encoder.layers[0].mlp.up_proj.weight, weight.to(expected))


@pytest.mark.parametrize("dtype", ["int8", "nonsense", torch.int64])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match="floating point"):
        from_decoder_only(make_source(), dtype=dtype)


@pytest.fixture
def folder(tmp_path):
    """A saved source with its tokenizer, which pads on the left and has a chat template."""
    make_source("llama3").save_pretrained(tmp_path / "source")
    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(4, VOCAB_SIZE))]
    roles = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "padding_side": "left"}
    return save_word_tokenizer(tmp_path / "source", words, chat_template="{{ messages[0]['content'] }}", **roles)


def test_folder_is_complete(folder, tmp_path):
    out = tmp_path / "out"
    conversion = convert_decoder_only(folder, out, **ALL_IN_THE_DECODER)
    assert conversion.folder == out
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    assert {"configuration_encdec_slm.py", "modeling_encdec_slm.py", "pipeline_encdec_slm.py"} <= names
    assert "AutoModelForSeq2SeqLM" in json.loads((out / "config.json").read_text())["auto_map"]
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.padding_side == "right"
    assert tokenizer.apply_chat_template([{"role": "user", "content": "w5"}], tokenize=False) == "w5"
    (answer,) = pipeline("text2text-generation", model=str(out))("w5 w6", max_new_tokens=4)
    assert len(answer["generated_text"].split()) <= 4


@torch.no_grad()
def test_saved_model_is_the_returned_one(folder, tmp_path):
    options = {"layers": "even", "cross_attention": "self", "cross_attention_rope": True}
    convert_decoder_only(folder, tmp_path / "out", **options)
    returned = from_decoder_only(folder, **options).eval()
    assert returned.config.decoder.cross_attention_rope
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").eval()
    batch = {"input_ids": tokens(2, 7), "decoder_input_ids": tokens(2, 6)}
    assert torch.equal(model(**batch).logits, returned(**batch).logits)
    for stack in ("encoder", "decoder"):
        assert getattr(model.config, stack).to_dict() == getattr(returned.config, stack).to_dict()
    assert model.generation_config.to_diff_dict() == returned.generation_config.to_diff_dict()


def test_folder_that_is_read_is_not_overwritten(folder):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match="lies in the output folder"):
        convert_decoder_only(folder, folder, overwrite=True)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "0-9"}, "5 layers, 0 to 4"),
        ({"encoder_layers": 6}, "asked for with 6 layers, but the source has 5"),
        ({"cross_attention": "none"}, "one of self, zero"),
        ({"dtype": "int8"}, "floating point"),
        ({"gguf_file": "x.gguf"}, "there is no x.gguf"),
        ({"tokenizer": "nowhere"}, "nowhere does not exist"),
    ],
)
def test_nothing_is_written_upon_an_error(options, message, folder, tmp_path):
    with pytest.raises(ValueError, match=message):
        convert_decoder_only(folder, tmp_path / "new" / "out", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_conversion_says_what_it_did(folder, tmp_path):
    conversion = convert_decoder_only(folder, tmp_path / "out", encoder_layers=3, layers="first/0,4")
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    text = str(conversion)
    assert f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters, float32" in text
    assert "encoder   3 layers from 0-2" in text
    assert "decoder   2 layers from 0,4, cross-attention zero" in text
    assert "pad 0, bos 1, eos 2, decoder_start 1" in text
