"""The feasible set: the simplex, cut by a lower and an upper bound for every source.

Three questions are asked of it, and each has an exact answer without a general solver: which point is smallest in a
linear function (fill the smallest coordinates to their upper bounds), which point is nearest to given shares in the
Kullback-Leibler sense (scale and clip), and how to remove the rounding error of a nearly feasible point.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixray.errors import InputError
from mixray.simplex.checks import Vector

SUM_TOLERANCE = 1e-12
"""How far from 1 the sum of shares may be."""


@dataclass(frozen=True, eq=False)
class FeasibleSet:
    """``{shares: lower <= shares <= upper, sum = 1}``; both bounds float64, shape ``(sources,)``."""

    lower: Vector
    upper: Vector

    @classmethod
    def of(cls, sources: int, lower: ArrayLike | None = None, upper: ArrayLike | None = None) -> FeasibleSet:
        """Bounds as a user gives them: ``None``, one number for all sources, or one per source.

        Raises InputError when a bound is not a number in [0, 1] or when no shares satisfy them all.
        """
        low = _bound("lower", 0.0 if lower is None else lower, sources)
        high = _bound("upper", 1.0 if upper is None else upper, sources)
        crossed = np.flatnonzero(low > high)
        if crossed.size:
            raise InputError(
                f"the lower bound is above the upper bound for {_name(crossed)}",
                got=f"lower {low[crossed[0]]:g}, upper {high[crossed[0]]:g} for source {crossed[0]}",
                wanted="lower <= upper",
            )
        if low.sum() > 1 + SUM_TOLERANCE:
            raise InputError(
                "no mixture satisfies the lower bounds: they sum to more than 1",
                got=f"sum {low.sum():.6g}, from {_name(np.flatnonzero(low))}",
                wanted="lower bounds that sum to at most 1",
                remedy="lower some of them",
            )
        if high.sum() < 1 - SUM_TOLERANCE:
            raise InputError(
                "no mixture satisfies the upper bounds: they sum to less than 1",
                got=f"sum {high.sum():.6g}; below 1 are {_name(np.flatnonzero(high < 1))}",
                wanted="upper bounds that sum to at least 1",
                remedy="raise some of them, allow more epochs, or lower the token budget",
            )
        return cls(low, high)

    @cached_property
    def free(self) -> NDArray[np.bool_]:
        """The sources whose bounds leave them room."""
        return self.upper > self.lower

    @cached_property
    def centre(self) -> Vector:
        """The feasible shares nearest to balanced (by Euclid's distance and by Kullback and Leibler's alike)."""
        return self.nearest(np.zeros(self.lower.size))

    def linear_minimum(self, gradient: Vector) -> Vector:
        """The feasible shares that minimise ``<gradient, shares>``: the smallest coordinates are filled first."""
        order = np.argsort(gradient, kind="stable")
        width = (self.upper - self.lower)[order]
        left = 1 - self.lower.sum() - (np.cumsum(width) - width)
        shares = self.lower.copy()
        shares[order] += np.clip(left, 0, width)
        return self.repair(shares)

    def nearest(self, log_shares: Vector) -> Vector:
        """The feasible shares with the smallest KL divergence from ``exp(log_shares)``, which need not sum to 1.

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
        at = bisect_left(breaks.tolist(), 1.0, key=total)
        below = breaks[at - 1] if at else -np.inf
        full = leave <= below
        free = ~full & (enter <= below) & (self.upper > 0)
        shares = np.where(full, self.upper, self.lower)
        if free.any():
            likeness = np.exp(log_shares[free] - log_shares[free].max())
            shares[free] = (1 - shares[~free].sum()) * likeness / likeness.sum()
        return self.repair(shares)

    def repair(self, shares: Vector) -> Vector:
        """The same shares with rounding errors removed: within bounds, the remainder given to the roomiest source."""
        shares = np.clip(shares, self.lower, self.upper)
        remainder = 1 - shares.sum()
        room = self.upper - shares if remainder > 0 else shares - self.lower
        roomiest = int(np.argmax(room))
        shares[roomiest] = np.clip(shares[roomiest] + remainder, self.lower[roomiest], self.upper[roomiest])
        return shares


def _bound(name: str, bound: ArrayLike, sources: int) -> Vector:
    values = np.asarray(bound, dtype=np.float64)
    if values.shape not in ((), (sources,)):
        raise InputError(f"{name}: one bound per source is needed", got=f"shape {values.shape}", wanted=f"({sources},)")
    values = np.broadcast_to(values, sources).copy()
    bad = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if bad.size:
        raise InputError(f"{name}: the bound of {_name(bad)} is no share", got=values[bad[0]], wanted="0 to 1")
    return values


def _name(sources: NDArray[np.intp]) -> str:
    listed = ", ".join(str(source) for source in sources[:8])
    return f"source{'s' if sources.size > 1 else ''} {listed}{', ...' if sources.size > 8 else ''}"
