"""The predicted loss of any given mixture, so that baselines can stand beside the optimum."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mixray.simplex.checks import Vector, checked_log_probs, checked_row_weights, checked_shares


def mixture_loss(log_probs: ArrayLike, source_shares: ArrayLike, *, row_weights: ArrayLike | None = None) -> float:
    """``-sum_i w_i log sum_k shares_k exp(l_ik)``, nats per token; inf when a row that counts cannot occur.

    Arguments as in ``solve``; ``source_shares``: ``(sources,)``, >= 0, sum 1. Raises InputError.
    """
    mixed = mixed_log_probs(log_probs, source_shares)
    weights = checked_row_weights(row_weights, mixed.size)
    return -float(weights[weights > 0] @ mixed[weights > 0])


def mixed_log_probs(log_probs: ArrayLike, source_shares: ArrayLike) -> Vector:
    """The log-probability of every row under a mixture, nats, float64 ``(rows,)``. Raises InputError."""
    table = checked_log_probs(log_probs)
    shares = checked_shares("source_shares", source_shares, table.shape[1])
    drawn = shares > 0
    terms = table[:, drawn] + np.log(shares[drawn])
    largest = terms.max(axis=1)
    terms -= np.where(np.isneginf(largest), 0.0, largest)[:, None]
    with np.errstate(divide="ignore"):  # log 0 = -inf is meant: such a row cannot occur
        mixed: Vector = largest + np.log(np.exp(terms, out=terms).sum(axis=1))
    return mixed
