"""The simplex cut by a lower and an upper bound for every source.

It answers three questions exactly, without a general solver: which point is smallest in a
linear function (fill the smallest coordinates to their upper bounds), which point is nearest to given shares in the
Kullback-Leibler sense (scale and clip), and how to remove the rounding error of a nearly feasible point.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

from mixray.simplex.checks import Vector


@dataclass(frozen=True, eq=False)
class Box:
    """``{shares: lower <= shares <= upper, sum = 1}``, not empty; both bounds float64, shape ``(sources,)``."""

    lower: Vector
    upper: Vector

    def linear_minimum(self, gradient: Vector) -> Vector:
        """Return the shares that minimise ``<gradient, shares>``: the smallest coordinates are filled first."""
        order = np.argsort(gradient, kind="stable")
        width = (self.upper - self.lower)[order]
        left = 1 - self.lower.sum() - (np.cumsum(width) - width)
        shares = self.lower.copy()
        shares[order] += np.clip(left, 0, width)
        return self.repair(shares)

    def nearest(self, log_shares: Vector) -> Vector:
        """Return the shares with the smallest KL divergence from ``exp(log_shares)``, which need not sum to 1.

        They are ``clip(exp(log_shares + shift), lower, upper)`` for the shift that makes them sum to 1. The sum is
        increasing in the shift, and between two neighbouring break points the same sources are clipped: so the
        interval is found by bisection and the free sources share what is left in proportion.
        """
        with np.errstate(divide="ignore"):  # log 0 = -inf is meant: a bound of 0 is never reached
            enter, leave = np.log(self.lower) - log_shares, np.log(self.upper) - log_shares

        def total(shift: float) -> float:
            return float(np.clip(np.exp(np.minimum(log_shares + shift, 0)), self.lower, self.upper).sum())

        breaks = np.unique(np.concatenate([enter, leave]))
        breaks = breaks[np.isfinite(breaks)]
        place = bisect_left(breaks.tolist(), 1.0, key=total)
        below = breaks[place - 1] if place else -np.inf
        full = leave <= below
        free = ~full & (enter <= below) & (self.upper > 0)
        shares = np.where(full, self.upper, self.lower)
        if free.any():
            likeness = np.exp(log_shares[free] - log_shares[free].max())
            shares[free] = (1 - shares[~free].sum()) * likeness / likeness.sum()
        return self.repair(shares)

    def repair(self, shares: Vector) -> Vector:
        """Return the shares without rounding errors: within bounds, and the remainder given to the roomiest source.

        A source at its lower bound takes a remainder only where no other source has room for it: a share of 0 stays 0.
        """
        shares = np.clip(shares, self.lower, self.upper)
        remainder = 1 - shares.sum()
        room = self.upper - shares if remainder > 0 else shares - self.lower
        above = np.where(shares > self.lower, room, 0.0)
        room = above if above.max() >= abs(remainder) else room
        roomiest = int(np.argmax(room))
        shares[roomiest] = np.clip(shares[roomiest] + remainder, self.lower[roomiest], self.upper[roomiest])
        return shares
