"""A converted vision checkpoint computes what the original computes from the same PNG files."""

import json
import shutil

import pytest
import torch
from fresh_process import run_python
from original_variants import contents
from original_vision_variants import NAMES, TINY, VARIANTS, folder_of, load_cases
from test_remote_code import HIDE_THE_PACKAGE
from transformers import (
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    AutoProcessor,
    GenerationConfig,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionImageProcessorPil,
)
from transformers.utils import is_torchvision_available

from encdec_slm.cli import main
from encdec_slm.conversion import convert_original_vision


TOLERANCE = {"atol": 1e-4, "rtol": 0}
PICTURE = VARIANTS / "image_3.png"


@pytest.fixture(scope="module", params=NAMES)
def converted(request, tmp_path_factory):
    """The cases of a checkpoint, and the model loaded from its converted folder.

    Without a tokenizer, since the words of the cases are any tokens.
    """
    folder = tmp_path_factory.mktemp(request.param) / "converted"
    convert_original_vision(folder_of(request.param), folder)
    return load_cases(request.param), AutoModelForImageTextToText.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def with_tokenizer(tiny_tokenizer, tmp_path_factory):
    """The folder of a converted checkpoint with a tokenizer, which had no token for images."""
    folder = tmp_path_factory.mktemp("with_tokenizer")
    tiny_tokenizer.save_pretrained(folder / "tokenizer")
    return convert_original_vision(TINY, folder / "converted", tokenizer=folder / "tokenizer")


def preprocessing(name):
    stated = json.loads((folder_of(name) / "vision_tower" / "preprocessor_config.json").read_text())
    return {key: stated[key] for key in ("image_mean", "image_std")}


def look(case):
    """Pixel values of all pictures of a case, padded to as many views, and their sizes."""
    most = max(len(views) for views in case.pixel_values)
    padded = [torch.cat([views, views.new_zeros(most - len(views), *views.shape[1:])]) for views in case.pixel_values]
    sizes = torch.tensor([[image.height, image.width] for image in case.images])
    return {"pixel_values": torch.stack(padded), "image_sizes": sizes}


@pytest.mark.parametrize("name", NAMES)
def test_pixels_equal_the_original(name, tiny_tokenizer, tmp_path):
    folder = shutil.copytree(folder_of(name), tmp_path / "original")
    tiny_tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | {"pad_token_id": tiny_tokenizer.pad_token_id}
    (folder / "config.json").write_text(json.dumps(config))
    convert_original_vision(folder, tmp_path / "out")
    processors = {"pil": AutoProcessor.from_pretrained(tmp_path / "out", backend="pil")}
    assert isinstance(processors["pil"].image_processor, LlavaOnevisionImageProcessorPil)
    if is_torchvision_available():
        processors["torchvision"] = AutoProcessor.from_pretrained(tmp_path / "out", backend="torchvision")
        assert isinstance(processors["torchvision"].image_processor, LlavaOnevisionImageProcessor)
    # torchvision rounds between its passes; where it shows most are hard edges, enlarged
    levels = 1 if name == TINY.name else 2
    deviation = torch.tensor(preprocessing(name)["image_std"])[:, None, None]
    for case in load_cases(name):
        for image, pixels, features in zip(case.images, case.pixel_values, case.image_features, strict=True):
            for backend, processor in processors.items():
                inputs = processor(images=image, text="<image>", return_tensors="pt")
                difference = (inputs["pixel_values"][0] - pixels) * deviation * 255
                assert difference.abs().max() <= (0 if backend == "pil" else levels + 1e-3), backend
                assert inputs["input_ids"].shape == (1, len(features))


@torch.no_grad()
def test_image_features_equal_the_original(converted):
    cases, model = converted
    for case in cases:
        features = model.get_image_features(**look(case)).pooler_output
        assert len(features) == len(case.image_features)
        for ours, expected in zip(features, case.image_features, strict=True):
            torch.testing.assert_close(ours, expected, **TOLERANCE)


@torch.no_grad()
def test_forward_equals_the_original(converted):
    cases, model = converted
    pad = model.config.pad_token_id
    for case in cases:
        expected, inputs = case.expected, case.inputs(model.config.image_token_id, pad)
        outputs = model(
            **inputs,
            **look(case),
            decoder_input_ids=expected["decoder_input_ids"],
            decoder_attention_mask=(expected["decoder_input_ids"] != pad).long(),
            labels=expected["labels"],
        )
        seen = inputs["attention_mask"].bool()
        assert outputs.encoder_last_hidden_state.shape == expected["encoder_last_hidden_state"].shape
        torch.testing.assert_close(
            outputs.encoder_last_hidden_state[seen], expected["encoder_last_hidden_state"][seen], **TOLERANCE
        )
        torch.testing.assert_close(outputs.logits, expected["logits"], **TOLERANCE)
        torch.testing.assert_close(outputs.loss.reshape(()), expected["loss"].reshape(()), **TOLERANCE)


def test_greedy_tokens_equal_the_original(converted):
    cases, model = converted
    for case in cases:
        expected = case.expected["greedy"]
        inputs = case.inputs(model.config.image_token_id, model.config.pad_token_id)
        tokens = model.generate(**inputs, **look(case), max_new_tokens=expected.shape[1] - 1, do_sample=False)
        assert tokens.tolist() == expected.tolist()


def test_seq2seq_class_computes_the_same(with_tokenizer):
    inputs = AutoProcessor.from_pretrained(with_tokenizer)(images=str(PICTURE), text="<image>ab", return_tensors="pt")
    models = [auto.from_pretrained(with_tokenizer) for auto in (AutoModelForImageTextToText, AutoModelForSeq2SeqLM)]
    first, second = (model.generate(**inputs, max_new_tokens=5, do_sample=False).tolist() for model in models)
    assert first == second


def test_command_does_what_the_function_does(with_tokenizer, tmp_path, capsys):
    out, tokenizer = str(tmp_path / "out"), str(with_tokenizer.parent / "tokenizer")
    tower = str(TINY / "vision_tower")
    command = ["convert", "original-vision", str(TINY), out, "--vision-tower", tower, "--tokenizer", tokenizer]
    assert main(command) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    assert contents(tmp_path / "out") == contents(with_tokenizer)
    assert main(command) == 2
    assert "already holds something" in capsys.readouterr().err


def test_folder_names_the_code_of_the_vision_model(with_tokenizer):
    stated = json.loads((with_tokenizer / "config.json").read_text())["auto_map"]
    assert stated["AutoConfig"] == "configuration_encdec_slm_vision.EncDecSLMVisionConfig"
    assert stated["AutoModelForImageTextToText"].endswith(".EncDecSLMVisionForConditionalGeneration")


def test_image_token_is_added_and_the_others_are_kept(with_tokenizer, tiny_tokenizer):
    processor = AutoProcessor.from_pretrained(with_tokenizer)
    model = AutoModelForImageTextToText.from_pretrained(with_tokenizer)
    assert model.config.image_token_id == processor.image_token_id == len(tiny_tokenizer)
    assert processor.tokenizer("ab c")["input_ids"] == tiny_tokenizer("ab c")["input_ids"]
    generation = GenerationConfig.from_pretrained(with_tokenizer)
    assert generation.decoder_start_token_id == tiny_tokenizer.bos_token_id
    assert generation.eos_token_id == tiny_tokenizer.eos_token_id


def test_prompt_is_that_of_the_original(with_tokenizer):
    # what its `conv_templates["mu_v1"]` makes of "<image>\n" and a question
    expected = (
        "Answer the following question based only on the context.\n"
        "###Question: \nWhat color is the dog?\n"
        "###Context: <image>"
    )
    processor = AutoProcessor.from_pretrained(with_tokenizer)
    parts = [{"type": "image"}, {"type": "text", "text": "What color is the dog?"}]
    assert processor.apply_chat_template([{"role": "user", "content": parts}]) == expected
    assert processor.apply_chat_template([{"role": "user", "content": parts[::-1]}]) == expected
    text_only = [{"role": "user", "content": "Who?"}]
    assert processor.apply_chat_template(text_only).endswith("\n###Question: Who?")
    with pytest.raises(Exception, match="one message"):
        processor.apply_chat_template([*text_only, {"role": "assistant", "content": "He"}, *text_only])


def test_bfloat16_stays_bfloat16(vision_folder, tmp_path):
    tensors = torch.load(vision_folder / "pytorch_model.bin", weights_only=True)
    torch.save({name: tensor.bfloat16() for name, tensor in tensors.items()}, vision_folder / "pytorch_model.bin")
    convert_original_vision(vision_folder, tmp_path / "out")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    newline = tensors["image_newline"].bfloat16()
    assert torch.equal(model.model.encoder.image_newline.weight[0], newline)


ANSWER = (
    HIDE_THE_PACKAGE
    + """
import json
from transformers import AutoModelForImageTextToText, AutoModelForSeq2SeqLM, AutoProcessor

folder, picture = sys.argv[1:]
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True, backend="pil")
parts = [{"type": "image", "path": picture}, {"type": "text", "text": "ab"}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": parts}], tokenize=True, return_dict=True, return_tensors="pt"
)
answers = {}
for auto_class in (AutoModelForImageTextToText, AutoModelForSeq2SeqLM):
    model = auto_class.from_pretrained(folder, trust_remote_code=True)
    tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    answers[auto_class.__name__] = [type(model).__module__.split(".")[0], tokens.tolist()]
print(json.dumps(answers))
"""
)


def test_folder_answers_about_a_picture_without_this_package(with_tokenizer, tmp_path):
    done = run_python("-c", ANSWER, with_tokenizer, PICTURE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    processor = AutoProcessor.from_pretrained(with_tokenizer, backend="pil")
    model = AutoModelForImageTextToText.from_pretrained(with_tokenizer)
    parts = [{"type": "image", "path": str(PICTURE)}, {"type": "text", "text": "ab"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": parts}], tokenize=True, return_dict=True, return_tensors="pt"
    )
    tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False).tolist()
    expected = ["transformers_modules", tokens]
    answers = json.loads(done.stdout.splitlines()[-1])
    assert answers == {"AutoModelForImageTextToText": expected, "AutoModelForSeq2SeqLM": expected}
