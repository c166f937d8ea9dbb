"""What an ONNX export holds, in every dtype, and what is refused before anything is written."""

import copy
import json

import numpy as np
import onnx
import pytest
import torch
from model_tester import ModelTester
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    T5Config,
    T5ForConditionalGeneration,
    pipeline,
)
from transformers.modeling_outputs import BaseModelOutput

from encdec_slm.cli import main
from encdec_slm.export import is_exported, load_exported, onnx_export
from encdec_slm.export.onnx_model import ORTEncDecSLM
from encdec_slm.export.onnx_names import DECODER_FILE, ENCODER_FILE, cache_names
from encdec_slm.export.onnx_session import check_provider
from encdec_slm.export.onnx_weights import tie_transposed
from encdec_slm.export.report import read_report


DTYPES = ("fp32", "fp16", "int8", "int4")
LAYERS = {"num_hidden_layers": 1}


@pytest.fixture(scope="module")
def source(tmp_path_factory, tiny_tokenizer):
    """A model folder: blocks of 32 weights and more, as quantisers want them."""
    folder = tmp_path_factory.mktemp("source")
    ModelTester(
        encoder=LAYERS,
        decoder=LAYERS | {"cross_attention_rope": True},
        both={"intermediate_size": 64},
        initializer_range=0.2,
    ).model().save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(source):
    return AutoModelForSeq2SeqLM.from_pretrained(source).eval()


@pytest.fixture(scope="module")
def traced_once(model):
    """Lets all exports have one trace, since that takes most of the time.

    In the graph of a larger model the head is the transposed embedding; here the exporter would copy it.
    """
    traced = onnx_export.trace(model, onnx_export.DEFAULT_OPSET)
    traced = {file: tie_transposed(graph) for file, graph in traced.items()}
    assert "Transpose" in {node.op_type for node in traced[DECODER_FILE].graph.node if "lm_head.weight" in node.input}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "trace", lambda *options: copy.deepcopy(traced))
        yield


@pytest.fixture(scope="module")
def exported(source, traced_once, tmp_path_factory):
    """Folders of every dtype, written by the command."""
    folder = tmp_path_factory.mktemp("exported")
    for dtype in DTYPES:
        assert main(["export", str(source), str(folder / dtype), "--format", "onnx", "--dtype", dtype]) == 0
    return folder


def words(count, length=9):
    """Word-like inputs of unequal lengths, padded."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, length + 1, size=count)
    mask = torch.from_numpy(np.arange(length)[None] < lengths[:, None]).long()
    return {"input_ids": torch.from_numpy(random.integers(9, 60, size=(count, length))) * mask, "attention_mask": mask}


def test_a_hundred_inputs_have_the_tokens_of_the_model(exported, model):
    inputs, runtime = words(100), load_exported(exported / "fp32", threads=1)
    expected = model.generate(**inputs, max_new_tokens=12)
    assert torch.equal(runtime.generate(**inputs, max_new_tokens=12), expected)
    lean = runtime.greedy(**inputs, max_new_tokens=12)
    assert np.array_equal(lean, expected.numpy())
    assert len({tuple(row) for row in expected.tolist()}) > 20


@pytest.mark.parametrize(
    "search",
    [
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 2},
        {"use_cache": False},
        {"do_sample": True, "num_return_sequences": 2},
    ],
    ids=str,
)
def test_every_search_gives_what_the_model_gives(exported, model, search):
    inputs, answers = words(3), []
    for one in (model, load_exported(exported / "fp32", threads=1)):
        torch.manual_seed(0)
        answers.append(one.generate(**inputs, max_new_tokens=8, **search))
    assert torch.equal(*answers)


def test_logits_padded_and_alone_and_in_pieces(exported, model):
    inputs, targets = words(4), torch.randint(9, 60, (4, 5))
    runtime = load_exported(exported / "fp32", threads=1)
    expected = model(**inputs, decoder_input_ids=targets).logits
    together = runtime(**inputs, decoder_input_ids=targets).logits
    torch.testing.assert_close(together, expected, rtol=0, atol=1e-4)
    for row in range(4):
        length = int(inputs["attention_mask"][row].sum())
        step = None
        for token in targets[row]:
            step = runtime(
                inputs["input_ids"][row : row + 1, :length],
                decoder_input_ids=token[None, None],
                past_key_values=None if step is None else step.past_key_values,
            )
        torch.testing.assert_close(step.logits[0, -1], expected[row, -1], rtol=0, atol=1e-4)


def test_names_are_those_of_optimum(exported):
    encoder, decoder = (
        onnx.load(exported / "fp32" / file, load_external_data=False) for file in (ENCODER_FILE, DECODER_FILE)
    )
    assert [entry.name for entry in encoder.graph.input] == ["input_ids", "attention_mask"]
    assert [entry.name for entry in encoder.graph.output] == [
        "last_hidden_state",
        *cache_names("present", "encoder", 1),
    ]
    assert [entry.name for entry in decoder.graph.input] == [
        "input_ids",
        "encoder_attention_mask",
        "past_key_values.0.decoder.key",
        "past_key_values.0.decoder.value",
        "past_key_values.0.encoder.key",
        "past_key_values.0.encoder.value",
    ]
    sizes = [size.dim_param or size.dim_value for size in decoder.graph.input[2].type.tensor_type.shape.dim]
    assert sizes == ["batch_size", 2, "past_decoder_sequence_length", 16]
    # no place of the machine that wrote it
    assert b".py" not in (exported / "fp32" / DECODER_FILE).read_bytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_folder_is_complete_and_tells_its_error(exported, model, dtype):
    folder, report = exported / dtype, read_report(exported / dtype)
    assert {path.name for path in folder.iterdir()} == {
        ENCODER_FILE,
        DECODER_FILE,
        "model.onnx_data",
        "config.json",
        "generation_config.json",
        "export.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert "auto_map" not in json.loads((folder / "config.json").read_text())
    config = AutoConfig.from_pretrained(folder)
    assert config.to_dict() | {"_name_or_path": None} == model.config.to_dict() | {"_name_or_path": None}
    # measured again, by other means, with targets that are not the model's own
    inputs, targets = words(4), torch.randint(9, 60, (4, 5))
    runtime = load_exported(folder, threads=1)
    error = (
        runtime(**inputs, decoder_input_ids=targets).logits - model(**inputs, decoder_input_ids=targets).logits
    ).abs()
    assert error.mean() < 2 * report.mean_logit_error + 1e-6
    assert report.bytes == sum(path.stat().st_size for path in folder.glob("*.onnx*"))
    assert runtime.num_parameters() == model.num_parameters()


def test_fewer_bits_are_fewer_bytes_and_more_error(exported):
    reports = [read_report(exported / dtype) for dtype in DTYPES]
    data = [(exported / dtype / "model.onnx_data").stat().st_size for dtype in DTYPES]
    assert data[0] > data[1] > data[2]
    # matrices of 32 and 64 rows are padded to a block of 128: no less than in 8 bits at this size
    assert data[1] > data[3]
    errors = [report.mean_logit_error for report in reports]
    assert errors == sorted(errors)
    assert errors[0] < 1e-4 < errors[2]


def test_weights_are_stored_once(exported, model):
    held = (exported / "fp32" / "model.onnx_data").stat().st_size
    matrices = sum(weight.nbytes for weight in model.parameters() if weight.dim() == 2)
    # aligned, but the embedding, which encoder, decoder and head share, lies there once
    tensors = sum(weight.dim() == 2 for weight in model.parameters())
    assert matrices <= held <= matrices + 4096 * tensors


def test_kept_modules_are_kept(exported, source, tmp_path):
    report = onnx_export.export_onnx(source, tmp_path / "kept", dtype="int8", keep=["lm_head"])
    assert report.details["kept"] == ["lm_head"]
    for folder, operator in ((tmp_path / "kept", "MatMul"), (exported / "int8", "Mul")):
        graph = onnx.load(folder / DECODER_FILE, load_external_data=False).graph
        assert next(node for node in graph.node if "logits" in node.output).op_type == operator
    with pytest.raises(ValueError, match="'no_such' is in the name of no module"):
        onnx_export.export_onnx(source, tmp_path / "none", dtype="int8", keep=["no_such"])
    assert not (tmp_path / "none").exists()


def test_calibrated_activations_have_fixed_scales(exported, source, tmp_path, model):
    (tmp_path / "texts").write_text("some words\n\nmore of them\nand a third line")
    command = ["export", str(source), str(tmp_path / "out"), "--format", "onnx", "--dtype", "int8"]
    assert main([*command, "--calibrate", str(tmp_path / "texts")]) == 0
    operators = {
        node.op_type for node in onnx.load(tmp_path / "out" / DECODER_FILE, load_external_data=False).graph.node
    }
    assert "QuantizeLinear" in operators
    assert "DynamicQuantizeLinear" not in operators
    report = read_report(tmp_path / "out")
    assert report.details["calibrated"]
    # random tokens exceed the ranges of three texts: worse than scales of each call, but no nonsense
    logits = model(**words(4), decoder_input_ids=torch.randint(9, 60, (4, 5))).logits
    assert read_report(exported / "int8").mean_logit_error < report.mean_logit_error < 0.5 * logits.std()
    (tmp_path / "texts").write_text("\n")
    with pytest.raises(ValueError, match="every line of the file is blank"):
        onnx_export.export_onnx(source, tmp_path / "no", dtype="int8", calibrate=tmp_path / "texts")
    with pytest.raises(ValueError, match="no activation has a scale"):
        onnx_export.export_onnx(source, tmp_path / "no", dtype="int4", calibrate=tmp_path / "texts")


def test_pipeline(exported, source, model):
    folder = exported / "fp32"
    answers = [
        pipeline("text2text-generation", model=one, tokenizer=AutoTokenizer.from_pretrained(folder))(
            ["some", "words"], max_new_tokens=8
        )
        for one in (model, ORTEncDecSLM.from_pretrained(folder, threads=1))
    ]
    assert answers[0] == answers[1]


def test_half_an_export_is_refused(exported, tmp_path):
    for name in (ENCODER_FILE, "model.onnx_data", "config.json", "export.json"):
        folder = tmp_path / name
        folder.mkdir()
        for path in (exported / "fp32").iterdir():
            if path.name != name:
                (folder / path.name).write_bytes(path.read_bytes())
        assert is_exported(folder)
        with pytest.raises(ValueError, match=f"half an export: {name}|cannot load .*{DECODER_FILE[:7]}|cannot load"):
            load_exported(folder)


def test_a_graph_newer_than_the_runtime_is_refused(exported, tmp_path):
    for change in ("ir_version", "opset"):
        folder = tmp_path / change
        folder.mkdir()
        for path in (exported / "fp32").iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        graph = onnx.load(folder / ENCODER_FILE, load_external_data=False)
        if change == "opset":
            graph.opset_import[0].version = 99
        else:
            graph.ir_version = 99
        (folder / ENCODER_FILE).write_bytes(graph.SerializeToString())
        with pytest.raises(ValueError, match="install a newer onnxruntime"):
            load_exported(folder)


def test_bad_arguments_are_refused_before_the_work(source, tmp_path, capsys):
    output = tmp_path / "out"
    for arguments, message in (
        (["--opset", "17"], "opset 17 is not supported: use a number from 18 to 25"),
        (["--static-length", "1"], "static_length (1) must be at least 2"),
        (["--keep", "lm_head"], "with the dtype fp32 all layers are alike"),
    ):
        assert main(["export", str(source), str(output), "--format", "onnx", *arguments]) == 2
        assert message in capsys.readouterr().err
        assert not output.exists()
    with pytest.raises(ValueError, match="no dtype 'int2': use one of fp32, fp16, int8, int4"):
        onnx_export.export_onnx(source, output, dtype="int2")
    folder = tmp_path / "t5"
    T5ForConditionalGeneration(T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).save_pretrained(folder)
    with pytest.raises(ValueError, match="is a t5 model"):
        onnx_export.export_onnx(folder, output)
    with pytest.raises(ValueError, match="holds no export"):
        load_exported(folder)


def test_providers_that_are_not_there_are_refused(exported):
    with pytest.raises(ValueError, match=r"the provider qnn .* is not in the installed ONNX Runtime, which has"):
        load_exported(exported / "fp32", provider="qnn")
    with pytest.raises(ValueError, match="there is no provider 'npu': use one of cpu, cuda"):
        check_provider("npu")


def test_what_the_graphs_do_not_know_is_refused(exported):
    runtime = load_exported(exported / "fp32", threads=1)
    with pytest.raises(ValueError, match="knows no padding"):
        runtime(
            **words(2),
            decoder_input_ids=torch.ones(2, 2, dtype=torch.long),
            decoder_attention_mask=torch.tensor([[0, 1], [1, 1]]),
        )
    start = torch.ones(2, 1, dtype=torch.long)
    with pytest.raises(ValueError, match="neither input_ids nor encoder_outputs"):
        runtime(decoder_input_ids=start)
    with pytest.raises(ValueError, match="BaseModelOutput without the keys and values"):
        runtime(decoder_input_ids=start, encoder_outputs=BaseModelOutput(last_hidden_state=torch.zeros(2, 3, 4)))
    with pytest.raises(ValueError, match=r"threads \(0\) must be at least 1"):
        load_exported(exported / "fp32", threads=0)
