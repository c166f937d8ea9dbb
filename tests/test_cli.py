"""The command does what the functions do, and tells the user's mistakes in one line with exit code 2."""

import io
import re
import shutil
from pathlib import Path

import pytest
import torch
from decoder_only_sources import make_source
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, pipeline
from word_tokenizers import save_word_tokenizer

from encdec_slm.cli import main
from encdec_slm.conversion import from_decoder_only, gguf_checkpoint
from encdec_slm.conversion.decoder_only_weights import DEFAULT_CROSS_ATTENTION
from encdec_slm.conversion.layer_choice import DEFAULT_DECODER_LAYERS, DEFAULT_ENCODER_LAYERS, DEFAULT_SPLIT
from encdec_slm.models.configuration_encdec_slm import PRESETS


FIXTURES = Path(__file__).parent / "fixtures"
CHECKPOINT, CONFIG = FIXTURES / "mu_text_tiny" / "model.pt", FIXTURES / "mu_text_tiny" / "mu_config.json"


@pytest.fixture
def run(capsys):
    """Runs the command; returns exit code, standard output and standard error."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def fails(run):
    """Runs a command that must fail: no traceback, one line, exit code 2. Returns the line."""

    def fail(*arguments):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        # progress bars of the library end without a line break
        lines = [line for line in re.split(r"[\r\n]", err) if line.startswith("encdec-slm: error: ")]
        assert len(lines) == 1
        assert "Traceback" not in err
        assert err.endswith(lines[0] + "\n")
        return lines[0]

    return fail


def save_tokenizer(folder, ending="", **roles):
    words = ["<unk>", "<s>", "</s>", *(f"w{i}{ending}" for i in range(3, 40))]
    return save_word_tokenizer(folder, words, **roles)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    return save_tokenizer(folder, bos_token="<s>", eos_token="</s>", pad_token="<unk>")


@pytest.fixture(scope="module")
def model(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    assert main(["init", "tiny", str(folder), "--tokenizer", str(tokenizer), "--seed", "3"]) == 0
    return folder


def test_convert_original(run, tmp_path):
    code, out, _ = run("convert", "original", CHECKPOINT, tmp_path / "out", "--config", CONFIG)
    assert (code, out) == (0, f"wrote {tmp_path / 'out'}\n")
    assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").config.encoder.num_hidden_layers == 4


def test_converting_twice_needs_overwrite(run, fails, tmp_path):
    command = ("convert", "original", CHECKPOINT, tmp_path, "--config", CONFIG)
    (tmp_path / "notes.txt").write_text("mine")
    assert "already holds something (notes.txt)" in fails(*command)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert run(*command, "--overwrite")[0] == 0
    assert run(*command, "--overwrite")[0] == 0
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "model.safetensors").exists()


def test_conversion_errors_are_one_line(fails, tmp_path):
    assert "No such file" in fails("convert", "original", tmp_path / "model.pt", tmp_path / "out")
    (tmp_path / "config.json").write_text('{"n_embd": 65}')
    message = fails("convert", "original", CHECKPOINT, tmp_path / "out", "--config", tmp_path / "config.json")
    assert "n_embd is 65 in the configuration but 64 in the tensors" in message
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def decoder_only(tmp_path_factory):
    """A decoder-only model with the tokenizer of these tests, which pads with its end."""
    folder = tmp_path_factory.mktemp("decoder_only") / "source"
    make_source(vocab_size=40, pad_token_id=2).save_pretrained(folder)
    return save_tokenizer(folder, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def test_convert_decoder_only(decoder_only, run, tmp_path, warnings_of_the_library):
    out_folder = tmp_path / "out"
    options = ("--encoder-layers", 3, "--layers", "first/0,4", "--cross-attention", "self", "--dtype", "bfloat16")
    code, out, _ = run("convert", "decoder-only", decoder_only, out_folder, *options)
    assert code == 0
    model = AutoModelForSeq2SeqLM.from_pretrained(out_folder)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert out.startswith(f"wrote {out_folder}: {parameters:,} parameters, bfloat16\n")
    assert "encoder   3 layers from 0-2" in out
    assert "decoder   2 layers from 0,4, cross-attention self" in out
    assert "pads with 0 ('<unk>')" in " ".join(warnings_of_the_library())
    (answer,) = answers_of(out_folder, ["w3 w4"], max_new_tokens=3)
    assert len(answer.split()) <= 3


def test_convert_decoder_only_has_the_defaults_of_the_function(decoder_only, run, tmp_path):
    assert run("convert", "decoder-only", decoder_only, tmp_path / "out")[0] == 0
    written = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").state_dict()
    expected = from_decoder_only(decoder_only).state_dict()
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)


def test_help_tells_the_defaults_of_the_function(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    with pytest.raises(SystemExit):
        main(["convert", "decoder-only", "--help"])
    told = capsys.readouterr().out
    for default in (
        DEFAULT_SPLIT,
        f"{DEFAULT_ENCODER_LAYERS}/{DEFAULT_DECODER_LAYERS}",
        DEFAULT_CROSS_ATTENTION,
    ):
        assert f"(default: {default})" in told


def test_convert_decoder_only_errors_are_one_line(decoder_only, fails, tmp_path, monkeypatch):
    command = ("convert", "decoder-only", decoder_only, tmp_path / "out")
    assert "the source has 5" in fails(*command, "--decoder-layers", 6)
    assert "'1-0' in '1-0'" in fails(*command, "--layers", "1-0")
    assert "such as 2/3-1/3" in fails(*command, "--split", "half")
    assert "nowhere does not exist" in fails(*command, "--tokenizer", "nowhere")
    assert "is a file" in fails("convert", "decoder-only", CHECKPOINT, tmp_path / "out")
    monkeypatch.setattr(gguf_checkpoint, "is_gguf_available", lambda: False)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert "needs gguf" in fails("convert", "decoder-only", tmp_path / "model.gguf", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_a_started_student_adapts_to_text(decoder_only, run, fails, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    text = tmp_path / "texts.txt"
    text.write_text("\n".join(" ".join(f"w{3 + (i + j) % 37}" for j in range(16)) for i in range(60)))
    assert run("convert", "decoder-only", decoder_only, tmp_path / "student")[0] == 0
    options = (
        "--max_steps 30 --learning_rate 3e-3 --learning_rate_multipliers encoder_attn=3 --freeze ^model\\.encoder"
    )
    quiet = "--num_sentinels 9 --chunk_length 16 --use_cpu --report_to none --disable_tqdm true --save_strategy no"
    command = ["adapt", "--model_name_or_path", tmp_path / "student", "--train_file", text, *options.split()]
    code, out, _ = run(*command, *quiet.split(), "--output_dir", tmp_path / "adapted")
    assert code == 0
    before, after = (float(number) for number in re.findall(r"(\S+) (?:before|after)", out))
    assert after < before
    encoders = [
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path / name).model.encoder.layers for name in ("student", "adapted")
    ]
    frozen, learnt = (stack.state_dict() for stack in encoders)
    assert all(torch.equal(frozen[name], learnt[name]) for name in frozen)
    assert "already holds something" in fails(*command, *quiet.split(), "--output_dir", tmp_path / "adapted")


def test_presets_are_listed_with_their_parameters(run):
    code, out, _ = run("presets")
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert rows.keys() == PRESETS.keys()
    # the size of the released checkpoint
    assert rows["330m"].endswith(" 332,042,240")
    assert " 20 enc + 10 dec " in rows["330m"]


def test_printed_parameters_are_those_of_the_model(run, tmp_path):
    _, listed, _ = run("presets")
    _, written, _ = run("init", "tiny", tmp_path / "out")
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    parameters = f"{sum(parameter.numel() for parameter in model.parameters()):,}"
    assert parameters in listed
    assert parameters in written


def test_init_takes_vocabulary_and_tokens_from_the_tokenizer(model):
    config = AutoConfig.from_pretrained(model)
    assert config.vocab_size == 40
    assert (config.decoder_start_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 0)
    assert AutoTokenizer.from_pretrained(model)("w3 w4")["input_ids"] == [3, 4]


def test_init_without_bos_starts_with_padding(run, tmp_path):
    tokenizer = save_tokenizer(tmp_path / "tokenizer", eos_token="</s>", pad_token="<unk>")
    assert run("init", "tiny", tmp_path / "out", "--tokenizer", tokenizer, "--vocab-size", 64)[0] == 0
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.decoder_start_token_id, config.bos_token_id, config.vocab_size) == (0, None, 64)


def test_seed_and_dtype_decide_the_weights(run, tmp_path):
    for name, options in {"a": ["--seed", 1], "b": ["--seed", 1], "c": ["--seed", 2, "--dtype", "bfloat16"]}.items():
        assert run("init", "tiny", tmp_path / name, *options)[0] == 0
    a, b, c = (AutoModelForSeq2SeqLM.from_pretrained(tmp_path / name) for name in "abc")
    assert torch.equal(a.lm_head.weight, b.lm_head.weight)
    assert not torch.equal(a.lm_head.weight, c.lm_head.weight.float())
    assert (a.dtype, c.dtype) == (torch.float32, torch.bfloat16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gigantic",), "no preset 'gigantic'; use one of tiny"),
        (("tiny", "--vocab-size", 0), "vocab"),
        (("tiny", "--tokenizer", "nowhere"), "nowhere does not exist"),
    ],
)
def test_init_errors_write_nothing(arguments, message, fails, tmp_path):
    preset, *options = arguments
    assert message in fails("init", preset, tmp_path / "out", *options)
    assert list(tmp_path.iterdir()) == []


def test_init_needs_padding_and_end(fails, tmp_path):
    tokenizer = save_tokenizer(tmp_path / "tokenizer", bos_token="<s>")
    message = fails("init", "tiny", tmp_path / "out", "--tokenizer", tokenizer)
    assert "no eos_token and no pad_token" in message


def test_init_refuses_a_vocabulary_smaller_than_the_tokenizer(tokenizer, fails, tmp_path):
    message = fails("init", "tiny", tmp_path / "out", "--tokenizer", tokenizer, "--vocab-size", 39)
    assert "token id 39" in message


def answers_of(model, texts, **options):
    pipe = pipeline("text2text-generation", model=str(model))
    return [answer["generated_text"] for text in texts for answer in pipe(text, **options)]


def test_generate_prints_what_the_pipeline_answers(model, run):
    code, out, _ = run("generate", model, "w3 w4", "w5", "--max-new-tokens", 6)
    assert code == 0
    assert out.splitlines() == answers_of(model, ["w3 w4", "w5"], max_new_tokens=6)


def test_generate_reads_lines_and_keeps_their_number(model, run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("w3 w4\n\nw5"))
    _, out, _ = run("generate", model, "--max-new-tokens", 4)
    first, blank, last = out.splitlines()
    assert blank == ""
    assert [first, last] == answers_of(model, ["w3 w4", "w5"], max_new_tokens=4)


def test_generate_prints_several_sequences(model, run):
    options = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 5}
    flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    _, out, _ = run("generate", model, "w3 w4", "w5", *flags, "--dtype", "float32", "--device", "cpu")
    assert out.splitlines() == answers_of(model, ["w3 w4", "w5"], **options)
    assert len(out.splitlines()) == 4


def test_line_breaks_in_an_answer_stay_on_its_line(model, run, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    save_tokenizer(folder, ending="\nx", bos_token="<s>", eos_token="</s>", pad_token="<unk>")
    _, out, _ = run("generate", folder, "w3", "w4", "--max-new-tokens", 4)
    answers = answers_of(folder, ["w3", "w4"], max_new_tokens=4)
    assert all("\n" in answer for answer in answers)
    assert [line.replace("\\n", "\n") for line in out.splitlines()] == answers


def test_generate_errors_are_one_line(model, fails, tmp_path):
    assert "does not exist" in fails("generate", tmp_path / "nowhere", "w3")
    assert "no tokenizer" in fails("generate", tmp_path, "w3")
    assert "device nonsense" in fails("generate", model, "w3", "--device", "nonsense")
    assert "num_return_sequences" in fails("generate", model, "w3", "--num-return-sequences", 3)


@pytest.mark.parametrize(
    "arguments",
    [[], ["convert"], ["convert", "decoder-only", "x"], ["generate"], ["generate", "x", "--num-beams", "0"]],
)
def test_incomplete_commands_show_their_usage(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: encdec-slm" in capsys.readouterr().err
