"""The comparison: peers of equal size, calls in turns, medians, and tables made of them."""

import json

import pytest
import torch
from transformers import T5ForConditionalGeneration

from encdec_slm import EncDecSLMConfig, EncDecSLMForConditionalGeneration
from encdec_slm.benchmarks.__main__ import main
from encdec_slm.benchmarks.decoding import Contestant, Measurement, measure
from encdec_slm.benchmarks.peers import random_model, t5_of_equal_size
from encdec_slm.benchmarks.report import record, table
from encdec_slm.benchmarks.timing import Latency


@pytest.mark.parametrize("preset", ["small", "330m", "1b"])
def test_t5_of_equal_size_has_as_many_parameters_within_one_percent(preset):
    config = EncDecSLMConfig.from_preset(preset)
    with torch.device("meta"):
        ours = EncDecSLMForConditionalGeneration(config).num_parameters()
        peer = T5ForConditionalGeneration(t5_of_equal_size(config, ours)).num_parameters()
    assert peer == pytest.approx(ours, rel=0.01)


def test_contestants_take_turns_and_write_as_many_tokens():
    calls = []

    class Model:
        def __init__(self, name):
            self.name = name
            self.model = random_model(EncDecSLMConfig.from_preset("tiny", vocab_size=99), "float32")
            self.config = self.model.config
            self.num_parameters = self.model.num_parameters

        def generate(self, **arguments):
            tokens = self.model.generate(**arguments)
            calls.append((self.name, tokens.shape[1] - 1))
            return tokens

    lines = []
    measurements = measure(
        [Contestant("a", Model("a")), Contestant("b", Model("b"), {"use_cache": False})],
        input_length=5,
        new_tokens=4,
        repeats=2,
        report=lines.append,
    )
    # a warm-up each, then in turns
    assert calls == [("a", 2), ("b", 2), ("a", 4), ("b", 4), ("a", 4), ("b", 4)]
    assert lines == ["turn 1 of 2", "turn 2 of 2"]
    assert [len(measurement.wall) for measurement in measurements] == [2, 2]


def test_table_divides_medians_by_hand():
    def measurement(name, *seconds):
        latencies = tuple(Latency(10 * second, second) for second in seconds)
        return Measurement(name, 7, latencies, latencies)

    measurements = [measurement("ours", 0.02, 0.5, 0.01), measurement("peer", 0.04, 0.04, 0.0)]
    assert "| peer | 7 | 400 (400) | 25.0 | 40.00 (40.00) | 0.500 | 0.500 |" in table(measurements)
    assert json.loads(json.dumps(record(measurements, {})))["measurements"][1]["wall"][0]["seconds_per_token"] == 0.04


def test_command_prints_a_table_and_ends_with_json(capsys):
    threads = torch.get_num_threads()
    try:
        main(["--overhead", "--input-length", "4", "--new-tokens", "2", "--repeats", "1"])
    finally:
        torch.set_num_threads(threads)
    lines = capsys.readouterr().out.strip().splitlines()
    assert any(line.startswith("| T5, equal size |") for line in lines)
    (run,) = json.loads(lines[-1])
    assert [row["name"] for row in run["measurements"]] == ["encdec_slm", "T5, equal shape", "T5, equal size"]
    assert run["settings"]["new_tokens"] == 2
