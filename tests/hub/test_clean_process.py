"""The check sees whether a folder works without this package, and whether it computes the same there.

That whole folders pass and code that needs the package does not is seen in `test_push`, as a process takes its time.
"""

import shutil

import pytest
import torch
from model_tester import VOCAB_SIZE, ModelTester
from push_tester import FAKE_TOKEN, save_model

from encdec_slm.hub import clean_process
from encdec_slm.hub.clean_process import LONGEST_ERROR, check_in_clean_process, error_of, probe_inputs


@pytest.fixture(scope="module")
def saved(tiny_tokenizer, tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("saved") / "model", tiny_tokenizer)


@pytest.fixture
def folder(saved, tmp_path):
    """A model folder that a test may change."""
    return shutil.copytree(saved, tmp_path / "model")


def append(path, text):
    path.write_text(f"{path.read_text()}\n{text}\n")


def test_the_process_has_no_login_and_no_network(folder, saved, monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MY_SECRET"):
        monkeypatch.setenv(name, FAKE_TOKEN)
    monkeypatch.setenv("MKL_CBWR", "AUTO")
    append(
        folder / "configuration_encdec_slm.py",
        "import os, sys\n"
        "from huggingface_hub import constants, get_token\n"
        "raise RuntimeError([name for name, value in os.environ.items() if value.startswith('hf_')], get_token(),\n"
        "    constants.HF_HUB_OFFLINE, 'MKL_CBWR' in os.environ, 'encdec_slm' in sys.modules)",
    )
    with pytest.raises(ValueError, match=r"RuntimeError: \(\[\], None, True, True, False\)"):
        check_in_clean_process(folder, source=saved)


@pytest.fixture
def fake_process(monkeypatch):
    """Lets the process give what the source gives, after a change."""

    def fake(change):
        def outputs(folder, inputs, arguments):
            found = clean_process.script.folder_outputs(str(folder), inputs, trust_remote_code=False, **arguments)
            change(found)
            return found

        monkeypatch.setattr(clean_process, "_outputs_in_clean_process", outputs)

    return fake


@pytest.mark.parametrize("name", ["output", "generated", "tokens"])
def test_one_bit_is_a_difference(saved, fake_process, name):
    def last_bit(outputs):
        last = outputs[name].flatten()[-1:]
        last.copy_(torch.nextafter(last, last + 1) if last.is_floating_point() else last + 1)

    fake_process(last_bit)
    with pytest.raises(ValueError, match=rf"the {name} of the model differs by up to \d"):
        check_in_clean_process(saved, source=saved)


def test_what_is_missing_or_of_another_kind_is_a_difference(saved, fake_process):
    fake_process(lambda outputs: outputs.pop("tokens"))
    with pytest.raises(ValueError, match="gives nothing as tokens, with it int64 of"):
        check_in_clean_process(saved, source=saved)
    fake_process(lambda outputs: outputs.update(output=outputs["output"].half()))
    with pytest.raises(ValueError, match=r"gives float16 of \(2, 5, 60\) as output, with it float32 of \(2, 5, 60\)"):
        check_in_clean_process(saved, source=saved)


def test_weights_that_are_missing_are_named(tmp_path):
    model = ModelTester().model()
    weights = {name: tensor for name, tensor in model.state_dict().items() if "q_proj" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match=r"lack model\.decoder\.layers\.0\.\S*q_proj"):
        check_in_clean_process(tmp_path, source=tmp_path)


def test_nan_is_refused(tmp_path, fake_process):
    model = ModelTester().model()
    torch.nn.init.constant_(model.model.decoder.norm.weight, float("nan"))
    model.save_pretrained(tmp_path)
    fake_process(lambda outputs: None)
    with pytest.raises(ValueError, match="computes NaN"):
        check_in_clean_process(tmp_path, source=tmp_path)


def test_the_input_is_always_the_same_and_within_the_vocabulary(saved):
    first, second = probe_inputs(saved), probe_inputs(saved)
    for name, value in first.items():
        assert torch.equal(value, second[name])
        assert value.max() < VOCAB_SIZE
    assert first["attention_mask"].sum(dim=1).tolist() == [8, 5]


def test_the_last_words_of_a_process_are_its_error():
    traceback = 'Loading weights: 100%\nTraceback (most recent call last):\n  File "a.py", line 1\n    f()\n    ^^^\n'
    assert error_of(f"{traceback}ValueError: no\nway\n\n") == "ValueError: no way"
    assert error_of("Loading\nKilled\n") == "Killed"
    assert error_of("") == ""
    assert len(error_of(f"{traceback}ValueError: {'long ' * 1000}")) < LONGEST_ERROR + 10
