"""The near-optimal set: all mixtures whose loss is within a tolerance of the certified optimum.

The loss is flat around its optimum and the proxies that predict it are weak, so the optimum is one of many mixtures
that the data cannot tell apart, and often an extreme one. Of these, this module finds the one nearest to a prior:

    minimise  KL(shares || prior)   with  L(shares) <= L* + within,   shares feasible

For some strength s it is the minimiser of L + s KL, whose loss rises with s: so s is found by a root search, warm
started. At any s, Lagrange's bound  KL* >= KL(shares_s) + (L(shares_s) - gap_s - L* - within) / s  is its certificate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mixray.errors import InputError
from mixray.numerics import Z95
from mixray.simplex.analysis.gain import gains
from mixray.simplex.checks import Vector, checked_shares
from mixray.simplex.goal import Prior, log_shares
from mixray.simplex.problem import Point, Problem
from mixray.simplex.solvers.solution import Solution
from mixray.simplex.solvers.solve import solve_problem

DIVERGENCE_TOLERANCE = 1e-6
"""Nats, on the certified gap of the divergence."""
TOLERANCE_SHARE = 1e-3
"""Of the loss allowed: how exactly the mixtures tried are solved, if that is less than the tolerance given."""
WEAKEST = 1e-9
"""The weakest pull tried, relative to the path's scale: below it the optimum itself is the answer."""
MOST_SOLVES = 100
DECADES = np.linspace(-3, 2, 16)
"""Strengths of the path, relative to the one that weighs loss and divergence alike."""


@dataclass(frozen=True, eq=False)
class PathPoint:
    """``strength``: nats per token, 0 at the optimum, inf at the prior; ``loss``: without the prior's term; ``rise``:
    over the optimum's; ``divergence``: KL(shares || prior), nats; ``effective_sources``: see ``effective_number``."""

    strength: float
    weights: Vector
    loss: float
    rise: float
    divergence: float
    effective_sources: float
    gap: float


@dataclass(frozen=True, eq=False)
class NearOptimal:
    """``weights``: the chosen shares; ``within``: by how much its loss may be above the optimum's, nats per token;
    ``divergence_gap``: a bound on how far the divergence is above the least possible one, nats; ``point``: the chosen
    mixture as the optimum of its own problem, the loss and a pull of its strength."""

    chosen: PathPoint
    within: float
    divergence_gap: float
    point: Point

    @property
    def weights(self) -> Vector:
        return self.chosen.weights


def nearest_to_prior(
    optimum: Solution,
    prior_shares: Vector,
    *,
    within: float | None,
    tolerance: float,
) -> NearOptimal:
    """Return the mixture of smallest divergence from the prior whose loss is within a tolerance of the optimum's.

    Args:
        optimum: the solution of a problem without a prior of its own.
        prior_shares: ``(sources,)``.
        within: nats per token, > 0; None: one standard error, over documents, of the optimum's gain over the prior (the
            feasible shares nearest to it), and the optimism of that gain: how well it is known.
        tolerance: of every solve, on its certified gap, nats per token.

    Raises:
        InputError: for a ``within`` that is not positive, a prior that excludes a source, and for a standard error of
            fewer than two documents.
    """
    problem = optimum.point.problem
    assert problem.prior is None, "the near-optimal set is one of losses, without a prior's term"
    shares = _positive(prior_shares, problem.sources)
    if within is not None and not within > 0:
        raise InputError("within: not a valid tolerance", got=within, wanted="a number > 0, nats per token, or one_se")
    far = _Path(problem, optimum, shares, tolerance).end()
    limit = _standard_error(far, optimum) if within is None else within
    if far.rise <= limit:  # the prior itself, or what is nearest to it, is near-optimal
        return NearOptimal(far, limit, 0.0, _own_optimum(optimum, far, shares))
    path = _Path(problem, optimum, shares, min(tolerance, TOLERANCE_SHARE * limit))
    chosen = _last_within(path, limit)
    return NearOptimal(chosen, limit, _divergence_gap(chosen, limit), _own_optimum(optimum, chosen, shares))


def _own_optimum(optimum: Solution, chosen: PathPoint, prior_shares: Vector) -> Point:
    """Return a mixture of the path as the optimum of the problem that it solves."""
    problem = optimum.point.problem
    if chosen.strength == 0:
        return optimum.point
    if np.isfinite(chosen.strength):
        problem = replace(problem, prior=Prior(prior_shares, chosen.strength))
    else:  # whatever the documents say
        problem = replace(problem, feasible=replace(problem.feasible, lower=chosen.weights, upper=chosen.weights))
    return problem.at(chosen.weights)


def effective_number(source_shares: Vector) -> float:
    """Return the exponential of the shares' entropy: 1 for one source, p for p equal shares."""
    positive = source_shares[source_shares > 0]
    return float(np.exp(-(positive @ np.log(positive))))


def prior_path(optimum: Solution, prior_shares: Vector, *, tolerance: float) -> list[PathPoint]:
    """Return points from the optimum to the prior: shares, loss and effective number of sources for rising strengths of
    the pull."""
    problem = optimum.point.problem
    path = _Path(problem, optimum, _positive(prior_shares, problem.sources), tolerance)
    return [path.start(), *(path.at(path.scale * 10**decade) for decade in DECADES), path.end()]


class _Path:
    """The minimisers of L + s KL; each solve starts at the last one's answer."""

    def __init__(self, problem: Problem, optimum: Solution, prior_shares: Vector, tolerance: float) -> None:
        self.problem, self.optimum, self.prior, self.tolerance = problem, optimum, prior_shares, tolerance
        self._last = optimum.weights
        near, far = self.start(), self.end()
        # Both ends coincide where the optimum is the prior: any scale will do.
        self.scale = max(far.rise, tolerance) / max(near.divergence - far.divergence, 1e-12)

    def start(self) -> PathPoint:
        return self._point(0.0, self.optimum.weights, self.optimum.loss, self.optimum.point.gap)

    def end(self) -> PathPoint:
        """Return the point at the feasible shares nearest to the prior."""
        shares = self.problem.feasible.nearest(log_shares(self.prior))
        return self._point(np.inf, shares, self.problem.at(shares).loss, 0.0)

    def at(self, strength: float) -> PathPoint:
        pulled = replace(self.problem, prior=Prior(self.prior, strength))
        solution = solve_problem(pulled, tolerance=self.tolerance, start=self._last)
        self._last = solution.weights
        return self._point(strength, solution.weights, solution.loss, solution.point.gap)

    def _point(self, strength: float, shares: Vector, loss: float, gap: float) -> PathPoint:
        divergence = float(shares @ (log_shares(shares) - log_shares(self.prior)))
        rise = max(0.0, loss - self.optimum.loss)
        return PathPoint(strength, shares, loss, rise, divergence, effective_number(shares), gap)


def _last_within(path: _Path, limit: float) -> PathPoint:
    """Return the point of the path with the largest strength whose rise is within the limit: bracketed, then narrowed
    down in the strength's logarithm until the divergence is certified."""
    low = high = path.at(path.scale)
    while high.rise <= limit:
        low, high = high, path.at(high.strength * 10)
    while low.rise > limit:
        if low.strength < WEAKEST * path.scale:
            return path.start()
        high, low = low, path.at(low.strength / 10)
    for _ in range(MOST_SOLVES):
        if _divergence_gap(low, limit) <= DIVERGENCE_TOLERANCE:
            break
        # Where a straight line through the rises crosses the limit, kept off both ends.
        part = float(np.clip((limit - low.rise) / (high.rise - low.rise), 0.05, 0.95))
        middle = path.at(float(low.strength ** (1 - part) * high.strength**part))
        if not low.strength < middle.strength < high.strength:
            break
        low, high = (middle, high) if middle.rise <= limit else (low, middle)
    return low


def _divergence_gap(point: PathPoint, limit: float) -> float:
    return max(0.0, (limit - point.rise + point.gap) / point.strength) if point.strength > 0 else float("inf")


def _standard_error(point: PathPoint, optimum: Solution) -> float:
    """Return one standard error of the optimum's gain over the prior, more than its optimism: by so much the optimum
    may look better on the documents that chose it and be no better on others."""
    problem = optimum.point.problem
    if min(objective.documents for objective in problem.objectives) < 2:
        raise InputError(
            "one standard error needs at least two documents of every target", remedy="give a number for 'within'"
        )
    # Without cross-fitting: the allowance that is wider for few documents gives up more of a gain that is there.
    gain = gains(optimum.point, {"prior": point.weights}, cross_fitting=False)["prior"]
    return max(0.0, gain.optimism) + (gain.high - gain.low) / (2 * Z95)


def _positive(prior_shares: Vector, sources: int) -> Vector:
    """Return prior shares from which every mixture has a divergence. Raises InputError for a share of 0."""
    shares = checked_shares("prior", prior_shares, sources)
    excluded = np.flatnonzero(shares == 0)
    if excluded.size:
        raise InputError(
            "the prior excludes sources, from which no mixture with them has a divergence",
            got=f"a share of 0 for source {', '.join(map(str, excluded))}",
            wanted="shares > 0",
            remedy="fix these sources at 0 by bounds, and give them any share in the prior",
        )
    return shares
