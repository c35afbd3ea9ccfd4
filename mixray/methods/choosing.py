"""From a swarm to a mixture: random search takes its best, the surrogates what they expect to be best.

A method returns the shares that it chooses and how far it can be trusted: the rank correlation of what it predicts for
runs of the swarm that it did not learn from with what these reached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixray.errors import InputError
from mixray.methods.surrogates import FEWEST_RUNS, Fit, Predict

Floats = NDArray[np.float64]
Combine = Callable[[Floats], Floats]
"""Losses (mixtures, targets) -> one value of each mixture (mixtures,), which is minimised."""

MEAN_OF = 128
"""How many of the best candidates are averaged, as RegMix does."""
FOLDS = 5


@dataclass(frozen=True, eq=False)
class Choice:
    """What a method chose. ``source_shares``: float64 (sources,); ``predicted``: the loss that it expects of them, nats
    per token at the size of the swarm's models; ``rank_correlation``: of predictions for runs left out (Spearman); None
    where nothing is predicted or the swarm is too small to leave runs out."""

    source_shares: Floats
    predicted: float
    rank_correlation: float | None


def best_of_swarm(shares: Floats, losses: Floats, combine: Combine) -> Choice:
    """Random search: return the mixture of the swarm with the smallest measured loss.

    ``shares``: float64 (runs, sources); ``losses``: float64 (runs, targets). The loss of the best of many is too low.
    """
    values = combine(losses)
    best = int(values.argmin())
    return Choice(shares[best], float(values[best]), None)


def best_expected(
    fits: Sequence[Fit], shares: Floats, losses: Floats, candidates: Floats, combine: Combine, *, mean_of: int = MEAN_OF
) -> Choice:
    """Learn every target's loss, predict those of the candidates, and return the mean of the best ones.

    Args:
        fits: one for each target; see ``surrogates.py``.
        shares: of the swarm, float64 (runs, sources).
        losses: of the swarm, float64 (runs, targets), nats per token.
        candidates: mixtures to choose from, float64 (candidates, sources). A mean of some keeps every limit, linear in
            the shares, that all of them keep.
        combine: how the losses on several targets become one.
        mean_of: of how many of the best candidates the mean is taken.

    Raises:
        InputError: for a swarm that is too small.
    """
    predict = _learn(fits, shares, losses, combine)
    order = np.argsort(predict(candidates), kind="stable")
    chosen = candidates[order[:mean_of]].mean(axis=0)
    chosen = chosen / chosen.sum()
    return Choice(chosen, float(predict(chosen[None])[0]), _left_out_correlation(fits, shares, losses, combine))


def _learn(fits: Sequence[Fit], shares: Floats, losses: Floats, combine: Combine) -> Predict:
    if losses.shape != (len(shares), len(fits)):
        raise InputError("a swarm needs a loss for each run and target", got=losses.shape)
    predictions = [fit(shares, values) for fit, values in zip(fits, losses.T, strict=True)]
    return lambda mixtures: combine(np.stack([predict(mixtures) for predict in predictions], axis=1))


def _left_out_correlation(fits: Sequence[Fit], shares: Floats, losses: Floats, combine: Combine) -> float | None:
    """Return the rank correlation of predicted and measured losses over runs that were left out, a fifth at a time."""
    from scipy.stats import spearmanr  # start-up is lazy: only swarms need scipy

    runs = len(shares)
    folds = np.array_split(np.random.default_rng(0).permutation(runs), FOLDS)
    if runs - max(map(len, folds)) < FEWEST_RUNS:
        return None
    predicted = np.empty(runs)
    for fold in folds:
        rest = np.setdiff1d(np.arange(runs), fold)
        predicted[fold] = _learn(fits, shares[rest], losses[rest], combine)(shares[fold])
    if not np.ptp(predicted):
        return 0.0
    return float(spearmanr(predicted, combine(losses)).statistic)
