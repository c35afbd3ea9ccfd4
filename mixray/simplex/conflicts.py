"""Limits that no mixture satisfies together: which of them conflict, and what would mend it.

By Farkas' lemma limits ``<rows_i, shares> <= at_i`` exclude every mixture where a sum of them with weights >= 0 does.
A mixed-integer program looks for such weights of the fewest limits; of what it names, and of all limits where there are
too many for it, those are dropped without which the others still conflict. So a conflict is never larger than it must
be: without any one of its limits there are mixtures.

The remedy is the least change of limits, in total, after which there are mixtures: a linear program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mixray.errors import InputError
from mixray.simplex.checks import Matrix, Vector

MOST_COUNTED = 64
"""Limits up to which the fewest that conflict are looked for."""
DECIMALS = 4
"""Of the shares that a remedy names."""
PRECISION = 1e-9
"""Of the linear program's answer."""
CLEAR = 1e-5
"""By how much the fewest limits must miss each other: the mixed-integer program knows still fewer digits."""


@dataclass(frozen=True, eq=False)
class Limit:
    """``at`` is the least or the most that the shares of ``members``, 0 or 1 ``(sources,)``, may sum to. ``kind``,
    ``place``: the source or the group that it limits."""

    kind: Literal["source", "group"]
    place: int
    name: str
    members: Vector
    side: Literal["least", "most"]
    at: float

    def __str__(self) -> str:
        return f"{self.name} at {self.side} {self.at:g}"

    @property
    def room(self) -> float:
        """How much of the simplex the limit leaves."""
        return self.at if self.side == "least" else 1 - self.at

    def loosened(self, by: float) -> Limit:
        """Return the limit moved by at least so much, to a number of few digits."""
        scale = 10**DECIMALS
        if self.side == "least":
            return replace(self, at=max(0.0, float(np.floor((self.at - by) * scale)) / scale))
        return replace(self, at=min(1.0, float(np.ceil((self.at + by) * scale)) / scale))


def limits_of(
    lower: Vector, upper: Vector, member: Matrix, group_lower: Vector, group_upper: Vector, names: Sequence[str]
) -> list[Limit]:
    """Return every limit that excludes some mixture, the tightest last: a conflict names these where it can.

    The arguments: as in ``FeasibleSet``; ``names``: of the sources.
    """
    labels = [" + ".join(names[source] for source in np.flatnonzero(row).tolist()) for row in member]
    parts = [
        *zip(["source"] * lower.size, range(lower.size), names, np.eye(lower.size), lower, upper, strict=True),
        *zip(["group"] * len(member), range(len(member)), labels, member, group_lower, group_upper, strict=True),
    ]
    limits = []
    for kind, place, name, members, low, high in parts:
        limits += [Limit(kind, place, name, members, "least", float(low))] if low > 0 else []
        limits += [Limit(kind, place, name, members, "most", float(high))] if high < 1 else []
    return sorted(limits, key=lambda limit: limit.room)


def conflict(limits: Sequence[Limit], possible: Callable[[Sequence[Limit]], bool]) -> InputError:
    """Return the error for limits that exclude every mixture. ``possible``: whether some of them leave any."""
    needed = _fewest(limits) if len(limits) <= MOST_COUNTED else None
    needed = list(limits) if needed is None or possible(needed) else needed
    for limit in list(needed):  # without one that is not needed the others still conflict
        fewer = [other for other in needed if other is not limit]
        if not possible(fewer):
            needed = fewer
    return InputError(
        "no mixture satisfies these constraints together",
        got=listed([str(limit) for limit in needed], "; ") + "; shares sum to 1",
        wanted="at least one mixture that satisfies all constraints",
        remedy="loosen limits, for example to: " + "; ".join(str(limit) for limit in _remedy(limits, needed, possible)),
    )


def _remedy(
    limits: Sequence[Limit], needed: Sequence[Limit], possible: Callable[[Sequence[Limit]], bool]
) -> list[Limit]:
    """Return new limits in place of some, by the least change in total after which there are mixtures.

    ``needed``: limits that conflict; where they miss each other by less than a linear program notices, all move.
    """
    from scipy.optimize import linprog  # start-up is lazy: only conflicts need it

    rows, at = _as_rows(limits)
    count, sources = rows.shape
    program = linprog(
        np.append(np.zeros(sources), np.ones(count)),
        A_ub=np.hstack([rows, -np.eye(count)]),
        b_ub=at,
        A_eq=np.append(np.ones(sources), np.zeros(count))[None],
        b_eq=[1.0],
    )
    by = dict(zip(limits, program.x[sources:].tolist(), strict=True))
    moved = {limit: limit.loosened(each - PRECISION) for limit, each in by.items() if each > PRECISION}
    if not moved or not possible([moved.get(limit, limit) for limit in limits]):
        moved = {limit: limit.loosened(by[limit] + PRECISION) for limit in limits if limit in moved or limit in needed}
    return list(moved.values())


def _fewest(limits: Sequence[Limit]) -> list[Limit] | None:
    """Return the fewest limits that conflict, or None where they do not miss each other clearly.

    Variables: weights in [0, 1], whether each may be above 0, and the weight of the sum of the shares.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    rows, at = _as_rows(limits)
    count, sources = rows.shape
    none = np.zeros((sources, count))
    program = milp(
        np.concatenate([np.zeros(count), np.ones(count), [0.0]]),
        integrality=np.concatenate([np.zeros(count), np.ones(count), [0]]),
        bounds=Bounds(np.append(np.zeros(2 * count), -count), np.append(np.ones(2 * count), count)),
        constraints=[
            LinearConstraint(np.hstack([np.eye(count), -np.eye(count), np.zeros((count, 1))]), -np.inf, 0.0),
            LinearConstraint(np.hstack([rows.T, none, np.ones((sources, 1))]), 0.0, np.inf),
            LinearConstraint(np.concatenate([at, np.zeros(count), [1.0]])[None], -np.inf, -CLEAR),
        ],
    )
    if program.x is None:
        return None
    return [limit for limit, counts in zip(limits, program.x[count : 2 * count] > 0.5, strict=True) if counts]


def _as_rows(limits: Sequence[Limit]) -> tuple[Matrix, Vector]:
    """Return the limits as ``rows @ shares <= at``."""
    signs = np.array([-1.0 if limit.side == "least" else 1.0 for limit in limits])
    return signs[:, None] * np.array([limit.members for limit in limits]), signs * [limit.at for limit in limits]


def listed(texts: Sequence[str], separator: str) -> str:
    """Return the first texts, and how many there are where there are more."""
    return separator.join(texts[:8]) + (f"{separator}... ({len(texts)} in all)" if len(texts) > 8 else "")
