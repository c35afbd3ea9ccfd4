"""Small numerical functions and units that several folders share. This file needs numpy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NATS, SQUARED_ERROR = "nats per token", "squared error"
"""What losses are in: the second where numbers are predicted, in the square of their unit."""
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
