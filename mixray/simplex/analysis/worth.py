"""What each source and each limit is worth.

A source is worth the rise of the best loss when it is left out. A limit's shadow price is what loosening it would
bring: at the optimum the gradient, less the prices of the groups a source is in, is one number (the price of the sum)
for all sources between their bounds; at a lower bound it may be higher, at an upper one lower. The difference is the
bound's price: the loss falls by the price times the share by which the limit is loosened, to first order.

A difference of two mixtures is judged on the same documents, whose differences vary less than their losses.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from mixray.errors import InputError
from mixray.numerics import interval95, sum_standard_error
from mixray.simplex.analysis.sampling import AT_LIMIT, Noise, response, sampled_noise
from mixray.simplex.checks import Mask, Vector
from mixray.simplex.problem import Point, Problem
from mixray.simplex.solvers.quadratic import optimal_target_weights
from mixray.simplex.solvers.solution import Solution
from mixray.simplex.solvers.solve import solve_problem


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
    group_prices = np.zeros(feasible.groups)
    if feasible.groups:
        sums = feasible.member @ shares
        dual = feasible.linear_prices(gradient)
        group_prices = np.where(sums <= feasible.group_lower + AT_LIMIT, np.maximum(dual, 0.0), 0.0)
        group_prices += np.where(sums >= feasible.group_upper - AT_LIMIT, np.minimum(dual, 0.0), 0.0)
    priced = gradient - group_prices @ feasible.member
    at_lower, at_upper = shares <= feasible.lower + AT_LIMIT, shares >= feasible.upper - AT_LIMIT
    between = np.where(at_lower | at_upper, 0.0, shares - feasible.lower)
    level = _level(priced, at_lower & ~at_upper, at_upper & ~at_lower, between)
    return Prices(
        lower=np.where(at_lower & (feasible.lower > 0), np.maximum(priced - level, 0.0), 0.0),
        upper=np.where(at_upper & (feasible.upper < 1), np.maximum(level - priced, 0.0), 0.0),
        group_lower=np.maximum(group_prices, 0.0),
        group_upper=np.maximum(-group_prices, 0.0),
    )


def _level(priced: Vector, at_lower: Mask, at_upper: Mask, between: Vector) -> float:
    """Return the price of the sum: that of the sources between their bounds, most of all of those with much to lose, or
    else the middle of the interval that the others allow."""
    if between.any():
        return float(np.average(priced, weights=between))
    ends = [*(priced[at_lower].min(keepdims=True) if at_lower.any() else [])]
    ends += [*(priced[at_upper].max(keepdims=True) if at_upper.any() else [])]
    return float(np.mean(ends)) if ends else float(priced.mean())
