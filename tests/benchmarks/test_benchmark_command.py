"""`encdec-slm benchmark` from end to end: tables, pictures, and everything as JSON in the last line."""

import json

import pytest

from encdec_slm.benchmarks import compare
from encdec_slm.cli import main


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command, without processes of their own for the memory; returns its code, its lines and its errors."""
    monkeypatch.setattr(compare, "in_a_process_of_its_own", lambda *_: 7 * 2**20)

    def run(*arguments):
        code = main(["benchmark", *arguments, "--preset", "tiny", "--new-tokens", "3", "--repeats", "2"])
        printed = capsys.readouterr()
        return code, printed.out.strip().splitlines(), printed.err

    return run


def test_it_prints_tables_draws_pictures_and_ends_with_json(run, tmp_path):
    output = tmp_path / "x.json"
    names = ["encoder-decoder", "decoder-only"]
    code, lines, _ = run(*names, "--uncached", "--input-length", "8", "16", "--output", str(output))
    assert code == 0
    record = json.loads(lines[-1])
    assert record == json.loads(output.read_text())
    assert {path.name for path in tmp_path.iterdir()} == {"x.json", "x.png", "x_by_length.png"}
    assert [row["shape"]["input_length"] for row in record["runs"]] == [8, 16]
    for row in record["runs"]:
        found = {one["answers"]["name"]: one for one in row["results"]}
        assert [*found] == [*names, *(f"{name}, no cache" for name in names)]
        for one in found.values():
            assert one["work"]["answer_flops"] == pytest.approx(one["work"]["formula_flops"], rel=1e-4)
            assert len(one["answers"]["wall"]) == len(one["answers"]["processor"]) == 2
        assert found["decoder-only"]["work"]["cache_bytes"] > found["encoder-decoder"]["work"]["cache_bytes"]
        assert found["decoder-only, no cache"]["work"]["cache_bytes"] == 0
    assert {"processor", "threads", "torch", "transformers", "device", "energy"} <= record["conditions"].keys()
    assert record["command"].startswith(
        "encdec-slm benchmark encoder-decoder decoder-only --preset tiny --dtype float32"
    )
    assert sum(line.startswith("| encoder-decoder, no cache |") for line in lines) == 4
    assert any(line.startswith("energy: ") for line in lines)


def test_bad_input_is_told_before_anything_is_measured(run):
    code, _, error = run("t5")
    assert code == 2
    assert "a comparison needs two models or more, but 1 was given" in error
    code, _, error = run("t5", "decoder-only", "--exported", "nowhere")
    assert code == 2
    assert "nowhere" in error
