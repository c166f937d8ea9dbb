"""The README's part on efficiency is what the record says, between its markers and nowhere else."""

import json

import ablations_report
import assisted_speed_report
import distillation_results_report
import efficiency_report
import engine_speed_report
import pytest
import quantization_table
from readme_blocks import README, markers, replaced

from encdec_slm.benchmarks.compare import Result, Shape, Work
from encdec_slm.benchmarks.cost_model import Limit, Rates
from encdec_slm.benchmarks.decoding import Measurement
from encdec_slm.benchmarks.efficiency_plots import draw
from encdec_slm.benchmarks.efficiency_tables import Run, all_tables, runs_from
from encdec_slm.benchmarks.timing import Latency


def result(name, *seconds):
    latencies = tuple(Latency(10 * second, second) for second in seconds)
    return Result(
        source="random weights",
        attention="sdpa",
        answers=Measurement(name, 7_000, latencies, latencies, joules=(3.0, 4.0, 9.0)),
        work=Work(
            weight_bytes=0,
            cache_bytes=2**20,
            first_token_flops=1,
            answer_flops=int(1e11 * seconds[0]),
            formula_flops=0,
        ),
        peak_bytes=3 * 2**20,
        limit=Limit(0.05, 0.01, 2**21, Rates(1e10, 1e11)),
    )


def record(*lengths, batch_size=1):
    shapes = [Shape(batch_size=batch_size, input_length=length, new_tokens=11) for length in lengths]
    results = (result("encoder-decoder", 0.02, 0.5, 0.01), result("decoder-only", 0.04, 0.04, 0.04))
    return {
        "command": "encdec-slm benchmark",
        "settings": {"preset": "tiny", "repeats": 3, "threads": 1},
        "conditions": {"processor": "P", "device": "cpu", "torch": "2", "transformers": "5", "energy": "none"},
        "runs": [Run(dtype="float32", shape=shape, results=results).to_dict() for shape in shapes],
    }


def test_tables_divide_medians_by_those_of_the_decoder_only_model():
    # as JSON gives it back
    tables = all_tables(runs_from(json.loads(json.dumps(record(512, 1024)))))
    times = "200 (100 to 5,000) | 0.50 | 50 (2 to 100) | 2.00 | 0.4"
    assert f"| encoder-decoder | 7,000 | {times} | 3 | 1.0 | 2 | 0.500 | 4 |" in tables
    assert "| encoder-decoder | 2.0 | 10.0 | 100 | 50 | 50% | 100 | 50 | 200 | 25% |" in tables
    assert "| float32: 1,024 tokens in, 11 out | 0.2 | 0.4 | 0.4 | 0.8 |" in tables


def test_of_several_rows_the_tokens_of_all_are_counted():
    tables = all_tables(runs_from(record(512, batch_size=4)))
    assert "| 200 (8 to 400) | 2.00 | 0.4 |" in tables
    assert "| 400 | 200 | 50% |" in tables


def test_pictures_are_drawn_for_one_length_and_for_several(tmp_path):
    for lengths, names in (((8,), ["x.png"]), ((8, 16), ["x.png", "x_by_length.png"])):
        paths = draw(runs_from(json.loads(json.dumps(record(*lengths)))), tmp_path / "x.json")
        assert [path.name for path in paths] == names
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_the_part_is_replaced_and_the_rest_stays(tmp_path):
    begin, end = markers("efficiency")
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n\n{begin}\nfrom before\n{end}\n\nafter\n")
    with pytest.raises(ValueError, match="run `make bench` first"):
        efficiency_report.main(results=tmp_path, readme=readme)
    names = ["efficiency", *(name for name, *_ in efficiency_report.FURTHER)]
    for name in names:
        (tmp_path / f"{name}.json").write_text(json.dumps(record(512)))
    efficiency_report.main(results=tmp_path, readme=readme)
    written = readme.read_text()
    assert written.count("`encdec-slm benchmark`: P, 1 thread(s), torch 2") == len(names)
    assert "\n\nOver batch sizes: `encdec-slm benchmark`" in written
    assert written.startswith(f"before\n\n{begin}\n")
    assert written.endswith(f"\n{end}\n\nafter\n")
    assert "from before" not in written
    assert "| NPU | 358 | 26.5 | 189 | 0.53 | 123.8 | 4.67 |" in written
    efficiency_report.main(results=tmp_path, readme=readme)
    assert readme.read_text() == written


@pytest.mark.parametrize("text", ["", "<!-- x: begin -->", "<!-- x: end -->\n<!-- x: begin -->"])
def test_missing_or_exchanged_markers_are_refused(text):
    with pytest.raises(ValueError, match="<!-- x: end -->"):
        replaced(text, "x", "new")


@pytest.mark.parametrize(
    "report",
    [
        ablations_report,
        assisted_speed_report,
        distillation_results_report,
        efficiency_report,
        engine_speed_report,
        quantization_table,
    ],
)
def test_the_readme_says_what_the_records_say(report):
    text = README.read_text(encoding="utf-8")
    if markers(report.BLOCK)[0] not in text:
        pytest.skip(f"the README has no part {report.BLOCK} yet")
    try:
        content = report.report(efficiency_report.RESULTS)
    except ValueError as error:
        pytest.skip(str(error))
    assert replaced(text, report.BLOCK, content) == text
