"""The rows of the convex problem: a prediction cache at the unit that the likelihood is taken over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixray.cache import PredictionCache
from mixray.cache.table import no_token_values
from mixray.config.mixture import MixtureConfig
from mixray.simplex import CrossEntropy, row_weights, sum_by_document


@dataclass(frozen=True)
class Rows:
    """``log_probs`` float64 (rows, sources) in nats, ``row_weights`` float64 (rows,) so that the loss is in nats per
    token, ``documents`` and ``token_counts`` int64 (rows,): which document a row is part of and how many tokens it has.
    """

    log_probs: NDArray[np.float64]
    row_weights: NDArray[np.float64]
    documents: NDArray[np.int64]
    token_counts: NDArray[np.int64]

    def objective(self, allowed: NDArray[np.bool_]) -> CrossEntropy:
        return CrossEntropy.from_log_probs(
            self.log_probs,
            self.row_weights,
            allowed,
            document_ids=self.documents,
            token_counts=self.token_counts,
        )


def rows_of(cache: PredictionCache, config: MixtureConfig) -> Rows:
    """Raises InputError where per-token values are wanted and were not kept."""
    if config.unit == "document":
        log_probs, counts, documents = sum_by_document(cache.log_probs, cache.documents, cache.counts)
    elif config.unit == "window":
        log_probs, counts, documents = cache.log_probs, cache.counts, cache.documents
    else:
        if cache.token_log_probs is None:
            raise no_token_values()
        log_probs, documents = cache.token_log_probs, np.repeat(cache.documents, cache.counts)
        counts = np.ones(len(documents), np.int64)
    weights = row_weights(counts, documents, config.weighting)
    return Rows(np.asarray(log_probs, np.float64), weights, np.asarray(documents, np.int64), counts)
