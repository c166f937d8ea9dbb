"""The comparison of engines: what is measured, kept over a cut, held to goals and written into the README."""

import json

import engine_speed
import engine_speed_report
import pytest
from engine_contestants import ENGINES, Place
from engine_speed_report import GOALS, goals_table, report, table
from readme_blocks import markers


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("engines")


def run(place, **changes):
    flags = {
        "preset": "tiny", "input_lengths": (6, 4), "new_tokens": 3, "repeats": 3, "seconds": 0,
        "only": ("T5 float32", "PyTorch int8", "CTranslate2 int8"), "output": place, "results": place / "record.json",
    } | changes  # fmt: skip
    argv = []
    for name, value in flags.items():
        argv += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,))]
    engine_speed.main(argv)
    return json.loads((place / "record.json").read_text())


def test_all_take_turns_and_a_cut_run_goes_on(place, monkeypatch, capsys):
    write = engine_speed.Record.write

    def cut(record, measured=()):
        write(record, measured)
        # in the second turn of the second length
        if record.finished and measured and measured[0]["turns"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine_speed.Record, "write", cut)
        with pytest.raises(KeyboardInterrupt):
            run(place)
    first = json.loads((place / "record.json").read_text())
    assert first["finished_lengths"] == [6]
    assert [row["turns"] for row in first["measurements"]] == [2, 2, 2, 2, 1]
    record = run(place)
    assert record["measurements"][:3] == first["measurements"][:3]
    # peers are asked at the first length alone, and where time is up there are two turns
    assert [(row["name"], row["input_length"], row["turns"]) for row in record["measurements"]] == [
        ("T5 float32", 6, 2),
        ("PyTorch int8", 6, 2),
        ("CTranslate2 int8", 6, 2),
        ("PyTorch int8", 4, 2),
        ("CTranslate2 int8", 4, 2),
    ]
    whole, *rounded = (row["logit_error"] for row in record["measurements"])
    assert whole == 0
    assert all(0 < error < 0.5 for error in rounded)
    assert "6 tokens: done already" in capsys.readouterr().out
    with pytest.raises(ValueError, match="measured with repeats 3, not 1"):
        run(place, repeats=1)


def test_memory_is_that_of_a_process_of_its_own(place):
    engine = ENGINES["PyTorch float32"]
    found = Place(place / "tiny", "tiny", 1)
    engine.make(found)
    assert 2**20 < engine.peak_bytes(found, 6) < 2**30


def measured(name, decode, first=100.0, length=512, peak=None, error=0.01):
    return {
        "name": name, "input_length": length, "first_token_ms": first, "first_token_cpu_ms": first,
        "tokens_per_second": decode, "ms_per_token": 1e3 / decode, "cpu_ms_per_token": 1e3 / decode,
        "logit_error": error, "peak_bytes": peak, "calls": {"wall": [1, 2]},
    }  # fmt: skip


ROWS = [
    measured("T5 float32", 10, error=0.0),
    measured("PyTorch bfloat16", 15, peak=2**30),
    measured("PyTorch int8", 30),
    measured("ONNX Runtime fp32", 12, error=2e-4),
    measured("ONNX Runtime int8", 40, first=64.0, peak=2**28),
    measured("CTranslate2 int8", 30, peak=2**29),
    measured("ONNX Runtime int4", 50, first=65.0),
    measured("decoder-only, ONNX Runtime int8", 20, first=100.0),
    measured("ONNX Runtime int8", 50, length=64),
    measured("ONNX Runtime int8", 40, length=1024),
    measured("PyTorch int8", 30, length=64),
    measured("PyTorch int8", 30, length=1024),
]


def test_goals_are_quotients_of_what_decodes_fastest():
    lines = goals_table(ROWS).splitlines()[2:]
    onnx = "ONNX Runtime int8 | 0.01"
    assert lines == [
        f"| int8, best export: tokens/s | {onnx} | T5 float32 | 0 | 4.000 | at least 4.0 | yes |",
        f"| int4: tokens/s | ONNX Runtime int4 | 0.01 | {onnx} | 1.250 | at least 1.3 | no |",
        f"| int4: first token | ONNX Runtime int4 | 0.01 | {onnx} | 1.016 | at most 1.0 | no |",
        "| int8 in PyTorch: tokens/s | PyTorch int8 | 0.01 | CTranslate2 int8 | 0.01 | 1.000 | at least 0.9 | yes |",
        f"| beside decoder-only: tokens/s | {onnx} | decoder-only, {onnx} | 2.000 | at least 2.5 | no |",
        f"| beside decoder-only: first token | {onnx} | decoder-only, {onnx} | 0.640 | at most 0.65 | yes |",
        f"| int8, best export: memory | {onnx} | PyTorch bfloat16 | 0.01 | 0.250 | at most 0.6 | yes |",
        f"| time of a token, 1,024 tokens beside 64: the worst of 2 | {onnx} | {onnx} | 1.250 | at most 1.15 | no |",
        "| float32 in ONNX Runtime: logits | ONNX Runtime fp32 | 0.0002 | - | - | - | at most 0.0001 | no |",
    ]
    assert "| ONNX Runtime int8 | 512 | 2 | 64 (64) | 0.64 | 40.0 | 4.00 | 25.00 (25.00) | 0.01 | 256 |" in table(ROWS)


def test_goals_name_contestants():
    assert {name for goal in GOALS for name in (*goal.ours, *goal.beside)} <= ENGINES.keys()


def test_readme_gets_the_largest_size_and_goals_where_they_are_for(tmp_path):
    with pytest.raises(ValueError, match=r"run examples/engine_speed\.py first"):
        report(tmp_path)
    where = {"processor": "P", "threads": 1, "torch": "2", "transformers": "5", "fast_bfloat16": False}
    for preset in ("small", "330m"):
        settings = {"preset": preset, "input_lengths": [512], "only": ["T5 float32"], "memory": True}
        content = {"settings": settings, "conditions": where, "measurements": ROWS}
        (tmp_path / f"engine_speed_{preset}.json").write_text(json.dumps(content))
        assert ("| met |" in report(tmp_path)) == (preset == "330m")
    readme = tmp_path / "README.md"
    readme.write_text("\n".join(markers("engines")))
    engine_speed_report.main(results=tmp_path, readme=readme)
    text = readme.read_text()
    assert (
        "`python examples/engine_speed.py --preset 330m --input-lengths 512 --only 'T5 float32' --memory`: P" in text
    )
    assert "no instructions for bfloat16" in text
