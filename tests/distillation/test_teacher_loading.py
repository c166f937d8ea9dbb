"""A teacher is the same however it was loaded, and what would be another model is refused."""

import pytest
import torch
from foreign_models import VOCAB_SIZE, bart, llama, t5
from image_tester import image_teacher
from peft import LoraConfig, PeftModel, get_peft_model
from teacher_tester import STRONG, adapter, llama_again, some_inputs
from transformers import (
    AutoModelForCausalLM,
    BitNetQuantConfig,
    LlamaForSequenceClassification,
    LlamaModel,
    LlavaForConditionalGeneration,
)
from transformers.quantizers import AutoHfQuantizer

from encdec_slm.distillation.heads import GivenLogits
from encdec_slm.distillation.teacher_loading import load_teacher
from encdec_slm.distillation.teachers import Teacher, teacher_fingerprint


def test_by_name(checkpoint):
    teacher = load_teacher(checkpoint)
    assert teacher.tokenizer.get_vocab()["</s>"] == teacher.pad_token_id + 2
    assert teacher.vocab_size == VOCAB_SIZE
    assert teacher.device.type == "cpu"
    wanted = Teacher(llama_again(), teacher.tokenizer).predict(some_inputs()).logits()
    torch.testing.assert_close(teacher.predict(some_inputs()).logits(), wanted)


def test_a_model_of_images_by_name_brings_its_processor(tmp_path):
    model, processor = image_teacher("llava")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    teacher = load_teacher(tmp_path)
    assert isinstance(teacher.model, LlavaForConditionalGeneration)
    assert type(teacher.processing_class) is type(processor)
    assert teacher.reader is not None
    inputs = some_inputs()
    wanted = Teacher(model, processor).predict(inputs).logits()
    torch.testing.assert_close(teacher.predict(inputs).logits(), wanted)


def test_the_dtype_is_that_of_the_checkpoint_or_as_asked(tmp_path, tiny_tokenizer):
    llama_again().to(torch.bfloat16).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    assert load_teacher(tmp_path).model.dtype == torch.bfloat16
    options = {"dtype": "float32", "attn_implementation": "eager"}
    teacher = load_teacher(tmp_path, init_kwargs=options)
    assert teacher.model.dtype == torch.float32
    assert teacher.model.config._attn_implementation == "eager"


def test_an_adapter_by_name_brings_its_base(checkpoint, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(checkpoint)
    get_peft_model(base, LoraConfig(**STRONG)).save_pretrained(tmp_path / "adapter")
    teacher = load_teacher(tmp_path / "adapter", init_kwargs={"attn_implementation": "eager"})
    inputs = some_inputs()
    on_top = load_teacher(checkpoint, adapters=tmp_path / "adapter")
    torch.testing.assert_close(teacher.predict(inputs).logits(), on_top.predict(inputs).logits())
    plain = load_teacher(checkpoint).predict(inputs).logits()
    assert not torch.allclose(teacher.predict(inputs).logits(), plain, atol=0.1)


def test_merged_and_unmerged_adapters_say_the_same(checkpoint, adapters):
    inputs = some_inputs()
    unmerged = load_teacher(checkpoint, adapters=adapters["first"])
    merged = load_teacher(checkpoint, adapters=adapters["first"], merge_adapter=True)
    assert not any("lora" in name for name in merged.model.state_dict())
    torch.testing.assert_close(
        merged.predict(inputs).logits(), unmerged.predict(inputs).logits(), rtol=1e-5, atol=1e-5
    )
    base = load_teacher(checkpoint).predict(inputs).logits()
    assert (unmerged.predict(inputs).logits() - base).abs().max() > 0.1


def test_an_adapter_of_the_head_is_not_forgotten(checkpoint, tmp_path):
    inputs = some_inputs()
    for name, options in {
        "lora": {"target_modules": ["q_proj", "lm_head"]},
        "saved": {"modules_to_save": ["lm_head"], "target_modules": ["q_proj"]},
    }.items():
        path = adapter(tmp_path / name, 0, **options)
        unmerged = load_teacher(checkpoint, adapters=path)
        merged = load_teacher(checkpoint, adapters=path, merge_adapter=True)
        assert isinstance(unmerged.predict(inputs), GivenLogits)
        torch.testing.assert_close(
            merged.predict(inputs).logits(), unmerged.predict(inputs).logits(), rtol=1e-4, atol=1e-4
        )


def test_what_cannot_be_merged(checkpoint, adapters, tiny_tokenizer):
    with pytest.raises(ValueError, match="takes one adapter, but the teacher has 2"):
        load_teacher(checkpoint, adapters=adapters, merge_adapter=True)
    with pytest.raises(ValueError, match="the teacher has 0"):
        load_teacher(checkpoint, merge_adapter=True)
    quantized = llama_again()
    quantized.hf_quantizer = AutoHfQuantizer.from_config(BitNetQuantConfig(), pre_quantized=True)
    with pytest.raises(ValueError, match="'default' is quantised"):
        load_teacher(quantized, tokenizer=tiny_tokenizer, adapters=adapters["first"], merge_adapter=True)


def test_encoder_decoders_are_refused(tmp_path, tiny_tokenizer):
    for model in (bart(), t5()):
        with pytest.raises(ValueError, match=rf"encoder-decoder \({type(model).__name__}\)"):
            load_teacher(model, tokenizer=tiny_tokenizer)
        folder = tmp_path / type(model).__name__
        model.save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        with pytest.raises(ValueError, match=rf"encoder-decoder \({type(model).__name__}\)"):
            load_teacher(folder)


@pytest.mark.parametrize("model_class", [LlamaModel, LlamaForSequenceClassification])
def test_models_that_predict_no_token_are_refused(model_class, tiny_tokenizer):
    model = model_class(llama().config)
    with pytest.raises(ValueError, match=f"a {model_class.__name__}, which predicts no next token"):
        load_teacher(model, tokenizer=tiny_tokenizer)


def test_what_does_not_fit_together(checkpoint, adapters, tiny_tokenizer):
    model = llama_again()
    with pytest.raises(ValueError, match="pass its tokenizer"):
        load_teacher(model)
    with pytest.raises(ValueError, match="dtype"):
        load_teacher(model, tokenizer=tiny_tokenizer, init_kwargs={"dtype": "float32"})
    with pytest.raises(ValueError, match="adapters is empty"):
        load_teacher(model, tokenizer=tiny_tokenizer, adapters={})
    adapted = PeftModel.from_pretrained(model, adapters["first"])
    with pytest.raises(ValueError, match="has adapters already"):
        load_teacher(adapted, tokenizer=tiny_tokenizer, adapters=adapters)
    with pytest.raises(ValueError, match="no adapter 'third'"):
        Teacher(adapted, tiny_tokenizer, adapters=("default", "third"))
    with pytest.raises(ValueError, match="no adapter 'first'"):
        Teacher(llama(), tiny_tokenizer, adapters=("first",))


def test_a_head_on_disk_is_asked_for_its_logits(checkpoint, tmp_path):
    options = {"device_map": {"model": "cpu", "lm_head": "disk"}, "offload_folder": str(tmp_path / "offloaded")}
    placed, inputs = load_teacher(checkpoint, init_kwargs=options), some_inputs()
    assert placed.is_placed
    found = placed.to("meta").predict(inputs)
    assert isinstance(found, GivenLogits)
    torch.testing.assert_close(found.logits(), load_teacher(checkpoint).predict(inputs).logits())
    with pytest.raises(ValueError, match=r"lm_head\.weight is offloaded"):
        teacher_fingerprint(placed)
