"""What the files of a folder say of a model is read off them, and nothing else is claimed."""

import json

import pytest
from card_tester import REPO_ID, front_matter, saved_model, saved_vision_model
from model_tester import ModelTester
from transformers import LlavaConfig
from vision_tester import WITH_IMAGE_TOKEN, VisionTester

from encdec_slm.hub.card import card_for_folder, render
from encdec_slm.hub.card_facts import SEQ_TO_SEQ, Stack, facts_from_config, facts_from_folder


@pytest.fixture(scope="module")
def folder(tiny_tokenizer, tmp_path_factory):
    return saved_model(tmp_path_factory.mktemp("hub"), tiny_tokenizer)


def test_sizes_are_those_of_the_model(folder):
    facts = facts_from_folder(folder, repo_id=REPO_ID)
    model = ModelTester().model()
    assert facts.parameters == model.num_parameters()
    assert facts.vocab_size == model.config.vocab_size
    assert facts.tokenizer == "Unigram"
    for stack in facts.stacks:
        config = getattr(model.config, stack.name)
        for field in set(Stack.__dataclass_fields__) - {"name"}:
            assert getattr(stack, field) == getattr(config, field)
    assert f"| parameters | {model.num_parameters():,} |" in str(render(facts))


def test_parameters_of_shards_are_those_of_the_whole(tmp_path):
    model = ModelTester().model()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len([*tmp_path.glob("*.safetensors")]) > 2
    assert facts_from_folder(tmp_path, repo_id=REPO_ID).parameters == model.num_parameters()


def test_no_number_of_parameters_where_tensors_do_not_tell_it(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert facts_from_folder(tmp_path, repo_id=REPO_ID).parameters is None
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert facts_from_folder(tmp_path, repo_id=REPO_ID).parameters is not None
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
    assert facts_from_folder(tmp_path, repo_id=REPO_ID).parameters is None


def test_given_facts_come_before_those_of_the_files(folder):
    facts = facts_from_folder(folder, repo_id=REPO_ID, parameters=5, license="mit", tokenizer="ours")
    assert (facts.parameters, facts.license, facts.tokenizer) == (5, "mit", "ours")


@pytest.mark.parametrize("architectures", [["BertForSequenceClassification"], [], None, "x", [None], [["x"]]])
def test_a_model_of_another_kind_is_refused(architectures):
    with pytest.raises(ValueError, match="a card is made for") as refused:
        facts_from_config({"model_type": "bert", "architectures": architectures}, repo_id=REPO_ID)
    is_named = architectures == ["BertForSequenceClassification"]
    assert str(refused.value) == (
        "a card is made for models of AutoModelForImageTextToText, AutoModelForSeq2SeqLM, AutoModelForCausalLM, "
        "AutoModelForTextEncoding, AutoModel, and "
        f"{'BertForSequenceClassification' if is_named else 'a model without architectures'} is none: "
        "write its README.md yourself"
    )


def adapter_folder(folder, **config):
    folder.mkdir()
    fields = {"peft_type": "LORA", "task_type": "SEQ_2_SEQ_LM", "base_model_name_or_path": "user/base", **config}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    return folder


def test_card_of_an_adapter_names_its_base(tmp_path):
    text = card_for_folder(adapter_folder(tmp_path / "adapter"), REPO_ID)
    data = front_matter(text)
    assert (data["base_model"], data["library_name"], "lora" in data["tags"]) == ("user/base", "peft", True)
    assert "(https://huggingface.co/user/base)" in text


@pytest.mark.parametrize("is_relative", [True, False])
def test_card_of_an_adapter_says_nothing_of_a_folder_of_this_machine(
    tmp_path, monkeypatch, is_relative, warnings_of_the_library
):
    (tmp_path / "outputs/student").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    base = "outputs/student" if is_relative else str(tmp_path / "outputs/student")
    text = card_for_folder(adapter_folder(tmp_path / "adapter", base_model_name_or_path=base), REPO_ID)
    assert "outputs" not in text
    assert "base_model" not in front_matter(text)
    assert "pass base_model" in warnings_of_the_library()[0]


def test_an_adapter_without_a_task_is_known_by_the_class_of_its_base(tmp_path):
    mapping = {"base_model_class": "EncDecSLMForConditionalGeneration", "parent_library": "x"}
    folder = adapter_folder(tmp_path / "adapter", task_type=None, auto_mapping=mapping)
    assert facts_from_folder(folder, repo_id=REPO_ID).loader is SEQ_TO_SEQ
    with pytest.raises(ValueError, match="a model without architectures is none"):
        facts_from_folder(adapter_folder(tmp_path / "other", task_type=None), repo_id=REPO_ID)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        card_for_folder(tmp_path, REPO_ID)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json"):
        card_for_folder(tmp_path, REPO_ID)


def test_card_of_a_model_that_sees_tells_of_its_tower(tiny_tokenizer, tmp_path):
    folder = saved_vision_model(tmp_path, tiny_tokenizer)
    facts = facts_from_folder(folder, repo_id=REPO_ID)
    config = VisionTester(**WITH_IMAGE_TOKEN).config()
    halves = {"vision tower": config.encoder.vision_config, "encoder": config.encoder, "decoder": config.decoder}
    for stack, (name, half) in zip(facts.stacks, halves.items(), strict=True):
        assert (stack.name, stack.num_hidden_layers, stack.hidden_size) == (
            name, half.num_hidden_layers, half.hidden_size,
        )  # fmt: skip
    assert facts.processor == "EncDecSLMVisionProcessor"
    assert facts.vocab_size == config.vocab_size
    assert front_matter(str(render(facts))) == {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["encoder-decoder"],
    }


def test_a_decoder_only_model_that_sees_is_none_of_both():
    config = {**LlavaConfig().to_dict(), "architectures": ["LlavaForConditionalGeneration"]}
    facts = facts_from_config(config, repo_id=REPO_ID, processor="LlavaProcessor")
    assert (facts.loader.auto_class, facts.loader.tags) == ("AutoModelForImageTextToText", ())
    text = str(render(facts))
    assert "AutoProcessor.from_pretrained" in text
    assert "encdec_slm" not in text


def test_card_of_an_encoder_tells_of_the_encoder_alone(folder):
    config = {**ModelTester().config().to_dict(), "architectures": ["EncDecSLMEncoder"]}
    facts = facts_from_config(config, repo_id=REPO_ID)
    assert [stack.name for stack in facts.stacks] == ["encoder"]
    assert facts.loader.auto_class == "AutoModelForTextEncoding"
    assert "decoder" not in front_matter(str(render(facts))).get("tags", [])
