"""The mixtures of other samples of the targets' documents, and which sources stand for each other in them.

A replicate draws documents of every target with replacement (``objectives/draws.py`` says how); a row's weight is
multiplied by how often its document was drawn, and the problem is solved again. A replicate's optimum is near the full
sample's: so the curvature there serves all replicates, a round costs two matrix products for a whole batch of them, and
the few that have not reached their tolerance after some rounds are finished by the exact method. Each one's gap is
certified.

A replicate is solved to a gap of a thousandth of what sampling does to the gradient, so that its own error does not
show. For D documents that is about W / sqrt(D), W the sum of the row weights (of a squared error: its value / sqrt(D)),
or less where the sources' rows hardly differ: then it is measured. The spread of the replicates is no interval of a
share: ``profile.py`` says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from mixray.errors import InputError
from mixray.simplex.analysis.sampling import replicate_batches
from mixray.simplex.checks import Matrix, Vector, checked_shares
from mixray.simplex.goal import Mean, Worst
from mixray.simplex.objectives.objective import Replicates
from mixray.simplex.objectives.passes import Columns
from mixray.simplex.problem import Point, Problem, Proof
from mixray.simplex.solvers.first_order import is_multiplicative
from mixray.simplex.solvers.loop import Solver, minimise
from mixray.simplex.solvers.newton import Newton, columns_to_move
from mixray.simplex.solvers.quadratic import model_step, optimal_target_weights
from mixray.simplex.solvers.working_set import WorkingSet

NOISE_SHARE = 1e-3
"""The gap of a replicate as a part of the gradient's sampling noise."""
MEASURED = 16
"""Replicates over which the gradient's sampling noise is measured."""
SHARED_ROUNDS = 6
"""Rounds with the shared curvature before a replicate is handed to the exact method."""
EXACT_ROUNDS = 100
FEW_OF_MANY = WorkingSet(64)
"""The exact method for more sources than that, few of which have a share: on 283 sources it takes a fifth of the time
that it does with a curvature over all of them, or less."""
ANTI_CORRELATED = -0.8
UNDECIDED = 0.25
"""Standard deviation of how two sources split what they have together, as a part of that: a 95 % interval of the split
holds nearly any."""
NOTABLE_SPREAD = 0.01
"""Standard deviation of a share across replicates below which the data fix it."""
ALIKE = 1e-6
"""Curvature along the exchange of two sources, relative to that of both, below which their columns are equal."""


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """The mixtures of other samples.

    ``replicate_shares``: ``(replicates, sources)``. ``gap``: the largest certified gap of a replicate, nats per token.
    ``documents``: how many there are in all targets.
    """

    replicate_shares: Matrix
    gap: float
    documents: int


def bootstrap(problem: Problem, source_shares: ArrayLike, *, seed: int, replicates: int = 200) -> Bootstrap:
    """Return the shares that solve ``problem`` on other samples of its documents.

    Args:
        problem: its objectives say which rows form a document.
        source_shares: its answer, ``(sources,)``.
        seed: the same seed gives the same bits.
        replicates: how many samples are drawn.

    Raises:
        InputError: for fewer than one replicate, and shares that are not valid.
    """
    if replicates < 1:
        raise InputError("bootstrap: no replicates", got=replicates, wanted=">= 1")
    optimum = problem.feasible.repair(checked_shares("source_shares", source_shares, problem.sources))
    curved = problem.at(optimum, np.flatnonzero(problem.feasible.free))
    first = [target.replicates(seed, place, range(MEASURED)) for place, target in enumerate(problem.objectives)]
    tolerance = replicate_tolerance(curved, first)
    solved = [
        _solve_batch(curved, batch, tolerance) for batch in replicate_batches(problem.objectives, seed, replicates)
    ]
    replicate_shares = np.concatenate([shares for shares, _ in solved])
    gaps = np.concatenate([batch_gaps for _, batch_gaps in solved])
    return Bootstrap(
        replicate_shares=replicate_shares,
        gap=float(gaps.max()),
        documents=sum(target.documents for target in problem.objectives),
    )


def replicate_tolerance(optimum: Point, replicates: Sequence[Replicates]) -> float:
    """Return the gap to which replicates are solved, nats per token: small beside the gradient's sampling noise.

    ``optimum``: the full sample's; ``replicates``: some of every target.
    """
    problem, free = optimum.problem, optimum.problem.feasible.free
    noise = []
    for target, at, batch in zip(problem.objectives, optimum.evaluations, replicates, strict=True):
        points = np.repeat(optimum.shares[None], batch.count, axis=0)
        gradients = np.array([each.gradient for each in batch.at(points, np.arange(batch.count), values=False)])
        spread = np.ptp((gradients - at.gradient)[:, free], axis=1).mean() if free.any() else 0.0
        expected = (target.total_weight or at.value or 1.0) / np.sqrt(target.documents)
        noise.append(min(float(expected), float(spread)))
    rounding = float(np.spacing(abs(optimum.value)))
    return max(NOISE_SHARE * float(optimum.target_weights @ np.array(noise)), rounding)


def replicate_optima(optimum: Point, batch: Sequence[Replicates]) -> Matrix:
    """Return the shares that solve every replicate of a batch, ``(replicates, sources)``. ``optimum``: the full
    sample's."""
    problem = optimum.problem
    curved = problem.at(optimum.shares, np.flatnonzero(problem.feasible.free), optimum.proof)
    return _solve_batch(curved, batch, replicate_tolerance(curved, batch))[0]


def _solve_batch(curved: Point, batch: Sequence[Replicates], tolerance: float) -> tuple[Matrix, Vector]:
    """Return shares ``(replicates, sources)`` and their gaps: rounds for all together, then the exact method for the
    rest. ``curved``: the full sample's optimum, with its curvature."""
    problem = curved.problem
    objectives = zip(*([target.one(i) for i in range(batch[0].count)] for target in batch), strict=True)
    problems = [replace(problem, objectives=each) for each in objectives]
    if isinstance(problem.goal, Worst) and problem.goal.rule is not None:
        offsets = problem.goal.rule.replicated(batch)
        problems = [
            replace(each, goal=replace(problem.goal, offsets=own)) for each, own in zip(problems, offsets, strict=True)
        ]
    shares, gaps = np.repeat(curved.shares[None], len(problems), axis=0), np.full(len(problems), np.inf)
    proofs: list[Proof | None] = [None] * len(problems)
    values = isinstance(problem.goal, Worst)
    has_many_sources = problem.feasible.free.sum() > FEW_OF_MANY.size and (
        problem.prior is None and is_multiplicative(problem) and isinstance(problem.goal, Mean)
    )
    for _ in range(SHARED_ROUNDS if problem.prior is None else 0):
        pending = np.flatnonzero(gaps > tolerance)
        if not pending.size:
            break
        by_target = [target.at(shares[pending], pending, values=values) for target in batch]
        for i, *evaluations in zip(pending, *by_target, strict=True):
            with_curvature = [
                replace(evaluation, curvature=shared.curvature)
                for evaluation, shared in zip(evaluations, curved.evaluations, strict=True)
            ]
            point = Point(problems[i], shares[i], tuple(with_curvature), curved.columns, proofs[i])
            gaps[i] = point.gap
            if gaps[i] <= tolerance:
                continue
            if has_many_sources:
                point = _restricted(point, columns_to_move(point, shares[i]))
            if step := model_step(point, problem.feasible.lower, problem.feasible.upper):
                shares[i], proofs[i] = problem.feasible.repair(shares[i] + step.direction), step.proof
    for i in np.flatnonzero(gaps > tolerance):
        exact: Solver = FEW_OF_MANY if has_many_sources else Newton()
        start = shares[i] if has_many_sources else problem.inside(shares[i])
        reached = minimise(problems[i], exact, start, tolerance, EXACT_ROUNDS).point
        shares[i], gaps[i] = reached.shares, reached.gap
    return shares, gaps


def _restricted(point: Point, columns: Columns) -> Point:
    """Return the point with curvature over some of its columns alone."""
    assert point.columns is not None
    places = np.ix_(*2 * [np.searchsorted(point.columns, columns)])
    evaluations = []
    for at in point.evaluations:
        assert at.curvature is not None
        evaluations.append(replace(at, curvature=at.curvature[places]))
    return replace(point, evaluations=tuple(evaluations), columns=columns)


@dataclass(frozen=True)
class Interchangeable:
    """Two sources that the data hardly tell apart. ``correlation``: of their shares across replicates."""

    first: int
    second: int
    correlation: float


def interchangeable(optimum: Point, replicate_shares: Matrix) -> list[Interchangeable]:
    """Return pairs of sources of which one could stand for the other.

    These are pairs whose shares rise and fall against each other across the bootstrap's replicates ``(replicates,
    sources)``, by so much that nearly any split between them is as good: the loss hardly curves along their exchange,
    beside its sampling noise. And pairs with equal columns, between which no replicate can decide.
    """
    free = np.flatnonzero(optimum.problem.feasible.free & (replicate_shares.mean(axis=0) > NOTABLE_SPREAD / 2))
    if free.size < 2 or len(replicate_shares) < 3:
        return []
    curvature = optimum.problem.at(optimum.shares, free).curvature(optimal_target_weights(optimum))
    diagonal = curvature.diagonal()
    both = diagonal[:, None] + diagonal
    alike = both - 2 * curvature <= ALIKE * both
    spread = replicate_shares[:, free].std(axis=0)
    notable = spread >= NOTABLE_SPREAD
    centred = replicate_shares[:, free] - replicate_shares[:, free].mean(axis=0)
    correlation = (centred.T @ centred) / len(centred) / np.maximum(np.outer(spread, spread), 1e-300)
    # Across replicates: two shares that sum to 1 are opposed however well the documents tell the sources apart.
    together = replicate_shares[:, free].mean(axis=0)
    variance = np.square(spread)
    split = np.sqrt(np.maximum(variance + variance[:, None] - 2 * (centred.T @ centred) / len(centred), 0.0)) / 2
    undecided = split >= UNDECIDED * (together + together[:, None])
    opposed = (correlation <= ANTI_CORRELATED) & undecided & notable & notable[:, None]
    pairs = np.argwhere(np.triu(opposed | alike, 1))
    return [Interchangeable(int(free[i]), int(free[j]), float(np.clip(correlation[i, j], -1, 1))) for i, j in pairs]
