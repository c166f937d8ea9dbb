"""The ONNX export of a model that reads images: in every dtype what PyTorch answers, whatever images a row has."""

import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline
from vision_tester import IMAGE_TOKEN, WITH_IMAGE_TOKEN, VisionTester, processor_of, with_image_token

from encdec_slm.cli import _load_exported, main
from encdec_slm.evaluation.examples import Example
from encdec_slm.evaluation.model_loading import load_respondent
from encdec_slm.evaluation.tasks import find_task
from encdec_slm.export import ORTEncDecSLM, ORTEncDecSLMVision, is_exported, load_exported, onnx_export
from encdec_slm.export.ctranslate2_export import export_ctranslate2
from encdec_slm.export.onnx_names import CROSS_FILE, DECODER_FILE, EMBED_FILE, ENCODER_FILE, VISION_FILE
from encdec_slm.export.report import read_report


DTYPES = ("fp32", "fp16", "int8", "int4")
GRAPHS = {ENCODER_FILE, DECODER_FILE, VISION_FILE, EMBED_FILE}
SIZES = ((8, 8), (30, 41), (6, 20))


def tiny(**encoder):
    """A tester with tiles, newlines, a budget met by resampling and CLS: of all images' layouts what can go wrong.

    Where no states are averaged, cross-attention compares places.
    """
    options = copy.deepcopy(WITH_IMAGE_TOKEN)
    options["both"] |= {"intermediate_size": 64, "num_hidden_layers": 1}
    return VisionTester(
        tower={"num_hidden_layers": 2},
        encoder={"kept_prefix_tokens": 1, **encoder},
        decoder={"cross_attention_rope": "image_state_pooling" not in encoder},
        initializer_range=0.2,
        **options,
    )


@pytest.fixture(scope="module")
def processor(tiny_tokenizer):
    return processor_of(tiny(), with_image_token(tiny_tokenizer))


@pytest.fixture(scope="module")
def source(tmp_path_factory, processor):
    folder = tmp_path_factory.mktemp("source")
    tiny().model().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(source):
    return AutoModelForImageTextToText.from_pretrained(source).eval()


@pytest.fixture(scope="module")
def exported(source, model, tmp_path_factory):
    """Folders of every dtype, written by the command from one trace."""
    folder = tmp_path_factory.mktemp("exported")
    traced = onnx_export.trace(model, onnx_export.DEFAULT_OPSET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "trace", lambda *options: copy.deepcopy(traced))
        for dtype in DTYPES:
            assert main(["export", str(source), str(folder / dtype), "--format", "onnx", "--dtype", dtype]) == 0
    return folder


@pytest.fixture(scope="module")
def runtime(exported):
    return load_exported(exported / "fp32", threads=1)


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in SIZES]


@pytest.fixture(scope="module")
def rows(images):
    """Texts with one image, with none and with two of unequal sizes."""
    return [
        (f"{IMAGE_TOKEN}what", images[:1]),
        ("words alone", []),
        (f"from {IMAGE_TOKEN}to{IMAGE_TOKEN}", images[1:]),
    ]


def read(processor, rows):
    texts, pictures = zip(*rows, strict=True)
    flat = [image for row in pictures for image in row]
    return processor(images=flat or None, text=list(texts), padding=True, return_tensors="pt")


def test_answers_are_those_of_the_model(runtime, model, processor, rows):
    assert type(runtime) is ORTEncDecSLMVision
    inputs = read(processor, rows)
    for search in ({}, {"num_beams": 3, "num_return_sequences": 2}):
        options = {"max_new_tokens": 12, "do_sample": False, **search}
        assert torch.equal(runtime.generate(**inputs, **options), model.generate(**inputs, **options))
    greedy = runtime.greedy(**{name: value.numpy() for name, value in inputs.items()}, max_new_tokens=12)
    assert np.array_equal(greedy, model.generate(**inputs, max_new_tokens=12, do_sample=False).numpy())


def test_logits_of_a_batch_and_of_each_row(runtime, model, processor, rows):
    inputs, targets = read(processor, rows), torch.randint(9, 60, (3, 5))
    expected = model(**inputs, decoder_input_ids=targets).logits
    together = runtime(**inputs, decoder_input_ids=targets)
    torch.testing.assert_close(together.logits, expected, rtol=0, atol=1e-4)
    for i, row in enumerate(rows):
        alone = runtime(**read(processor, [row]), decoder_input_ids=targets[i : i + 1]).logits
        torch.testing.assert_close(alone, expected[i : i + 1], rtol=0, atol=1e-4)
    # the images count: with others the logits are others
    inputs["pixel_values"] = inputs["pixel_values"].flip(-1)
    changed = (runtime(**inputs, decoder_input_ids=targets).logits - expected).abs().amax(dim=(1, 2))
    assert (changed > 1e-3).tolist() == [True, False, True]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_tells_its_error(exported, model, processor, rows, dtype):
    folder, report = exported / dtype, read_report(exported / dtype)
    code = {path.name for path in folder.glob("*.py")}
    assert "processing_encdec_slm_vision.py" in code
    assert not any(name.startswith("modeling") for name in code)
    assert {path.name for path in folder.iterdir()} - code == {
        *GRAPHS,
        "model.onnx_data",
        "config.json",
        "generation_config.json",
        "export.json",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    assert "auto_map" not in json.loads((folder / "config.json").read_text())
    # what is written beside the graphs reads as what lay beside the weights
    inputs, targets = read(AutoProcessor.from_pretrained(folder), rows), torch.randint(9, 60, (3, 5))
    for name, value in read(processor, rows).items():
        assert torch.equal(inputs[name], value)
    expected = model(**inputs, decoder_input_ids=targets).logits
    error = (load_exported(folder, threads=1)(**inputs, decoder_input_ids=targets).logits - expected).abs()
    assert error.mean() < 2 * report.mean_logit_error + 1e-6
    assert report.mean_logit_error < {"fp32": 1e-5, "fp16": 5e-3}.get(dtype, 0.2) * expected.std()


def test_fewer_bits_are_fewer_bytes_and_more_error(exported):
    errors = [read_report(exported / dtype).mean_logit_error for dtype in DTYPES]
    assert errors == sorted(errors)
    data = [(exported / dtype / "model.onnx_data").stat().st_size for dtype in DTYPES]
    assert data[0] > data[1] > data[2]


def test_pipeline(runtime, exported, model, images, caplog):
    processor, answers = AutoProcessor.from_pretrained(exported / "fp32"), []
    for one in (model, runtime):
        pipe = pipeline("image-text-to-text", model=one, processor=processor, device="cpu")
        texts = [f"{IMAGE_TOKEN}what", f"who{IMAGE_TOKEN}"]
        answers.append(pipe(images=images[:2], text=texts, max_new_tokens=8, return_full_text=False))
        chat = [{"role": "user", "content": [{"type": "image", "image": images[2]}, {"type": "text", "text": "a"}]}]
        answers[-1] += pipe(text=chat, max_new_tokens=8, return_full_text=False)
    assert answers[0] == answers[1]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_an_export_is_scored_as_the_model(exported, source, images):
    examples = [Example(number=i, prompt="{image}what", references=("a",), copied="what") for i in range(2)]
    answers = []
    for folder in (source, exported / "fp32"):
        one = load_respondent(str(folder), find_task("images"), device="cpu", loaders=[_load_exported])
        answers.append(one.answer(examples, [[image] for image in images[1:]], {"max_new_tokens": 8}))
    assert type(one.model) is ORTEncDecSLMVision
    assert answers[0] == answers[1]


def test_what_does_not_fit_is_refused(runtime, exported, processor, rows, source, tmp_path):
    inputs, start = read(processor, rows), torch.ones(3, 1, dtype=torch.long)
    with pytest.raises(ValueError, match=r"has \d+ image tokens, but the images have 0 features"):
        runtime(inputs["input_ids"], decoder_input_ids=start)
    with pytest.raises(ValueError, match="image_sizes None"):
        runtime(inputs["input_ids"], pixel_values=inputs["pixel_values"], decoder_input_ids=start)
    with pytest.raises(ValueError, match="holds an encdec_slm_vision model, but ORTEncDecSLM runs encdec_slm"):
        ORTEncDecSLM.from_pretrained(exported / "fp32")
    for name in (VISION_FILE, EMBED_FILE):
        folder = tmp_path / name
        folder.mkdir()
        for path in (exported / "fp32").iterdir():
            if path.name != name:
                (folder / path.name).write_bytes(path.read_bytes())
        assert is_exported(folder)
        with pytest.raises(ValueError, match=f"half an export: {name} is missing"):
            load_exported(folder)
    (tmp_path / "texts").write_text("some words")
    with pytest.raises(ValueError, match="on texts alone, and this model reads images"):
        onnx_export.export_onnx(source, tmp_path / "out", dtype="int8", calibrate=tmp_path / "texts")
    averaging = tiny(image_state_pooling=3)
    averaging.decoder["cross_attention_rope"] = True
    averaging.model().save_pretrained(tmp_path / "both")
    with pytest.raises(ValueError, match="not told which of the averaged states are padding"):
        onnx_export.export_onnx(tmp_path / "both", tmp_path / "out")
    with pytest.raises(ValueError, match=r"static_length is 9, but an image of one view takes \d+ tokens"):
        onnx_export.export_onnx(source, tmp_path / "out", static_length=9)
    assert not (tmp_path / "out").exists()


def test_ctranslate2_says_who_reads_images(source, tmp_path):
    with pytest.raises(ValueError, match="reads images, which CTranslate2 does not: export it with --format onnx"):
        export_ctranslate2(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("static_length", [None, 80])
def test_averaged_states_and_static_graphs(processor, rows, tmp_path, static_length):
    model = tiny(image_state_pooling=3).model()
    model.save_pretrained(tmp_path / "source")
    processor.save_pretrained(tmp_path / "source")
    onnx_export.export_onnx(tmp_path / "source", tmp_path / "out", static_length=static_length)
    runtime, options = load_exported(tmp_path / "out", threads=1), {"max_new_tokens": 9, "do_sample": False}
    engine = runtime.engine
    sessions = (engine.encoder, engine.decoder, engine.embedder, engine.tower, engine.projector)
    sizes = [size for session in sessions for entry in session.get_inputs() for size in entry.shape]
    assert all(isinstance(size, int) for size in sizes) == (static_length is not None)
    for row in rows:
        inputs = read(processor, [row])
        assert torch.equal(runtime.generate(**inputs, **options), model.generate(**inputs, **options))
        targets = torch.randint(9, 60, (1, 5))
        expected = model(**inputs, decoder_input_ids=targets).logits
        torch.testing.assert_close(runtime(**inputs, decoder_input_ids=targets).logits, expected, rtol=0, atol=1e-4)
    inputs = read(processor, rows)
    if static_length is None:
        assert torch.equal(runtime.generate(**inputs, **options), model.generate(**inputs, **options))
        (tmp_path / "out" / CROSS_FILE).unlink()
        with pytest.raises(ValueError, match=f"half an export: {CROSS_FILE} is missing"):
            load_exported(tmp_path / "out")
    else:
        with pytest.raises(ValueError, match=r"3 rows of .* static, for one row of at most 80"):
            runtime.generate(**inputs)
