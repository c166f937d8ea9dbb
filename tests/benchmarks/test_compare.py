"""The comparison: turns, limits that cannot be beaten, bad input, and what is kept of a run that was stopped."""

import itertools
import json
import os

import pytest
import torch
from efficiency_tester import options

from encdec_slm.benchmarks import compare, footprint, measuring, model_choice
from encdec_slm.benchmarks.compare import Setting, Shape
from encdec_slm.benchmarks.cost_model import ImpossibleSpeedError, Limit, Rates, refuse_what_is_impossible
from encdec_slm.benchmarks.energy import ProcessorEnergy, energy_meter
from encdec_slm.benchmarks.model_choice import Candidate, choose, refuse_what_does_not_fit
from encdec_slm.benchmarks.partial_record import PartialRecord


CPU = torch.device("cpu")
SHAPE = Shape(batch_size=1, input_length=8, new_tokens=3)
SETTING = Setting(dtype="float32", device=CPU, attention=None, threads=1, repeats=2)


class FakeExport:
    """A model of another engine: it answers, and says nothing else."""

    def __init__(self, calls, name):
        self.calls, self.name = calls, name

    def generate(self, input_ids, attention_mask, **arguments):
        self.calls.append((self.name, arguments["max_new_tokens"]))
        return torch.zeros(len(input_ids), arguments["max_new_tokens"])


def ticking():
    """A clock that goes on by a second whenever it is read."""
    return itertools.count(0.0).__next__


def small_choice(**changed):
    return choose(["encoder-decoder", "decoder-only"], **{"preset": "tiny", "longest": 16, **changed})


def test_exported_models_take_turns_and_are_timed_by_a_hand_moved_clock():
    calls = []
    candidates = choose(
        [],
        preset="tiny",
        longest=16,
        exported=["a", "b"],
        load_exported=lambda folder, threads: FakeExport(calls, f"{folder}{threads}"),
    )
    models = [one.build("float32", CPU, None) for one in candidates]
    results = compare.compare(
        candidates,
        models,
        SHAPE,
        SETTING,
        report=lambda _: None,
        clocks=(ticking(), ticking()),
        footprint=lambda *_: 7,
    )
    threads = torch.get_num_threads()
    a, b = (f"{name}{threads}" for name in "ab")
    # a warm-up each; then A B A B, each with an answer of one token and a whole one
    turn = [(a, 1), (a, 3), (b, 1), (b, 3)]
    assert calls == [(a, 2), (b, 2), *turn, *turn]
    for result in results:
        # a second for the first token, as long for a whole answer: nothing is left for each of the others
        assert [call.first_token_seconds for call in result.answers.wall] == [1.0, 1.0]
        assert (result.work, result.limit, result.answers.parameters, result.peak_bytes) == (None, None, None, 7)


def test_what_beats_the_machine_fails_the_run():
    least = Limit(first_token_seconds=1.0, seconds_per_token=0.1, token_bytes=10**9, rates=Rates(1e10, 1e11))
    refuse_what_is_impossible("a model", 0.95, 0.095, least)
    with pytest.raises(ImpossibleSpeedError, match=r"a model took 50 ms for a token, but it takes 100 ms or more"):
        refuse_what_is_impossible("a model", 1.0, 0.05, least)
    with pytest.raises(ImpossibleSpeedError, match="500 ms for a first token"):
        refuse_what_is_impossible("a model", 0.5, 0.1, least)


def test_a_clock_that_stands_still_fails_the_run():
    candidates = small_choice()
    models = [one.build("float32", CPU, None) for one in candidates]
    with pytest.raises(ImpossibleSpeedError, match="encoder-decoder took 0 ms"):
        compare.compare(
            candidates,
            models,
            SHAPE,
            SETTING,
            report=lambda _: None,
            clocks=(lambda: 0.0, lambda: 0.0),
            footprint=lambda *_: 0,
        )


def test_a_comparison_needs_two_models_that_differ_and_hold_the_input():
    with pytest.raises(ValueError, match="needs two models or more, but 1 was given"):
        choose(["t5"], preset="tiny", longest=16)
    with pytest.raises(ValueError, match="t5 is there twice"):
        choose(["t5", "t5"], preset="tiny", longest=16)
    with pytest.raises(ValueError, match="nothing was given that loads it"):
        choose(["t5"], preset="tiny", longest=16, exported=["folder"])


def test_each_peer_without_its_cache_shares_the_weights():
    cached, peer, uncached, _ = small_choice(uncached=True)
    assert (cached.name, uncached.name) == ("encoder-decoder", "encoder-decoder, no cache")
    assert uncached.source is cached.source
    assert uncached.generate_arguments == {"use_cache": False}
    assert peer.parameters == pytest.approx(cached.parameters, rel=0.01)


def test_peers_of_every_preset_are_of_equal_size():
    for preset in ("tiny", "330m", "1b"):
        ours, *peers = choose(["encoder-decoder", "decoder-only", "t5", "t5gemma"], preset=preset, longest=16)
        for peer in peers:
            assert peer.parameters == pytest.approx(ours.parameters, rel=0.01)


def test_models_too_large_for_memory_are_refused_before_they_are_built(monkeypatch):
    candidates = small_choice(uncached=True)
    monkeypatch.setattr(model_choice, "available_bytes", lambda device: 15_000_000)
    # those of one source once, and the largest once more
    with pytest.raises(ValueError, match=r"2 models in float32 take 0\.0 GB .* but 0\.0 GB are free"):
        refuse_what_does_not_fit(candidates, "float32", CPU)
    monkeypatch.setattr(model_choice, "available_bytes", lambda device: 16_000_000)
    refuse_what_does_not_fit(candidates, "float32", CPU)


def test_finished_work_is_kept_and_not_done_again(monkeypatch, tmp_path):
    measured, real = [], measuring.compare

    def stopped_at_the_second_length(candidates, models, shape, setting, **given):
        measured.append(shape.input_length)
        if measured == [8, 9]:
            raise KeyboardInterrupt
        return real(candidates, models, shape, setting, footprint=lambda *_: 7, **given)

    monkeypatch.setattr(measuring, "compare", stopped_at_the_second_length)
    given = options(input_length=[8, 9], output=tmp_path / "x.json")
    with pytest.raises(KeyboardInterrupt):
        measuring.measure(given, small_choice(), lambda _: None)
    with pytest.raises(ValueError, match=r"x\.partial\.jsonl holds what was measured with repeats 2, not 3"):
        measuring.measure(options(repeats=3, output=given.output), small_choice(), lambda _: None)
    lines = []
    record = measuring.measure(given, small_choice(), lines.append)
    assert measured == [8, 9, 9]
    assert lines[0] == "float32, batch 1, 8 tokens: done already"
    assert [run["shape"]["input_length"] for run in record["runs"]] == [8, 9]
    assert not (tmp_path / "x.partial.jsonl").exists()


def test_a_line_that_was_cut_off_is_measured_again(tmp_path):
    path = tmp_path / "partial.jsonl"
    partial = PartialRecord(path, {"repeats": 2})
    partial.add("a", {"x": 1})
    with path.open("a") as file:
        file.write(json.dumps(["b", {"x": 1}])[:-4])
    again = PartialRecord(path, {"repeats": 2})
    assert again.find(["a"]) == [{"x": 1}]
    assert again.find(["a", "b"]) is None


def test_energy_is_summed_over_packages_and_counters_begin_anew(tmp_path):
    counters = []
    for number, zone in enumerate(("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0")):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "max_energy_range_uj").write_text("10000000")
        counters.append(tmp_path / zone / "energy_uj")
        counters[-1].write_text(str(9_000_000 - number))
    meter = ProcessorEnergy(tmp_path)
    assert meter() == 0
    counters[0].write_text("9500000")
    counters[1].write_text("500000")
    # half a joule, and one and a half over the end of the counter
    assert meter() == pytest.approx(2.000001)
    with pytest.raises(FileNotFoundError):
        ProcessorEnergy(tmp_path / "nowhere")


def test_a_machine_that_does_not_tell_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(ProcessorEnergy.__init__, "__defaults__", (tmp_path,))
    meter, told = energy_meter(CPU)
    assert meter is None
    assert told.startswith("not told by this machine (no counter of RAPL in")


def test_peak_is_what_a_process_takes_over_its_base():
    def prepare():
        kept = bytearray(os.urandom(2**25))

        def run():
            return kept + bytearray(2**25)

        return run

    assert 0.99 * 2**26 < footprint.peak_over_base(prepare, CPU) < 2**28
    assert footprint.in_a_process_of_its_own(os.getpid) != os.getpid()


@pytest.mark.slow
def test_peak_of_a_model_holds_its_weights():
    _, candidate = choose(["encoder-decoder", "decoder-only"], preset="small", longest=16)
    peak = footprint.in_a_process_of_its_own(compare.peak_bytes_of, candidate, SHAPE, SETTING, 512)
    assert 4 * candidate.parameters < peak < 3 * 4 * candidate.parameters


def test_a_folder_is_loaded_and_does_not_end_its_answer(tmp_path):
    _, peer = small_choice()
    peer.build("float32", CPU, None).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has 8,192 positions, but input and answer may take 9,000"):
        choose(["encoder-decoder", str(tmp_path)], preset="tiny", longest=9000)
    _, loaded = choose(["encoder-decoder", str(tmp_path)], preset="tiny", longest=16)
    model = loaded.build("float32", CPU, "eager")
    assert isinstance(loaded, Candidate)
    assert (loaded.parameters, model.generation_config.eos_token_id) == (peer.parameters, None)
    assert model.config._attn_implementation == "eager"
