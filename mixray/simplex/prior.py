"""A pull to a prior: ``strength * KL(shares || prior_shares)``, added to what is minimised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mixray.errors import InputError
from mixray.simplex.checks import Vector, checked_shares
from mixray.simplex.feasible import FeasibleSet

SMALLEST_SHARE = 1e-300
"""Stands for a share of 0 inside a logarithm."""


@dataclass(frozen=True, eq=False)
class Prior:
    """``shares``: float64 ``(sources,)``; a source that they exclude gets no share. ``strength``: nats per token."""

    shares: Vector
    strength: float

    @classmethod
    def of(cls, prior_shares: ArrayLike | None, strength: float, sources: int) -> Prior | None:
        """None for a strength of 0; balanced unless shares are given. Raises InputError where they are no shares."""
        if not (np.isfinite(strength) and strength >= 0):
            raise InputError("prior_strength: no strength", got=strength, wanted="a finite number >= 0, nats per token")
        shares = np.full(sources, 1 / sources) if prior_shares is None else prior_shares
        shares = checked_shares("prior", shares, sources)
        return cls(shares, strength) if strength > 0 else None

    def value(self, source_shares: Vector) -> float:
        return self.strength * float(source_shares @ self._log_ratio(source_shares))

    def gradient(self, source_shares: Vector) -> Vector:
        return self.strength * (self._log_ratio(source_shares) + 1)

    def curvature(self, source_shares: Vector) -> Vector:
        """The second derivative's diagonal."""
        return self.strength / np.maximum(source_shares, SMALLEST_SHARE)

    def least(self, gradient: Vector, feasible: FeasibleSet, group_prices: Vector | None = None) -> float:
        """A lower bound on ``<gradient, shares> + value(shares)`` over the set, exact but for the groups' prices.

        ``group_prices``: prices to try besides those found here, which are poor where the pull is weak.
        """
        log_shares_ = log_shares(self.shares) - gradient / self.strength
        if not feasible.groups:
            return self._priced_least(gradient, log_shares_, np.zeros(0), feasible)
        trials = [feasible.entropic_prices(log_shares_)]
        trials += [] if group_prices is None else [group_prices / self.strength]
        return max(self._priced_least(gradient, log_shares_, prices, feasible) for prices in trials)

    def _priced_least(self, gradient: Vector, log_shares_: Vector, prices: Vector, feasible: FeasibleSet) -> float:
        """What prices on the groups' sums, in units of the strength, prove."""
        best = feasible.box.nearest(log_shares_ + prices @ feasible.member)
        paid = feasible.support(prices) - float(prices @ (feasible.member @ best))
        return float(gradient @ best) + self.value(best) + self.strength * paid

    def _log_ratio(self, source_shares: Vector) -> Vector:
        return log_shares(source_shares) - log_shares(self.shares)


def log_shares(shares: Vector) -> Vector:
    """The logarithm, finite for a share of 0."""
    return np.log(np.maximum(shares, SMALLEST_SHARE))
