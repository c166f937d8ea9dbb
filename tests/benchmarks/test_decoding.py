"""The comparison: peers of equal size, calls in turns, medians, and tables made of them."""

import json

from encdec_slm import EncDecSLMConfig
from encdec_slm.benchmarks.decoding import Contestant, Measurement, measure
from encdec_slm.benchmarks.peers import random_model
from encdec_slm.benchmarks.report import record, table
from encdec_slm.benchmarks.timing import Latency


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
