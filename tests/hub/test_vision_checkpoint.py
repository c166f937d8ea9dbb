"""A model that sees images is pushed and loaded with its processor, as checked as a text model."""

import shutil

import numpy as np
import pytest
import torch
from checkpoint_tester import edit_json, save_checkpoint
from vision_tester import IMAGE_TOKEN, WITH_IMAGE_TOKEN, VisionTester, processor_of, with_image_token

from encdec_slm import EncDecSLMVisionForConditionalGeneration, EncDecSLMVisionProcessor
from encdec_slm.hub import clean_process, load, push
from encdec_slm.hub.clean_process import check_in_clean_process, probe_inputs


REPO = "tester/vision"
TESTER = VisionTester(**WITH_IMAGE_TOKEN)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny_tokenizer):
    processor = processor_of(TESTER, with_image_token(tiny_tokenizer))
    return save_checkpoint(tmp_path_factory.mktemp("vision") / "saved", processor, TESTER.model())


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the checkpoint that a test may change."""
    return shutil.copytree(saved, tmp_path / "model")


@torch.no_grad()
def answers(loaded):
    """Returns the logits of an image with a text, and of a text alone."""
    image = np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8)
    inputs = loaded.processing_class(
        images=[[image], []], text=[f"{IMAGE_TOKEN}what", "no"], padding=True, return_tensors="pt"
    )
    return loaded.model.eval()(**inputs, decoder_input_ids=torch.tensor([[1, 9], [1, 9]])).logits


@pytest.mark.usefixtures("quick_clean_process")
def test_what_is_pushed_is_checked_with_an_image_and_loaded_with_installed_classes(local_hub, saved):
    said = []
    push(saved, REPO, report=said.append)
    assert said[1] == "checked: works without encdec_slm, and computes the same"
    files = local_hub.files(REPO)
    assert files.keys() == {".gitattributes", "README.md", *(path.name for path in saved.iterdir())}
    assert {"processor_config.json", "processing_encdec_slm_vision.py", "modeling_encdec_slm_vision.py"} < files.keys()
    loaded = load(REPO, verify=True)
    assert type(loaded.model) is EncDecSLMVisionForConditionalGeneration
    assert type(loaded.processing_class) is EncDecSLMVisionProcessor
    assert torch.equal(answers(loaded), answers(load(saved)))


def test_model_and_processor_objects_are_saved_first(local_hub, saved, tiny_tokenizer):
    processor = processor_of(TESTER, with_image_token(tiny_tokenizer))
    plan = push(TESTER.model(), REPO, processing_class=processor, check=False, dry_run=True).plan
    assert {file.path for file in plan.files} == {"README.md", *(path.name for path in saved.iterdir())}


@pytest.mark.parametrize("name", ["processing_encdec_slm_vision.py", "modeling_encdec_slm_vision_layers.py"])
def test_its_code_is_verified_and_not_run(folder, saved, name):
    (folder / name).write_text("raise SystemExit")
    with pytest.raises(ValueError, match=rf"{name} \(different\)"):
        load(folder, verify=True)
    assert torch.equal(answers(load(folder)), answers(load(saved)))


def test_a_processor_that_is_not_installed_is_not_run_without_trust(folder):
    (folder / "processing_evil.py").write_text("raise SystemExit")
    for file in ("processor_config.json", "tokenizer_config.json"):
        edit_json(folder / file, auto_map={"AutoProcessor": "processing_evil.Evil"}, processor_class="Evil")
    with pytest.raises(ValueError, match=r"no installed class for AutoProcessor .*processing_evil\.py"):
        load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder.vision_config.hidden_size": 2**24},
        {"encoder.vision_config.num_hidden_layers": 10**9},
        {"encoder.vision_hidden_size": 2**40},
        {
            "encoder.image_token_compression": "pixel_shuffle",
            "encoder.pixel_shuffle_factor": None,
            "encoder.patches_per_side": 2**40,
        },
    ],
)
def test_a_tower_that_would_take_terabytes_is_refused(folder, changes):
    edit_json(folder / "config.json", **changes)
    with pytest.raises(ValueError, match=r"config\.json (says|describes|does not say)"):
        load(folder)


def test_a_model_with_pixel_shuffle_is_loaded(tmp_path):
    tester = VisionTester(encoder={"image_token_compression": "pixel_shuffle", "max_image_tokens": 60})
    assert load(save_checkpoint(tmp_path, model=tester.model())).model.config.encoder.pixel_shuffle_factor > 1


def test_the_check_compares_what_the_model_makes_of_an_image(saved, monkeypatch):
    def outputs(folder, inputs, arguments):
        found = clean_process.script.folder_outputs(str(folder), inputs, trust_remote_code=False, **arguments)
        assert {"image pixel_values", "image input_ids", "image generated"} < found.keys()
        return found | {"image output": found["image output"] + 1}

    monkeypatch.setattr(clean_process, "_outputs_in_clean_process", outputs)
    with pytest.raises(ValueError, match="the image output of the model differs by up to 1"):
        check_in_clean_process(saved, source=saved)


def test_the_rows_of_the_check_without_an_image_hold_no_token_of_one(saved):
    inputs = probe_inputs(saved)
    assert not (inputs["input_ids"] == TESTER.config().image_token_id).any()
    assert inputs["image"].shape == (90, 130, 3)
