"""How models compare on the same documents: losses, and paired differences with their intervals."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mixray.cache.table import PredictionCache
from mixray.numerics import interval95, sum_standard_error


def compare(
    cache: PredictionCache, weighting: Literal["document", "token"], reference: str
) -> dict[str, dict[str, float]]:
    """Per model: ``nll`` by ``weighting``, ``nll_document``, ``nll_token`` (nats per token), ``documents``, and for all
    but the reference the paired ``difference`` to it with its 95 % interval (``difference_low``, ``difference_high``).

    The interval is the normal one for a ratio of means over documents (delta method): it covers the choice of
    documents, not the choice of the training seed.
    """
    lengths = cache.document_counts().astype(np.float64)
    totals = [np.bincount(cache.documents, column, minlength=len(lengths)) for column in cache.log_probs.T]
    nats = -np.stack(totals, axis=1, dtype=np.float64)
    weights = np.ones_like(lengths) if weighting == "document" else lengths
    values = nats / lengths[:, None] if weighting == "document" else nats
    base = values[:, cache.models.index(reference)]
    found = {}
    for index, model in enumerate(cache.models):
        facts = {
            "nll": float(values[:, index].sum() / weights.sum()),
            "nll_document": float((nats[:, index] / lengths).mean()),
            "nll_token": float(nats[:, index].sum() / lengths.sum()),
            "documents": len(lengths),
        }
        if model != reference:
            facts |= _difference(values[:, index] - base, weights)
        found[model] = facts
    return found


def _difference(values: NDArray[np.float64], weights: NDArray[np.float64]) -> dict[str, float]:
    """The ratio sum(values) / sum(weights) over documents, with its interval where there are two or more."""
    ratio = float(values.sum() / weights.sum())
    if len(values) < 2:
        return {"difference": ratio}
    low, high = interval95(ratio, sum_standard_error(values, weights) / float(weights.sum()))
    return {"difference": ratio, "difference_low": low, "difference_high": high}
