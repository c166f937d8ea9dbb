"""The clock around `generate`, moved by hand and by a real model."""

import pytest
import torch

from encdec_slm.benchmarks.timing import ModuleClock, TokenClock


def test_latencies_of_a_clock_moved_by_hand():
    # started at 0, start tokens at 1, then tokens at 5, 6, 8 and 9
    clock = TokenClock(clocks=(iter([0.0, 1.0, 5.0, 6.0, 8.0, 9.0]).__next__,))

    def run(streamer):
        for _ in range(5):
            streamer.put(torch.tensor([0]))

    (latency,) = clock.time(run)
    assert latency.first_token_seconds == 5.0
    assert latency.seconds_per_token == pytest.approx(4 / 3)


def test_one_token_has_no_latency_between_tokens():
    clock = TokenClock(clocks=(iter(range(9)).__next__,))
    with pytest.raises(ValueError, match="two tokens or more, but 1 came"):
        clock.time(lambda streamer: [streamer.put(None) for _ in range(2)])


def test_clock_reads_once_for_every_generated_token(tiny_model):
    clock = TokenClock(clocks=(lambda: 0.0,))
    tokens = tiny_model.generate(torch.tensor([[5, 6]]), min_new_tokens=7, max_new_tokens=7, streamer=clock)
    # the decoder's start token and seven more
    assert len(clock.readings) == tokens.shape[1] == 8


def test_seconds_of_a_part_by_a_clock_moved_by_hand():
    part, clock = torch.nn.Identity(), iter([1.0, 4.0, 5.0, 5.5]).__next__
    with ModuleClock(part, clocks=(clock,)) as seconds:
        part(1), part(2)
    # nobody reads the clock any more
    part(3)
    assert seconds.seconds == [(3.0,), (0.5,)]
