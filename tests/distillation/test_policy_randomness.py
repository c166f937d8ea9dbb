"""Noise makes greedy decoding sampling; seeds and chosen rows are functions of the row."""

import math

import pytest
import torch
from sampling_tester import (
    PAD,
    SIGNIFICANCE,
    VOCAB,
    p_value,
    padded,
    sources,
)

from encdec_slm.distillation.policies import (
    GumbelNoise,
    Sampling,
    _splitmix64,
    choose_rows,
    row_seeds,
)


# what others computed for the seed 1234567 with the generator's reference program
def test_the_generator_is_splitmix64():
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    found = _splitmix64(torch.tensor([1234567]), torch.arange(4))
    assert [number % 2**64 for number in found.tolist()] == known


SETTINGS = [
    {},
    {"temperature": 0.5},
    {"top_k": 4},
    {"top_p": 0.8},
    {"temperature": 2.0, "top_k": 6, "top_p": 0.7},
    {"shared_ids": 5},
]


def distribution(logits, temperature=1.0, top_k=VOCAB, top_p=1.0, shared_ids=VOCAB):
    """Returns what there is to draw from, said in another way."""
    p = (logits[:shared_ids] / temperature).softmax(-1)
    ids = p.argsort(descending=True)[:top_k]
    kept = p[ids] / p[ids].sum()
    # as many as it takes to have top_p
    kept = kept.where(kept.cumsum(-1) - kept < top_p, 0)
    return torch.zeros(VOCAB).index_put((ids,), kept / kept.sum())


@pytest.mark.parametrize("options", SETTINGS)
def test_noise_makes_the_largest_one_a_draw(options):
    sampling, count = Sampling(max_new_tokens=1, **options), 20_000
    # neighbouring numbers, where a weak generator shows
    seeds = list(range(count))
    logits = (1.5 * torch.randn(1, VOCAB)).expand(count, VOCAB)
    processors, p = sampling.processors(seeds), distribution(logits[0], **options)
    first, second = (
        processors(torch.zeros(count, width, dtype=torch.long), logits.clone()).argmax(-1) for width in (1, 2)
    )
    assert p_value(first.bincount(minlength=VOCAB), p) > SIGNIFICANCE
    # positions are independent of one another
    pairs = (first * VOCAB + second).bincount(minlength=VOCAB**2)
    assert p_value(pairs, p.outer(p).flatten()) > SIGNIFICANCE
    # rows too
    pairs = (first[::2] * VOCAB + first[1::2]).bincount(minlength=VOCAB**2)
    assert p_value(pairs, p.outer(p).flatten()) > SIGNIFICANCE
    # and it is independent of which rows are sampled
    chosen = first[choose_rows(0.3, seeds)]
    assert p_value(chosen.bincount(minlength=VOCAB), p) > SIGNIFICANCE


def test_the_test_notices_a_wrong_distribution():
    p = torch.tensor([0.25, 0.25, 0.5])
    counts = torch.multinomial(p, 20_000, replacement=True).bincount(minlength=3)
    assert p_value(counts, p) > SIGNIFICANCE
    assert p_value(counts, torch.tensor([0.27, 0.25, 0.48])) < SIGNIFICANCE


def test_noise_of_a_token_is_its_own():
    # what is cut off, or how many tokens there are, changes nothing for the others
    noise = GumbelNoise([5, -7, 2**62])
    before = torch.zeros(3, 1, dtype=torch.long)
    logits = torch.randn(3, 40)
    assert torch.equal(noise(before, logits)[:, :9], noise(before, logits[:, :9]))
    cut = logits.masked_fill(logits < 0, -math.inf)
    assert torch.equal(noise(before, cut), noise(before, logits).masked_fill(logits < 0, -math.inf))
    # nor which rows there are besides
    assert torch.equal(noise(before, logits)[1:2], GumbelNoise([-7])(before[:1], logits[1:2]))


def test_seeds_know_the_source_without_its_padding():
    rows = sources(3, 7, 5)
    seeds = row_seeds(1, 2, *padded(rows))
    assert row_seeds(1, 2, *padded(rows, side="left", width=9)) == seeds
    assert [row_seeds(1, 2, *padded([row]))[0] for row in rows] == seeds
    # also where a padding token is one like others
    same, mask = torch.full((1, 4), PAD), torch.tensor([[1, 1, 1, 0]])
    others = {
        *seeds,
        *row_seeds(2, 1, *padded(rows)),
        *row_seeds(1, 3, *padded(rows)),
        *row_seeds(1, 2, same, mask),
        *row_seeds(1, 2, same, torch.ones(1, 4)),
        # images are of the source too
        *row_seeds(1, 2, *padded(rows), images=["one", "another", "one"]),
    }
    assert row_seeds(1, 2, *padded(rows), images=[""] * 3) == seeds
    assert len(others) == 14
    assert all(-(2**63) <= seed < 2**63 for seed in others)


def test_seeds_are_the_same_in_every_process():
    # a training goes on elsewhere, with another version
    assert row_seeds(42, 7, torch.tensor([[5, 6, 2, 0]]), torch.tensor([[1, 1, 1, 0]])) == [1049230024834780772]


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.8])
def test_as_many_rows_are_chosen_as_was_said(fraction):
    count = 10_000
    input_ids = torch.arange(count).unsqueeze(1)
    seeds = row_seeds(0, 0, input_ids, torch.ones_like(input_ids))
    chosen = choose_rows(fraction, seeds)
    assert abs(chosen.sum().item() - fraction * count) < 4 * math.sqrt(count * fraction * (1 - fraction))
    assert torch.equal(torch.cat([choose_rows(fraction, part) for part in (seeds[:1], seeds[1:])]), chosen)
    assert (choose_rows(fraction + 0.1, seeds) >= chosen).all()


def test_all_rows_or_none_are_chosen():
    assert choose_rows(1, range(1000)).all()
    assert not choose_rows(0, range(1000)).any()
    assert choose_rows(0.5, []).shape == (0,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"shared_ids": 0}, "shared_ids is 0"),
    ],
)
def test_impossible_sampling(options, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**{"max_new_tokens": 4, **options})
