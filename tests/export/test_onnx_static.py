"""Graphs of fixed shapes: short inputs padded, everything else as in the graphs of any shape, and limits told."""

import pytest
import torch
from model_tester import ModelTester

from encdec_slm.export import load_exported, onnx_export


LENGTH = 10
LAYERS = {"num_hidden_layers": 1}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The model, and its export."""
    folder = tmp_path_factory.mktemp("static")
    ModelTester(encoder=LAYERS, decoder=LAYERS).model().save_pretrained(folder / "source")
    onnx_export.export_onnx(folder / "source", folder / "exported", static_length=LENGTH)
    return folder


@pytest.fixture(scope="module")
def runtime(folders):
    return load_exported(folders / "exported", threads=1)


@pytest.mark.parametrize("length", [1, 7, LENGTH])
def test_answers_are_those_of_the_model(folders, runtime, length):
    model = ModelTester.model_class.from_pretrained(folders / "source").eval()
    inputs = ModelTester().row(length)
    options = {"max_new_tokens": LENGTH - 1, "min_new_tokens": LENGTH - 1}
    assert torch.equal(runtime.generate(**inputs, **options), model.generate(**inputs, **options))
    targets = ModelTester().targets(batch=1, length=LENGTH)
    expected = model(**inputs, decoder_input_ids=targets).logits
    torch.testing.assert_close(runtime(**inputs, decoder_input_ids=targets).logits, expected, rtol=0, atol=1e-4)


def test_no_shape_is_free(runtime):
    engine = runtime.engine
    entries = [entry for session in (engine.encoder, engine.decoder) for entry in session.get_inputs()]
    assert all(isinstance(size, int) for entry in entries for size in entry.shape)
    assert "decoder_attention_mask" in {entry.name for entry in entries}


def test_what_does_not_fit_is_refused(runtime):
    with pytest.raises(ValueError, match=f"1 rows of {LENGTH + 1} tokens, .* static, for one row of at most {LENGTH}"):
        runtime.generate(**ModelTester().row(LENGTH + 1))
    with pytest.raises(ValueError, match="2 rows of 4 tokens"):
        runtime.generate(**ModelTester().inputs((4, 3)))
    with pytest.raises(ValueError, match=f"writes {LENGTH} tokens at most"):
        runtime(**ModelTester().row(3), decoder_input_ids=ModelTester().targets(1, LENGTH + 1))
    with pytest.raises(ValueError, match="2 beams or samples"):
        runtime.generate(**ModelTester().row(3), num_beams=2, max_new_tokens=4)
