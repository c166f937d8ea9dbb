"""What is hidden can be put back, exactly as much is hidden as was said, and never a special token."""

import random
from collections import Counter

import pytest
import torch

from encdec_slm.adaptation.denoising import (
    UL2_R,
    UL2_S,
    UL2_X,
    Limits,
    PrefixLM,
    SpanCorruption,
    corrupt_spans,
    prefix_lm,
    random_spans,
    restore,
)


EOS = 2
SENTINELS = list(range(999, 899, -1))
CORRUPTIONS = (*UL2_R, *UL2_X, SpanCorruption(noise_density=0.9, mean_span_length=1.0))
DENOISERS = (*CORRUPTIONS, *UL2_S, PrefixLM())


def texts(number=60, special=0.0, longest=200):
    """Texts of all lengths; a share of their tokens is special, but not at the ends."""
    choose = random.Random(0)
    for _ in range(number):
        text = [choose.randrange(10, 800) for _ in range(choose.randrange(2, longest))]
        for place in range(1, len(text) - 1):
            if choose.random() < special:
                text[place] = EOS
        yield text


def numbers(length):
    return [(noise, spans) for noise in range(1, length) for spans in range(1, min(noise, length - noise + 1) + 1)]


@pytest.mark.parametrize("length", [2, 3, 7, 12])
def test_spans_are_apart_and_hide_what_they_are_told(length):
    for noise, spans in numbers(length):
        for _ in range(5):
            found = random_spans(length, noise=noise, spans=spans)
            assert len(found) == spans
            assert sum(stop - start for start, stop in found) == noise
            borders = [border for span in found for border in span]
            assert borders == sorted(set(borders))
            assert borders[0] >= 0
            assert borders[-1] <= length


@pytest.mark.parametrize(("length", "noise", "spans", "ways"), [(5, 2, 1, 4), (5, 2, 2, 6), (6, 3, 2, 12)])
def test_all_ways_to_choose_spans_are_equally_likely(length, noise, spans, ways):
    draws = 400 * ways
    counted = Counter(tuple(random_spans(length, noise=noise, spans=spans)) for _ in range(draws))
    assert len(counted) == ways
    # five standard deviations
    assert all(abs(count - 400) < 5 * 20 for count in counted.values())


@pytest.mark.parametrize(("noise", "spans"), [(0, 0), (4, 1), (2, 3), (3, 3), (1, 0)])
def test_impossible_spans_are_refused(noise, spans):
    with pytest.raises(ValueError, match=f"{noise} of 4 positions .* {spans} spans"):
        random_spans(4, noise=noise, spans=spans)


@pytest.mark.parametrize("special", [0.0, 0.2])
@pytest.mark.parametrize("denoiser", CORRUPTIONS, ids=str)
def test_the_target_fills_the_source(denoiser, special):
    for text in texts(special=special):
        source, target = denoiser.corrupt(text, specials={EOS}, sentinel_ids=SENTINELS)
        assert restore(source, target, SENTINELS) == text
        # the sentinels are used in their order, the same in both
        used = [token for token in source if token in SENTINELS]
        assert used == SENTINELS[: len(used)]
        assert [token for token in target if token in SENTINELS] == used
        assert EOS not in target
        assert source.count(EOS) == text.count(EOS)


@pytest.mark.parametrize("denoiser", CORRUPTIONS, ids=str)
def test_lengths_and_density_are_exact(denoiser):
    for text in texts():
        source, target = denoiser.corrupt(text, sentinel_ids=SENTINELS)
        noise, spans = denoiser.counts(len(text))
        assert (len(source), len(target)) == denoiser.lengths(len(text))
        assert len(target) - spans == noise
        assert 1 <= noise < len(text)
        assert abs(noise - denoiser.noise_density * len(text)) <= 1
        # as near to the mean as whole numbers allow, unless the gaps do not suffice
        assert spans <= len(text) - noise + 1
        if spans <= len(text) - noise:
            assert abs(spans - noise / denoiser.mean_span_length) <= 0.5 or spans == 1


def test_both_ends_of_a_text_are_hidden_as_often():
    hidden = Counter()
    for _ in range(2000):
        _, target = SpanCorruption(noise_density=0.3).corrupt(range(20), sentinel_ids=SENTINELS)
        hidden.update(token for token in target if token < 20)
    # T5 hides the last token always and the first never; five standard deviations
    assert all(abs(hidden[token] - hidden[19 - token]) < 5 * 29 for token in range(10))
    assert min(hidden.values()) > 100


def test_a_span_goes_on_behind_a_special_with_the_next_sentinel():
    text = [10, 11, EOS, 12, 13]
    seen = set()
    for _ in range(100):
        source, target = SpanCorruption(noise_density=0.5, mean_span_length=2).corrupt(
            text, specials={EOS}, sentinel_ids=[99, 98]
        )
        seen.add((tuple(source), tuple(target)))
    assert seen == {
        ((99, EOS, 12, 13), (99, 10, 11)),
        ((10, 99, EOS, 98, 13), (99, 11, 98, 12)),
        ((10, 11, EOS, 99), (99, 12, 13)),
    }


@pytest.mark.parametrize("special", [0.0, 0.1])
@pytest.mark.parametrize("limits", [Limits(40, 30), Limits(100, 12), Limits(12, 60)])
@pytest.mark.parametrize("denoiser", DENOISERS, ids=str)
def test_limits_are_kept_and_source_and_target_still_belong_together(denoiser, limits, special):
    for text in texts(special=special):
        source, target = denoiser.corrupt(text, specials={EOS}, sentinel_ids=SENTINELS, limits=limits)
        assert len(source) <= limits.source
        assert 1 <= len(target) <= limits.target
        together = restore(source, target, SENTINELS) if isinstance(denoiser, SpanCorruption) else source + target
        assert together == text[: len(together)]


@pytest.mark.parametrize("denoiser", CORRUPTIONS, ids=str)
def test_no_more_is_cut_off_than_the_limits_ask(denoiser):
    text, limits = list(range(10, 400)), Limits(60, 50)
    source, target = denoiser.corrupt(text, sentinel_ids=SENTINELS, limits=limits)
    kept = len(restore(source, target, SENTINELS))
    longer = denoiser.lengths(kept + 1)
    assert longer.source > limits.source or longer.target > limits.target
    # and nothing at all if it fits
    source, target = denoiser.corrupt(text[:kept], sentinel_ids=SENTINELS, limits=limits)
    assert restore(source, target, SENTINELS) == text[:kept]


@pytest.mark.parametrize("noise_density", [0.1, 0.25, 0.5])
def test_a_prefix_is_split_anywhere_and_hides_its_share_on_average(noise_density):
    text = list(range(100))
    lengths = []
    for _ in range(1500):
        source, target = PrefixLM(noise_density=noise_density).corrupt(text)
        assert source + target == text
        lengths.append(len(target))
    assert {1, round(200 * noise_density) - 1} <= set(lengths)
    assert abs(sum(lengths) / 1500 - 100 * noise_density) < 0.1 * 100 * noise_density


def test_a_prefix_is_continued_to_the_end_of_its_document():
    text = [10, 11, EOS, 12, 13, EOS, EOS, 14]
    pairs = {tuple(map(tuple, PrefixLM().corrupt(text, specials={EOS}))) for _ in range(200)}
    assert {(len(source), target) for source, target in pairs} == {
        (1, (11,)),
        (3, (12, 13)),
        (4, (13,)),
        (7, (14,)),
    }
    assert all(list(source) == text[: len(source)] for source, _ in pairs)


@pytest.mark.parametrize("denoiser", DENOISERS, ids=str)
def test_noise_is_a_function_of_the_generator(denoiser):
    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return denoiser.corrupt(range(100), sentinel_ids=SENTINELS, generator=generator)

    before = torch.get_rng_state()
    assert draw(1) == draw(1)
    assert len({str(draw(seed)) for seed in range(20)}) > 10
    assert torch.equal(before, torch.get_rng_state())
    assert len({str(denoiser.corrupt(range(100), sentinel_ids=SENTINELS)) for _ in range(20)}) > 10


def test_the_denoisers_of_ul2():
    table = {(denoiser.mode, denoiser.noise_density, denoiser.mean_span_length) for denoiser in (*UL2_R, *UL2_X)}
    assert table == {
        ("R", 0.15, 3), ("R", 0.15, 8), ("X", 0.5, 3), ("X", 0.5, 8), ("X", 0.15, 64), ("X", 0.5, 64)
    }  # fmt: skip
    assert [(denoiser.mode, denoiser.noise_density) for denoiser in UL2_S] == [("S", 0.25)]


def test_specials_may_cost_sentinels_but_not_more_than_there_are():
    text = [token for word in range(10, 60) for token in (word, EOS)][:-1]
    denoiser = SpanCorruption(noise_density=0.5, mean_span_length=10)
    with pytest.raises(ValueError, match=r"25 spans of a text of 99 tokens .* there are 20"):
        denoiser.corrupt(text, specials={EOS}, sentinel_ids=SENTINELS[:20])
    _, target = denoiser.corrupt(text, specials={EOS}, sentinel_ids=SENTINELS)
    assert len(target) == 50
    # with few specials there are fewer spans in time: there is a sentinel for each special that a span could cross
    text = [*range(10, 58), EOS, *range(60, 68), EOS, *range(70, 78)]
    for _ in range(50):
        denoiser = SpanCorruption(noise_density=0.5, mean_span_length=4)
        source, target = denoiser.corrupt(text, specials={EOS}, sentinel_ids=SENTINELS[:8])
        assert restore(source, target, SENTINELS) == text


@pytest.mark.parametrize("denoiser", DENOISERS, ids=str)
@pytest.mark.parametrize(
    ("text", "limits"), [([], None), ([10], None), ([10, EOS], None), (range(10, 90), Limits(1, 1))]
)
def test_texts_that_cannot_be_shown_and_hidden_are_refused(denoiser, text, limits):
    if isinstance(denoiser, PrefixLM) and limits:
        source, target = denoiser.corrupt(list(text), limits=limits)
        assert (source, target) == ([10], [11])
        return
    with pytest.raises(ValueError, match="at least 2 are needed"):
        denoiser.corrupt(list(text), specials={EOS}, sentinel_ids=SENTINELS, limits=limits)


def test_too_few_sentinels_are_refused():
    with pytest.raises(ValueError, match="100 tokens needs 5 sentinels, but there are 4"):
        SpanCorruption().corrupt(range(100), sentinel_ids=SENTINELS[:4])
    with pytest.raises(ValueError, match="2 spans of a text of 4 tokens"):
        corrupt_spans([1, 2, 3, 4], [(0, 1), (2, 3)], [99])


@pytest.mark.parametrize("split", [-1, 0, 3])
def test_a_split_leaves_something_on_both_sides(split):
    assert prefix_lm([7, 8, 9], 2) == ([7, 8], [9])
    with pytest.raises(ValueError, match=f"split is {split}, but only 1 to 2"):
        prefix_lm([7, 8, 9], split)


@pytest.mark.parametrize("noise_density", [0.0, 1.0, -0.1])
def test_densities_are_shares(noise_density):
    for denoiser in (SpanCorruption, PrefixLM):
        with pytest.raises(ValueError, match=f"noise_density is {noise_density}"):
            denoiser(noise_density=noise_density)


def test_numbers_that_make_no_denoiser_are_refused():
    with pytest.raises(ValueError, match=r"noise_density is 0\.6.*at most 0\.5"):
        PrefixLM(noise_density=0.6)
    with pytest.raises(ValueError, match=r"mean_span_length is 0\.5"):
        SpanCorruption(mean_span_length=0.5)


def test_a_prediction_may_lack_sentinels():
    assert restore([10, 99, 11, 98], [99, 12, 13], {99, 98}) == [10, 12, 13, 11]
