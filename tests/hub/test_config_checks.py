"""A configuration that does not describe its weights is refused before a model is built, and an honest one never."""

import resource

import pytest
import torch
from checkpoint_tester import edit_json, save_checkpoint
from foreign_models import bart, t5
from model_tester import ModelTester
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoModelForTextEncoding
from variants import VARIANTS

from encdec_slm.hub.checkpoint import fetch_checkpoint
from encdec_slm.hub.config_checks import PARTS, check_adapter, check_model_size, check_numbers, described_tensors


AUTO_CLASSES = {
    AutoModelForSeq2SeqLM: "model_class",
    AutoModel: "base_class",
    AutoModelForTextEncoding: "encoder_class",
}
# a stack that becomes wider than the other cannot share its embedding any more
REFUSED = r"by the sizes in config|cannot be built|describes the tensor decoder\.embed_tokens"
SHAPES = {"model.encoder.layers.0.weight": (32, 16), "model.encoder.layers.1.weight": (32, 16)}


def check(folder, auto_class=AutoModelForSeq2SeqLM):
    """What `load` does before it builds a model."""
    checkpoint = fetch_checkpoint(folder)
    check_model_size(AutoConfig.from_pretrained(folder), auto_class, checkpoint.shapes)


@pytest.fixture
def folder(tmp_path):
    return save_checkpoint(tmp_path / "model")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("auto_class", AUTO_CLASSES)
def test_every_model_of_ours_passes(tmp_path, variant, auto_class):
    tester = VARIANTS[variant]
    model = tester.model()
    save_checkpoint(tmp_path / "whole", model=model)
    check(tmp_path / "whole", auto_class)
    # saved alone, and loaded alone
    part = getattr(tester, AUTO_CLASSES[auto_class])(tester.config())
    save_checkpoint(tmp_path / "part", model=part)
    check(tmp_path / "part", auto_class)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("auto_class", AUTO_CLASSES)
def test_what_is_described_is_what_the_model_has(variant, auto_class):
    tester = VARIANTS[variant]
    model = getattr(tester, AUTO_CLASSES[auto_class])(tester.config())
    built = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if ".layers." not in name or ".layers.0." in name:
            built.setdefault(parameter, set()).add(name.removeprefix("model."))
    described = [(set(names), shape) for names, shape in described_tensors(model.config, PARTS[auto_class])]
    assert len(described) == len(built)
    for parameter, names in built.items():
        assert (names, tuple(parameter.shape)) in described


@pytest.mark.parametrize("layers", [(0, 2), (3, 0), (12, 1)])
def test_any_number_of_layers_passes(tmp_path, layers):
    encoder, decoder = ({"num_hidden_layers": number} for number in layers)
    check(save_checkpoint(tmp_path, model=ModelTester(encoder=encoder, decoder=decoder).model()))


def test_weights_in_shards_and_in_another_type_pass(tmp_path, tiny_model):
    check(save_checkpoint(tmp_path, model=tiny_model.to(torch.bfloat16), max_shard_size="20KB"))


@pytest.mark.parametrize("make", [t5, bart])
def test_models_of_transformers_pass(tmp_path, make):
    check(save_checkpoint(tmp_path, model=make()))


SIZES = ["hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim"]


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("factor", [2, 10**9, 10**15, 10**30])
def test_a_size_that_is_not_that_of_the_weights_is_refused(folder, stack, size, factor):
    config = AutoConfig.from_pretrained(folder)
    changes = {f"{stack}.{size}": getattr(getattr(config, stack), size) * factor}
    if size == "num_key_value_heads":
        # there are no more of them than of the others
        changes[f"{stack}.num_attention_heads"] = changes[f"{stack}.{size}"]
    edit_json(folder / "config.json", **changes)
    with pytest.raises(ValueError, match=REFUSED):
        check(folder)


@pytest.mark.parametrize("vocab_size", [61, 10**9, 10**12, 10**30])
def test_a_vocabulary_that_is_not_that_of_the_weights_is_refused(folder, vocab_size):
    edit_json(folder / "config.json", **{f"{stack}.vocab_size": vocab_size for stack in ("encoder", "decoder")})
    with pytest.raises(ValueError, match=REFUSED):
        check(folder)


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
@pytest.mark.parametrize("layers", [10**9, 10**18, 10**30])
def test_a_thousand_million_layers_are_refused_by_the_number_of_tensors(folder, stack, layers):
    edit_json(folder / "config.json", **{f"{stack}.num_hidden_layers": layers})
    with pytest.raises(ValueError, match=rf"says {stack}\.num_hidden_layers={layers}, but the weights hold \d+"):
        check(folder)


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_a_layer_more_or_less_is_refused(folder, stack):
    layers = getattr(AutoConfig.from_pretrained(folder), stack).num_hidden_layers
    edit_json(folder / "config.json", **{f"{stack}.num_hidden_layers": layers + 1})
    with pytest.raises(ValueError, match=rf"describes the tensor {stack}\.layers\.{layers}\..* do not hold it"):
        check(folder)
    edit_json(folder / "config.json", **{f"{stack}.num_hidden_layers": layers - 1})
    with pytest.raises(ValueError, match=rf"hold {stack}\.layers\.{layers - 1}\..*there are {layers - 1} layers"):
        check(folder)


def test_a_tensor_that_would_be_random_is_refused(tmp_path, tiny_model):
    state = tiny_model.state_dict()
    save_checkpoint(
        tmp_path, state_dict={name: value for name, value in state.items() if "layers.1.mlp.up" not in name}
    )
    with pytest.raises(ValueError, match=r"describes the tensor encoder\.layers\.1\.mlp\.up_proj"):
        check(tmp_path)


def test_an_encoder_alone_is_no_whole_model(tmp_path):
    save_checkpoint(tmp_path, model=ModelTester.encoder_class(ModelTester().config()))
    check(tmp_path, AutoModelForTextEncoding)
    with pytest.raises(ValueError, match="describes the tensor decoder"):
        check(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"num_layers": 10**9}, {"num_decoder_layers": 10**9}, {"d_ff": 10**12}, {"vocab_size": 10**12}, {"d_kv": 10**17}],
)
def test_models_of_transformers_cannot_grow_either(tmp_path, changes):
    save_checkpoint(tmp_path, model=t5())
    edit_json(tmp_path / "config.json", **changes)
    with pytest.raises(ValueError, match=r"describes a model|but the weights hold"):
        check(tmp_path)


def test_a_refusal_takes_no_memory(folder):
    # 4 GB of parameters, which would be there to be allocated
    edit_json(folder / "config.json", **{"encoder.intermediate_size": 2**25})
    with pytest.raises(ValueError, match="sizes in config"):
        check(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="sizes in config"):
        check(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**15  # KiB


@pytest.mark.parametrize("number", [33, 10**10])
def test_labels_without_end_are_refused(number):
    # the configuration class would write a name for each of them
    with pytest.raises(ValueError, match=rf"says num_labels={number}, but no side .* exceeds 32"):
        check_numbers({"num_labels": number}, SHAPES)
    check_numbers({"num_labels": 32}, SHAPES)


@pytest.mark.parametrize("name", ["num_hidden_layers", "n_layer", "decoder_layers", "num_blocks", "depths", "depth"])
def test_layers_are_counted_by_any_name(name):
    for value in (3, [1, 3]):
        with pytest.raises(ValueError, match=rf"says part\.{name}=3, but the weights hold 2 tensors"):
            check_numbers({"part": {name: value}}, SHAPES)
    check_numbers({"part": {name: [1, 2]}, name: 2, "max_position_embeddings": 10**6, "use_layers": True}, SHAPES)


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_a_kernel_of_the_hub_is_refused(name):
    for value in ("evil/kernel", {"encoder": "evil/kernel@main"}):
        with pytest.raises(ValueError, match="asks for the kernel 'evil/kernel"):
            check_numbers({name: value}, SHAPES)
    check_numbers({name: "sdpa"}, SHAPES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 10**9}, "says r=1000000000, but no side of a tensor of its weights exceeds 32"),
        ({"rank_pattern": {"q_proj": 10**9}}, r"says rank_pattern\.q_proj=1000000000"),
        ({"layer_replication": [[0, 10**9]]}, r"says layer_replication=1000000000"),
        ({"peft_type": "IA3"}, "peft_type='IA3', but only LORA"),
        ({"peft_type": None}, "peft_type=None"),
        ({"megatron_config": {}, "megatron_core": "antigravity"}, "'antigravity' would be imported"),
    ],
)
def test_adapters_that_grow_or_import_are_refused(changes, message):
    config = {"peft_type": "LORA", "r": 8, "rank_pattern": {}, "lora_alpha": 10**6, "megatron_config": None}
    check_adapter(config, SHAPES)
    with pytest.raises(ValueError, match=message):
        check_adapter(config | changes, SHAPES)
