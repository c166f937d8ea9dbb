"""Versions of the ONNX operators: the first and the last one that is offered, and one that PyTorch cannot write."""

import onnx
import pytest
import torch
from model_tester import ModelTester

from encdec_slm.export import load_exported, onnx_export
from encdec_slm.export.onnx_names import DECODER_FILE, ENCODER_FILE
from encdec_slm.export.onnx_trace import FREE, Part, write


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    layers = {"num_hidden_layers": 1}
    ModelTester(encoder=layers, decoder=layers).model().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("opset", [onnx_export.OPSETS[0], onnx_export.OPSETS[-1]])
def test_first_and_last_opset(source, tmp_path, opset):
    # it compares logits and tokens itself, and refuses graphs that compute something else
    report = onnx_export.export_onnx(source, tmp_path / "out", opset=opset)
    assert report.equal_greedy_tokens == 1
    for file in (ENCODER_FILE, DECODER_FILE):
        graph = onnx.load(tmp_path / "out" / file, load_external_data=False)
        assert {entry.domain: entry.version for entry in graph.opset_import}[""] == opset
    assert load_exported(tmp_path / "out", threads=1).generate(**ModelTester().row(4), max_new_tokens=3).shape[0] == 1


class Mean(torch.nn.Module):
    """An operator that the exporter has from opset 18 on and cannot convert down."""

    input_names, output_names = ("numbers",), ("means",)

    def forward(self, numbers):
        return numbers.mean(-1)


def test_what_stays_at_another_opset_is_refused():
    part = Part(Mean(), [torch.zeros(2, 3)], [{0: FREE}])
    assert write(part, 18, is_static=False).opset_import[0].version == 18
    with pytest.raises(ValueError, match=r"opset 17 was asked for, but PyTorch .* could write opset 18 alone"):
        write(part, 17, is_static=False)
