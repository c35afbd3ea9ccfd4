"""What each source and each limit is worth.

A source is worth the rise of the best loss when it is left out. A limit's shadow price is what loosening it would
bring: at the optimum the gradient, less the prices of the groups a source is in, is one number (the price of the sum)
for all sources between their bounds; at a lower bound it may be higher, at an upper one lower. The difference is the
bound's price: the loss falls by the price times the share by which the limit is loosened, to first order. Where limits
coincide, the price of one whose loosening brings nothing is 0.

A difference of two mixtures is judged on the same documents, whose differences vary less than their losses.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixray.errors import InputError
from mixray.numerics import interval95, sum_standard_error
from mixray.simplex.analysis.sampling import AT_LIMIT, Noise, response, sampled_noise
from mixray.simplex.checks import Vector
from mixray.simplex.feasible import FeasibleSet
from mixray.simplex.problem import Point, Problem
from mixray.simplex.solvers.quadratic import optimal_target_weights
from mixray.simplex.solvers.solution import Solution
from mixray.simplex.solvers.solve import solve_problem

PRICE_PRECISION = 1e-8
"""Relative to the spread of the gradient: smaller prices are rounding."""


def paired_difference(
    problem: Problem, source_shares: Vector, reference: Vector, target_weights: Vector | None = None
) -> tuple[float, float]:
    """Return loss(source_shares) - loss(reference) and its standard error, nats per token; NaN for the error of one
    document.

    The error is that of a sum over documents (of a ratio, where replicates are scaled to their own tokens), with the
    targets weighted as they count at the reference: what follows from re-weighting them is of second order.
    ``target_weights``: ``(targets,)``, those of a solution whose weights are the reference; by default they are worked
    out from its losses, which at a kink of the worst case name one target alone.
    """
    differences, variance = [], 0.0
    reference_losses = np.array([evaluation.value for evaluation in problem.at(reference).evaluations])
    pi = problem.goal.target_weights(reference_losses) if target_weights is None else target_weights
    for objective, weight in zip(problem.objectives, pi, strict=True):
        rows = objective.row_losses(source_shares) - objective.row_losses(reference)
        differences.append(float(rows.sum()))
        documents = objective.row_documents()
        error = sum_standard_error(documents.by_document(rows), documents.tokens_by_document())
        variance += (float(weight) * error) ** 2
    change = problem.goal.value(reference_losses + np.array(differences)) - problem.goal.value(reference_losses)
    return change, float(np.sqrt(variance))


@dataclass(frozen=True, eq=False)
class Worth:
    """What a source is worth.

    ``worth``: loss without the source minus loss with it, nats per token, >= 0. ``interval``: 95 %, over documents, of
    what it is worth to the best mixtures for all documents, without what its share owes to being fitted to these; NaN
    where a target has one document. ``weights``: the best mixture without the source. ``gap``: its certificate, and so
    how exact ``worth`` is.
    """

    worth: float
    interval: tuple[float, float]
    weights: Vector
    gap: float


def leave_one_out(
    solution: Solution, *, solver: str = "auto", tolerance: float, seed: int = 0, replicates: int = 200
) -> list[Worth | None]:
    """Return what every source is worth; None where the constraints, or documents that no other source explains, allow
    no mixture without it. ``replicates``: samples of documents over which the errors are taken."""
    problem, shares = solution.point.problem, solution.weights
    without: dict[int, Solution] = {}
    for source in np.flatnonzero(shares > 0).tolist():
        with suppress(InputError):
            fewer, start = problem.without(source), _without_share(shares, source)
            without[source] = solve_problem(fewer, solver=solver, tolerance=tolerance, start=start)
    mixtures = np.array([shares, *(each.weights for each in without.values())])
    noise = sampled_noise(problem, shares, mixtures, seed=seed, replicates=replicates)
    known = min(objective.documents for objective in problem.objectives) > 1
    fit = _optimism_of_a_share(solution.point, noise) if known else np.nan
    paired = np.tensordot(noise.losses - noise.losses[:, :, :1], solution.target_weights, axes=(1, 0))
    errors = dict(zip(without, np.sqrt(paired[:, 1:].var(axis=0, ddof=1) + fit**2).tolist(), strict=True))

    def worth_of(source: int) -> Worth | None:
        if shares[source] == 0:  # the optimum for these documents does without it
            high = max(0.0, interval95(-fit / 2, fit)[1]) if problem.feasible.upper[source] > 0 and known else 0.0
            return Worth(0.0, (0.0, high), shares, solution.gap)
        if source not in without:
            return None
        fewer = without[source]
        rise = max(0.0, fewer.point.value - solution.point.value)
        low, high = interval95(rise - fit / 2, errors[source])
        return Worth(rise, (max(0.0, low), max(0.0, high)) if known else (np.nan, np.nan), fewer.weights, fewer.gap)

    return [worth_of(source) for source in range(problem.sources)]


def _optimism_of_a_share(optimum: Point, noise: Noise) -> float:
    """Return by how much one share that is free to be fitted lowers the loss below that of fresh documents, nats per
    token: the fit's optimism divided among its free shares. Half of it is by how much it lowers the loss on the
    documents at hand."""
    follows = response(optimum)
    if follows.free < 1:
        return 0.0
    change = follows.to(noise.gradients, noise.losses[:, :, 0])
    pull = np.tensordot(noise.gradients[:, :, follows.columns], follows.target_weights, axes=(1, 0))
    unbiased = len(change) / (len(change) - 1)
    return max(0.0, -unbiased * float((pull * change).sum(axis=1).mean()) / follows.free)


def _without_share(shares: Vector, source: int) -> Vector:
    """Return the shares without one source's, which goes to the others in equal parts if they have none."""
    rest = shares.copy()
    rest[source] = 0.0
    if rest.sum() == 0:
        rest[:] = 1.0
        rest[source] = 0.0
    scaled: Vector = rest / rest.sum()
    return scaled


@dataclass(frozen=True, eq=False)
class Prices:
    """Nats per token by which the minimised value falls per unit of share that a limit is loosened, >= 0.

    A price is 0 where the limit is not reached, and for a source that must have no share: a slope does not tell what
    its first share would bring.

    ``lower``, ``upper``: ``(sources,)``, 0 for the simplex' own bounds 0 and 1; ``group_lower``, ``group_upper``:
    ``(groups,)``.
    """

    lower: Vector
    upper: Vector
    group_lower: Vector
    group_upper: Vector


def shadow_prices(point: Point) -> Prices:
    """Return the prices at the optimum."""
    feasible, shares, prior = point.problem.feasible, point.shares, point.problem.prior
    gradient = optimal_target_weights(point) @ point.jacobian + (prior.gradient(shares) if prior else 0.0)
    prices = _smallest_prices(feasible, shares, gradient)
    lower, upper, group_lower, group_upper = np.split(prices, np.cumsum([shares.size, shares.size, feasible.groups]))
    return Prices(lower, upper, group_lower, group_upper)


def _smallest_prices(feasible: FeasibleSet, shares: Vector, gradient: Vector) -> Vector:
    """Return the price of every limit: lower and upper bounds, then lower and upper limits of groups.

    Prices and a level, the price of the sum, are a dual solution of the linear program that the optimum solves. Where
    limits coincide there are several, and loosening a limit brings the smallest of its prices: while it is loosened,
    the others still hold.
    """
    from scipy.optimize import linprog  # start-up is lazy: only limits need it

    lower, upper, group_lower, group_upper = feasible.lower, feasible.upper, feasible.group_lower, feasible.group_upper
    allowed, scale = upper > 0, float(np.ptp(gradient)) or 1.0
    sums, ones = feasible.member @ shares, np.eye(shares.size)
    limits = np.hstack([ones, -ones, feasible.member.T, -feasible.member.T])
    priced = np.concatenate([lower > 0, upper < 1, group_lower > 0, group_upper < 1, [False]])
    # How far away a limit is, times its price, is what the price fails to prove; the level costs nothing.
    away = np.concatenate([shares - lower, upper - shares, sums - group_lower, group_upper - sums, [0.0]])
    costs = np.maximum(away, 0.0)
    options: dict[str, Any] = {
        "A_eq": np.column_stack([limits, np.ones(shares.size)])[allowed],
        "b_eq": ((gradient - gradient.min()) / scale)[allowed],
        "bounds": [(0.0, None)] * limits.shape[1] + [(None, None)],
        "options": {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    }
    first = linprog(costs, **options)
    prices = np.where(priced, first.x, 0.0)
    bounds_away = costs[: 2 * shares.size].reshape(2, -1)
    between, reached = (bounds_away > AT_LIMIT).all(axis=0), costs[2 * shares.size : -1] <= AT_LIMIT
    deciding = np.vstack([limits[:, 2 * shares.size :][between][:, reached].T, np.ones(between.sum())])
    if np.linalg.matrix_rank(deciding) < len(deciding):  # else there are no other prices
        proof = {"A_ub": costs[None], "b_ub": [first.fun + PRICE_PRECISION]}
        for limit in np.flatnonzero(prices > PRICE_PRECISION):
            prices[limit] = linprog(np.eye(costs.size)[limit], **proof, **options).fun
    return scale * np.where(prices > PRICE_PRECISION, prices, 0.0)[:-1]
