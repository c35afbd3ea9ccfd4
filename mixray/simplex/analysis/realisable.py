"""Shares that can be trained on: 0, or at least one training window of the budget.

A document's likelihood rewards any share that is not 0, however small: with a share of 1e-10 of a source that alone
explains some documents, these are likely enough, but no budget holds 1e-10 of a window. So every smaller share is put
at 0 or raised to the least one, and the problem is solved again for the others. Which of the two is decided source by
source, by the loss that each brings; then single decisions are turned as long as that lowers the loss.

All mixtures of such shares are mixtures, so the certificate of the problem without the least share holds for them: the
answer is above the best of them by at most its rise plus the optimum's gap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from mixray.errors import InputError
from mixray.simplex.checks import Vector
from mixray.simplex.feasible import FeasibleSet
from mixray.simplex.objectives.passes import Columns
from mixray.simplex.problem import Point
from mixray.simplex.solvers.solve import solve_problem

POINTS = 64
"""Mixtures whose losses are computed in one pass."""
MOST_TURNED = 12
"""Sources up to which single decisions are turned, each at one solve."""
SMALLEST_START = 1e-12
"""A solve starts from the last one's shares; a source that may have a share again starts from this one."""
NEAREST = 1 - 1e-9
"""Rounding may leave a share this part of the least one, which it is then put at."""

Decisions = Mapping[int, bool]
"""Source -> whether its share is at least the least one; else it is 0."""


@dataclass(frozen=True, eq=False)
class Realisable:
    """``point``: the mixture, as the optimum of the problem with these decisions; ``dropped``, ``raised``: sources
    whose share was too small, and is 0 or at least the least one now; ``rise``: by how much the minimised value is
    above that of the optimum, nats per token."""

    point: Point
    dropped: tuple[int, ...]
    raised: tuple[int, ...]
    rise: float


def realisable(optimum: Point, least: float, *, tolerance: float) -> Realisable:
    """Return the mixture near an optimum each of whose shares is 0 or at least ``least``.

    Args:
        optimum: where every share is one of these already, it is the answer itself.
        least: a share, > 0.
        tolerance: of every solve, on its certified gap, nats per token.

    Raises:
        InputError: where the limits leave a source only shares between 0 and the least one, or no such mixture.
    """
    if not _too_small(optimum.shares, least).size:
        return Realisable(optimum, (), (), 0.0)
    search = _Search(optimum, least, tolerance)
    decisions: dict[int, bool] = {}
    point = optimum
    while (small := _too_small(point.shares, least)).size:
        decisions |= search.decide(point, small, decisions)
        point = search.solve(decisions, point)
    if len(decisions) <= MOST_TURNED:
        point, decisions = search.turn(point, decisions)
    first = _too_small(optimum.shares, least).tolist()
    return Realisable(
        point,
        dropped=tuple(source for source in sorted({*first, *decisions}) if point.shares[source] == 0),
        raised=tuple(source for source in first if point.shares[source] > 0),
        rise=max(0.0, point.value - optimum.value),
    )


def _too_small(shares: Vector, least: float) -> Columns:
    return np.flatnonzero((shares > 0) & (shares < NEAREST * least))


class _Search:
    """``optimum``: of the problem without a least share."""

    def __init__(self, optimum: Point, least: float, tolerance: float) -> None:
        self._problem, self._least, self._tolerance = optimum.problem, least, tolerance

    def decide(self, point: Point, small: Columns, decisions: Decisions) -> dict[int, bool]:
        """Return a decision for every small share: what alone raises the value less, the others in proportion.

        Raises InputError where the limits allow neither.
        """
        raised, dropped = (self._values(point.shares, small, share) for share in (self._least, 0.0))
        preferred = dict(zip(small.tolist(), (raised < dropped).tolist(), strict=True))
        if self._allows({**decisions, **preferred}):
            return preferred
        chosen = dict(decisions)  # together they leave no room: one at a time
        for source, kept in preferred.items():
            chosen[source] = kept if self._allows({**chosen, source: kept}) else not kept
            if not self._allows(chosen):
                raise InputError(
                    "the limits leave a source only shares that no training window can have",
                    got=f"source {source}",
                    wanted=f"room for a share of 0 or of at least {self._least:.3g}, one window of the budget",
                    remedy="loosen its bounds, or train on more tokens",
                )
        return {source: chosen[source] for source in preferred}

    def solve(self, decisions: Decisions, start: Point) -> Point:
        """Return the optimum with these decisions. Raises InputError where there is no such mixture."""
        problem = replace(self._problem, feasible=self._restricted(decisions))
        shares = np.where(problem.feasible.upper > 0, np.maximum(start.shares, SMALLEST_START), 0.0)
        return solve_problem(problem, tolerance=self._tolerance, start=shares / shares.sum()).point

    def turn(self, point: Point, decisions: dict[int, bool]) -> tuple[Point, dict[int, bool]]:
        """Return a point and decisions of which no single one can be turned to lower the value."""
        improved = True
        while improved:
            improved = False
            for source, kept in list(decisions.items()):
                turned = {**decisions, source: not kept}
                try:
                    trial = self.solve(turned, point)
                except InputError:  # no such mixture, or documents that no other source explains
                    continue
                if trial.value < point.value - self._tolerance and not _too_small(trial.shares, self._least).size:
                    point, decisions, improved = trial, turned, True
        return point, decisions

    def _values(self, shares: Vector, sources: Columns, share: float) -> Vector:
        """Return the value with another share of each source in turn, the others' in proportion, limits aside."""
        moved = []
        for source in sources:
            others = shares.copy()
            others[source] = 0.0
            total = others.sum()
            mixture = others * ((1 - share) / total) if total > 0 else others
            mixture[source] = share
            moved.append(mixture)
        points = [self._problem.at_each(moved[i : i + POINTS]) for i in range(0, len(moved), POINTS)]
        return np.array([point.value for batch in points for point in batch])

    def _allows(self, decisions: Decisions) -> bool:
        try:
            self._restricted(decisions)
        except InputError:
            return False
        return True

    def _restricted(self, decisions: Decisions) -> FeasibleSet:
        feasible = self._problem.feasible
        lower, upper = feasible.lower.copy(), feasible.upper.copy()
        for source, kept in decisions.items():
            if kept:
                lower[source] = max(lower[source], self._least)
            else:
                upper[source] = 0.0
        return replace(feasible, lower=lower).limited_to(upper)
