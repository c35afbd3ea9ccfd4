"""The feasible set: a box on the simplex, with or without limits on sums over groups of sources.

The box answers exactly by itself. Groups are priced: with a price on every group's sum (its Lagrange multiplier) the
question is one about the box again, and whatever the prices, the answer's value is a bound on the constrained one. So
the certificate holds wherever the prices come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import daqp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixray.errors import InputError
from mixray.simplex.box import Box
from mixray.simplex.checks import Matrix, Vector
from mixray.simplex.conflicts import Limit, conflict, limits_of, listed
from mixray.simplex.objectives.passes import one_blas_thread

SUM_TOLERANCE = 1e-12
"""How far from 1 the sum of shares may be."""
PROJECTION_TOLERANCES = (1e-13, 1e-12, 1e-11)
"""Of a projection, the next one tried where daqp takes a set that rounding nearly empties for an empty one."""
PATIENCE = 1000
"""Steps without progress after which daqp gives up a projection: it takes up to a hundred where many shares are at
their limits and only the last digits are wrong."""
DAQP_SOLVED = 1
DAQP_EQUALITY = 5


@dataclass(frozen=True)
class Group:
    """``lower <= sum of the members' shares <= upper``; ``members``: numbers of sources."""

    members: Sequence[int]
    lower: float = 0.0
    upper: float = 1.0


@dataclass(frozen=True, eq=False)
class FeasibleSet:
    """``{shares: lower <= shares <= upper, group_lower <= member @ shares <= group_upper, sum = 1}``.

    ``lower``, ``upper``: float64 ``(sources,)``; ``member``: float64 ``(groups, sources)``, 0 or 1; ``group_lower``,
    ``group_upper``: float64 ``(groups,)``.
    """

    lower: Vector
    upper: Vector
    member: Matrix
    group_lower: Vector
    group_upper: Vector

    @classmethod
    def of(
        cls,
        sources: int,
        lower: ArrayLike | None = None,
        upper: ArrayLike | None = None,
        groups: Sequence[Group] = (),
        names: Sequence[str] | None = None,
    ) -> FeasibleSet:
        """Return the set of shares that satisfy all limits.

        Args:
            sources: how many there are.
            lower: one number for all sources or one per source; 0 by default.
            upper: likewise; 1 by default.
            groups: limits on sums of shares.
            names: of the sources, for messages.

        Raises:
            InputError: when a bound is not a number in [0, 1], when a group has no or unknown members, and when no
                shares satisfy all limits: it names a smallest conflict, and limits that would mend it.
        """
        low = _bound("lower", 0.0 if lower is None else lower, sources)
        high = _bound("upper", 1.0 if upper is None else upper, sources)
        member = np.zeros((len(groups), sources))
        for row, group in zip(member, groups, strict=True):
            members = list(group.members)
            numbers = all(isinstance(source, int | np.integer) and not isinstance(source, bool) for source in members)
            if not members or not numbers or not all(0 <= source < sources for source in members):
                raise InputError("a group needs valid members", got=members, wanted=f"sources 0 to {sources - 1}")
            row[members] = 1.0
        limits = np.array([(group.lower, group.upper) for group in groups], np.float64).reshape(-1, 2)
        if not ((limits >= 0) & (limits <= 1)).all():
            raise InputError("a group's limits are not valid shares", got=limits.tolist(), wanted="0 to 1")
        feasible = cls(low, high, member, limits[:, 0], limits[:, 1])
        feasible._refuse_conflicts(names or [f"source {source}" for source in range(sources)])
        return feasible._without_forced()

    @property
    def box(self) -> Box:
        return Box(self.lower, self.upper)

    @property
    def groups(self) -> int:
        return len(self.member)

    @cached_property
    def free(self) -> NDArray[np.bool_]:
        """Which sources have bounds that leave them room, bool ``(sources,)``."""
        return self.upper > self.lower

    @cached_property
    def centre(self) -> Vector:
        """The feasible shares nearest to balanced in the Kullback-Leibler sense."""
        return self.nearest(np.zeros(self.lower.size))

    def without(self, source: int) -> FeasibleSet:
        """Return the set with one source's share fixed at 0. Raises InputError where that leaves no mixture."""
        upper = self.upper.copy()
        upper[source] = 0.0
        return self.limited_to(upper)

    def limited_to(self, upper: Vector) -> FeasibleSet:
        """Return the set under other upper bounds. Raises InputError where these allow no mixture."""
        feasible = FeasibleSet(self.lower, upper, self.member, self.group_lower, self.group_upper)
        feasible._refuse_conflicts([f"source {source}" for source in range(upper.size)])
        return feasible._without_forced()

    def _without_forced(self) -> FeasibleSet:
        """Return the same set, the upper bound of every source 0 that the other limits leave no room: its share is then
        exactly 0, not within rounding, which long documents tell apart, and it does not scale the rows."""
        room = 1 - (self.lower.sum() - self.lower)
        for member, low, high in zip(self.member > 0, self.group_lower, self.group_upper, strict=True):
            inside, outside = self.lower[member].sum(), self.lower[~member].sum()
            room = np.minimum(room, np.where(member, high - inside, 1 - max(low, inside) - outside) + self.lower)
        forced = (self.lower == 0) & (room <= SUM_TOLERANCE)
        if self.groups > 1:
            forced |= self._forced_by_several_groups(~forced & (self.lower == 0) & (self.upper > 0))
        return replace(self, upper=np.where(forced, 0.0, self.upper))

    def _forced_by_several_groups(self, doubtful: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which of the doubtful sources have share 0 in every mixture, by linear programs: each looks for a
        mixture in which as many of them as possible have a share."""
        from scipy.optimize import linprog  # start-up is lazy: only groups need it

        sources = self.lower.size
        enough = 1e-3 / sources
        doubtful = doubtful & (self.upper > 1e-3 * enough)  # of smaller shares a linear program knows nothing
        while doubtful.any():
            chosen = np.eye(sources)[doubtful]
            count = len(chosen)
            program = linprog(
                np.concatenate([np.zeros(sources), -np.ones(count)]),
                A_ub=np.vstack(
                    [
                        np.hstack([self.member, np.zeros((self.groups, count))]),
                        np.hstack([-self.member, np.zeros((self.groups, count))]),
                        np.hstack([-chosen, np.eye(count)]),
                    ]
                ),
                b_ub=np.concatenate([self.group_upper, -self.group_lower, np.zeros(count)]),
                A_eq=np.concatenate([np.ones(sources), np.zeros(count)])[None],
                b_eq=[1.0],
                bounds=np.vstack([np.column_stack([self.lower, self.upper]), np.tile([0.0, enough], (count, 1))]),
                method="highs",
            )
            if program.status != 0:  # a set so thin that rounding empties it forces nothing for certain
                return np.zeros(sources, bool)
            positive = program.x[sources:] > 1e-3 * enough
            if not positive.any():
                break
            doubtful[np.flatnonzero(doubtful)[positive]] = False
        return doubtful

    # ------------------------------------------------------------------------------------------------- three questions

    def linear_bound(self, gradient: Vector, group_prices: Vector | None = None) -> float:
        """Return a lower bound on ``<gradient, shares>`` over the set: exact but for rounding, at any scale.

        ``group_prices``: prices to try besides those of the linear program, which knows only some digits.
        """
        if not self.groups:
            return float(gradient @ self.box.linear_minimum(gradient))
        trials = [self.linear_prices(gradient), np.zeros(self.groups)]
        trials += [] if group_prices is None else [group_prices]
        return max(self._priced_bound(gradient, prices) for prices in trials)

    def nearest(self, log_shares: Vector) -> Vector:
        """Return the feasible shares of smallest KL divergence from ``exp(log_shares)``, which need not sum to 1."""
        if not self.groups:
            return self.box.nearest(log_shares)
        return self.repair(self.box.nearest(log_shares + self.entropic_prices(log_shares) @ self.member))

    def repair(self, shares: Vector) -> Vector:
        """Return feasible shares near to ``shares``; where only rounding is wrong, only rounding changes."""
        shares = self.box.repair(shares)
        sums = self.member @ shares
        summing = abs(shares.sum() - 1) <= SUM_TOLERANCE
        if summing and ((sums >= self.group_lower - SUM_TOLERANCE) & (sums <= self.group_upper + SUM_TOLERANCE)).all():
            return shares
        return self.projection(shares)

    def projection(self, shares: Vector) -> Vector:
        """Return the feasible shares with the least Euclidean distance to ``shares``."""
        for tolerance in PROJECTION_TOLERANCES:
            projection, flag = self._projected(shares, tolerance)
            if flag == DAQP_SOLVED:
                return self.box.repair(projection)
        raise AssertionError(f"the projection onto a set that is not empty failed: daqp {flag}")

    def _projected(self, shares: Vector, tolerance: float) -> tuple[Vector, int]:
        """Return the nearest shares that are feasible within a tolerance, and daqp's exit flag."""
        sources = shares.size
        senses = np.zeros(sources + 1 + self.groups, np.int32)
        senses[sources] = DAQP_EQUALITY
        projection, _, flag, _ = daqp.solve(
            np.eye(sources),
            -shares,
            np.vstack([np.ones(sources), self.member]),
            np.concatenate([self.upper, [1.0], self.group_upper]),
            np.concatenate([self.lower, [1.0], self.group_lower]),
            senses,
            primal_tol=tolerance,
            cycle_tol=PATIENCE,
        )
        return projection, flag

    # --------------------------------------------------------------------------------------------------------- prices

    def entropic_prices(self, log_shares: Vector) -> Vector:
        """Return the groups' prices at the projection of ``exp(log_shares)``, by maximising a smooth concave dual."""
        from scipy.optimize import minimize  # start-up is lazy: only groups need it

        def negative(split: Vector) -> tuple[float, Vector]:
            prices = split[: self.groups] - split[self.groups :]
            shares = self.box.nearest(log_shares + prices @ self.member)
            sums = self.member @ shares
            divergence = float(shares @ (np.log(np.maximum(shares, 1e-300)) - log_shares))
            slope = np.concatenate([self.group_lower - sums, sums - self.group_upper])
            return -(divergence - float(prices @ sums) + self.support(prices)), -slope

        bounds = [(0.0, None)] * (2 * self.groups)
        with one_blas_thread():  # for a handful of variables, waking threads takes longer than the work
            optimum = minimize(
                negative,
                np.zeros(2 * self.groups),
                jac=True,
                bounds=bounds,
                method="L-BFGS-B",
                options={"maxiter": 500, "ftol": 1e-15, "gtol": 1e-12},
            )
        prices: Vector = optimum.x[: self.groups] - optimum.x[self.groups :]
        return prices

    def support(self, group_prices: Vector) -> float:
        """Return the least that prices on the groups' sums add: each price times the limit that it defends."""
        return float(group_prices @ np.where(group_prices > 0, self.group_lower, self.group_upper))

    def _priced_bound(self, gradient: Vector, group_prices: Vector) -> float:
        priced = gradient - group_prices @ self.member
        return float(priced @ self.box.linear_minimum(priced)) + self.support(group_prices)

    def linear_prices(self, gradient: Vector) -> Vector:
        """Return the groups' prices at the smallest ``<gradient, shares>``, from the linear program's dual."""
        scale = float(np.ptp(gradient)) or 1.0
        program = _linear_program((gradient - gradient.min()) / scale, self.lower, self.upper, self)
        prices: Vector = scale * (program.ineqlin.marginals[self.groups :] - program.ineqlin.marginals[: self.groups])
        return -prices

    # ------------------------------------------------------------------------------------------------------ conflicts

    def _refuse_conflicts(self, names: Sequence[str]) -> None:
        limits = limits_of(self.lower, self.upper, self.member, self.group_lower, self.group_upper, names)
        if not self._possible(limits):
            raise conflict(limits, self._possible)

    def _possible(self, limits: Sequence[Limit]) -> bool:
        sources = self.lower.size
        low, high = np.zeros(sources), np.ones(sources)
        group_low, group_high = np.zeros(self.groups), np.ones(self.groups)
        for limit in limits:
            lower, upper = (low, high) if limit.kind == "source" else (group_low, group_high)
            (lower if limit.side == "least" else upper)[limit.place] = limit.at
        if (low > high).any() or (group_low > group_high).any():
            return False
        if low.sum() > 1 + SUM_TOLERANCE or high.sum() < 1 - SUM_TOLERANCE:
            return False
        if not self.groups:
            return True
        trial = FeasibleSet(low, high, self.member, group_low, group_high)
        program = _linear_program(np.zeros(sources), low, high, trial)
        # The linear program overlooks conflicts of 1e-11, the projection of its answer does not.
        return bool(program.status == 0) and trial._projected(program.x, PROJECTION_TOLERANCES[0])[1] == DAQP_SOLVED


def _linear_program(gradient: Vector, lower: Vector, upper: Vector, feasible: FeasibleSet):  # type: ignore[no-untyped-def]
    """Solve for the shares of smallest ``<gradient, shares>``; return scipy's result."""
    from scipy.optimize import linprog

    return linprog(
        gradient,
        A_ub=np.vstack([feasible.member, -feasible.member]),
        b_ub=np.concatenate([feasible.group_upper, -feasible.group_lower]),
        A_eq=np.ones((1, lower.size)),
        b_eq=[1.0],
        bounds=np.column_stack([lower, upper]),
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )


def _bound(name: str, bound: ArrayLike, sources: int) -> Vector:
    values = np.asarray(bound, dtype=np.float64)
    if values.shape not in ((), (sources,)):
        raise InputError(f"{name}: one bound per source is needed", got=f"shape {values.shape}", wanted=f"({sources},)")
    values = np.broadcast_to(values, sources).copy()
    bad = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if bad.size:
        raise InputError(f"{name}: the bound of {_name(bad)} is not a valid share", got=values[bad[0]], wanted="0 to 1")
    return values


def _name(sources: NDArray[np.intp]) -> str:
    return f"source{'s' if sources.size > 1 else ''} {listed([str(source) for source in sources], ', ')}"
