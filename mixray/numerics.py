"""Small numerical functions and units that several folders share. Only means over seeds need more than numpy: scipy.

A mean over seeds of an estimate from rows (test rows, documents) has a variance of two parts:

    rows    To first order, the estimate is a sum of one influence for each row (the delta method, also called the
            infinitesimal jackknife). A row that several seeds share counts once, with its mean influence.
    seeds   The variance between seeds, less the part of it that the rows explain.

The quantile is Student's t with Satterthwaite's degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NATS, NATS_PER_EXAMPLE, SQUARED_ERROR = "nats per token", "nats per example", "squared error"
"""What losses are in: of texts, of classes, and of numbers, in the square of their unit."""
TRAINING_TOKENS, TRAINING_EXAMPLES = "training tokens", "training examples"
"""What models are trained on, and shares are of."""
Z95 = 1.959963984540054
"""Half the width of a 95 % interval in standard errors: the 97.5 % quantile of the normal distribution."""


def sum_standard_error(values: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> float:
    """Return the standard error of ``values.sum()`` over the choice of the documents, or NaN for a single document.

    ``values``: one per document, float64 ``(documents,)``, such as paired differences of two mixtures. ``weights``:
    ``(documents,)``, > 0, such as token counts, where the sum is scaled to the same total weight in every sample: the
    result divided by ``weights.sum()`` is the standard error of ``values.sum() / weights.sum()`` (delta method).
    """
    count = len(values)
    if count < 2:
        return float("nan")
    expected = values.mean() if weights is None else values.sum() / weights.sum() * weights
    return float(np.sqrt(count / (count - 1) * ((values - expected) ** 2).sum()))


def interval95(estimate: float, standard_error: float) -> tuple[float, float]:
    """Return the 95 % interval of an estimate whose error is normally distributed."""
    return estimate - Z95 * standard_error, estimate + Z95 * standard_error


def wilson_interval(hits: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a probability that was met in ``hits`` of ``trials`` (Wilson 1927)."""
    share, square = hits / trials, Z95**2 / trials
    half = Z95 * math.sqrt((share * (1 - share) + square / 4) / trials)
    return max(0.0, (share + square / 2 - half) / (1 + square)), min(1.0, (share + square / 2 + half) / (1 + square))


def paired_difference_interval(only_one: int, only_other: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two probabilities that were met in the same ``trials``.

    ``only_one``, ``only_other``: trials in which one of the two was met alone. Half a trial is added to each of the
    four outcomes (Agresti and Min 2005, Statistics in Medicine 24, section 3), so that it has a width where both agree.
    """
    count, above = trials + 2, only_one - only_other
    error = math.sqrt(only_one + only_other + 1 - above**2 / count) / count
    low, high = interval95(above / count, error)
    return max(-1.0, low), min(1.0, high)


@dataclass(frozen=True, eq=False)
class SeedEstimate:
    """A number under one seed, and how much each row contributes to its deviation.

    row_ids: int64 (rows,), the same number for the same row; influences: float64 (rows,), which sum to 0.
    """

    value: float
    row_ids: NDArray[np.int64]
    influences: NDArray[np.float64]

    def minus(self, other: SeedEstimate) -> SeedEstimate:
        """Return the difference from another estimate on the same rows."""
        return SeedEstimate(self.value - other.value, self.row_ids, self.influences - other.influences)


def interval_over_seeds(values: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's 95 % interval of the mean of one value per seed; None where there is only one seed."""
    if len(values) < 2:
        return None
    return _around(float(np.mean(values)), float(np.var(values, ddof=1)) / len(values), len(values) - 1)


def interval_of_mean(seeds: Sequence[SeedEstimate]) -> tuple[float, float]:
    """Return the 95 % interval of the mean over seeds. With one seed it covers the rows alone."""
    values = np.array([seed.value for seed in seeds])
    row_ids, columns = np.unique(np.concatenate([seed.row_ids for seed in seeds]), return_inverse=True)
    influences = np.zeros((len(seeds), len(row_ids)))
    rows = np.repeat(np.arange(len(seeds)), [len(seed.row_ids) for seed in seeds])
    influences[rows, columns] = np.concatenate([seed.influences for seed in seeds])
    common = influences.mean(axis=0)
    variance, degrees = float(common @ common), math.inf
    if len(seeds) > 1:
        explained = float(((influences - common) ** 2).sum()) / (len(seeds) - 1)
        spread = float(values.var(ddof=1))
        between = max(spread - explained, 0.0) / len(seeds)
        variance += between
        if between:
            degrees = (len(seeds) - 1) * (variance * len(seeds) / spread) ** 2
    return _around(float(values.mean()), variance, degrees)


def _around(mean: float, variance: float, degrees: float) -> tuple[float, float]:
    """Return the 95 % interval around a mean of this variance."""
    if math.isinf(degrees):
        return interval95(mean, math.sqrt(variance))
    from scipy.special import stdtrit  # start-up is lazy: only several seeds need it

    half = float(stdtrit(degrees, 0.975)) * math.sqrt(variance)
    return mean - half, mean + half


def splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return well mixed bits of every number: each output bit depends on each input bit.

    This is the output function of SplitMix64 (Steele, Lea and Flood, 2014).
    """
    mixed = values ^ (values >> np.uint64(30))
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
