"""How sure a score is: confidence intervals by the bootstrap."""

import numpy as np

from encdec_slm.evaluation.metrics import Metric, Sums


CONFIDENCE = 0.95
MOST_DRAWS = 1_000_000


def confidence_intervals(
    metric: Metric, counts: Sums, *, resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Returns between which values each score lies with 95 percent confidence: percentiles of resampled scores.

    Args:
        metric: Of the scores.
        counts: Numbers of all examples, see `Metric.counts`, of shape (examples, numbers).
        resamples: How often as many examples are drawn, with replacement.
        seed: Of the draws.
    """
    examples = len(counts)
    random, chances = np.random.default_rng(seed), np.full(examples, 1 / examples)
    scores = []
    # a few resamples at a time: all of them would be a matrix of resamples by examples
    for size in np.diff(np.append(np.arange(0, resamples, max(MOST_DRAWS // examples, 1)), resamples)):
        draws = random.multinomial(examples, chances, size=size).astype(np.float64)
        scores += [metric.scores(sums) for sums in draws @ counts]
    edges = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
    # a resample without a question of some kind says nothing of its score
    values = {name: [row[name] for row in scores if name in row] for name in metric.scores(counts.sum(axis=0))}
    return {name: tuple(np.quantile(resampled, edges).tolist()) for name, resampled in values.items()}
