"""Error bars: how far the mixture and its gain would move with another sample of the targets' documents.

A replicate draws documents of every target with replacement (``objectives/draws.py`` says how); a row's weight is
multiplied by how often its document was drawn, and the problem is solved again. A replicate's optimum is near the full
sample's: so the curvature there serves all replicates, a round costs two matrix products for a whole batch of them, and
the few that have not reached their tolerance after some rounds are finished by the exact method. Each one's gap is
certified.

Sampling D documents moves the gradient by about W / sqrt(D), W the sum of the row weights (of a squared error: by its
value / sqrt(D)); a replicate is solved to a gap of a thousandth of that, so that its own error does not show in the
intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from mixray.errors import InputError
from mixray.simplex.checks import Matrix, Vector, checked_shares
from mixray.simplex.goal import Worst
from mixray.simplex.objectives.objective import Replicates
from mixray.simplex.objectives.passes import block_rows
from mixray.simplex.problem import Point, Problem, Proof
from mixray.simplex.solvers.loop import minimise
from mixray.simplex.solvers.newton import Newton
from mixray.simplex.solvers.quadratic import model_step, optimal_target_weights

LEVELS = (0.025, 0.975)
NOISE_SHARE = 1e-3
"""The gap of a replicate as a part of the gradient's sampling noise."""
SHARED_ROUNDS = 6
"""Rounds with the shared curvature before a replicate is handed to the exact method."""
EXACT_ROUNDS = 100
BATCH_ENTRIES = 2**20
"""Rows of a block x replicates that a thread works on at once."""
ANTI_CORRELATED = -0.8
NOTABLE_SPREAD = 0.01
"""Standard deviation of a share across replicates below which the data fix it."""
ALIKE = 1e-6
"""Curvature along the exchange of two sources, relative to that of both, below which their columns are equal."""


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """The intervals of a mixture.

    ``interval``: 95 % percentile interval of every share, ``(sources, 2)``. ``gain``: baseline -> 95 % interval of
    loss(baseline) - loss(mixture), nats per token. ``replicate_shares``: ``(replicates, sources)``. ``gap``: the
    largest certified gap of a replicate, nats per token. ``documents``: how many there are in all targets.
    """

    interval: Matrix
    gain: dict[str, tuple[float, float]]
    replicate_shares: Matrix
    gap: float
    documents: int


def bootstrap(
    problem: Problem,
    source_shares: ArrayLike,
    *,
    seed: int,
    replicates: int = 200,
    judged: ArrayLike | None = None,
    baselines: Mapping[str, ArrayLike] | None = None,
) -> Bootstrap:
    """Return intervals for the shares that solve ``problem``, over documents, and for its gain over baselines.

    The gain is that of the given mixture on resampled documents. It was fitted to the same documents, so its interval
    says how much depends on their choice, not what held-out documents would show.

    Args:
        problem: its objectives say which rows form a document.
        source_shares: its answer, ``(sources,)``.
        seed: the same seed gives the same bits.
        replicates: how many samples are drawn.
        judged: the mixture whose gain is computed, ``(sources,)``; the answer by default.
        baselines: name -> shares ``(sources,)``.

    Raises:
        InputError: for fewer than one replicate, and a baseline that is not a valid mixture or gives some rows
            probability 0.
    """
    if replicates < 1:
        raise InputError("bootstrap: no replicates", got=replicates, wanted=">= 1")
    objectives = problem.objectives
    optimum = problem.feasible.repair(checked_shares("source_shares", source_shares, problem.sources))
    mixture = optimum if judged is None else checked_shares("judged", judged, problem.sources)
    baseline_shares = {
        name: checked_shares(f"baseline {name}", shares, problem.sources) for name, shares in (baselines or {}).items()
    }
    for name, shares in baseline_shares.items():
        if not all(np.isfinite(objective.loss(shares)) for objective in objectives):
            raise InputError(f"baseline {name!r} gives some rows probability 0", wanted="a finite loss")
    mixtures = np.array([*baseline_shares.values(), mixture])
    curved = problem.at(optimum, np.flatnonzero(problem.feasible.free))
    scales = [target.total_weight or at.value or 1.0 for target, at in zip(objectives, curved.evaluations, strict=True)]
    noise = [scale / np.sqrt(target.documents) for target, scale in zip(objectives, scales, strict=True)]
    tolerance = NOISE_SHARE * float(curved.target_weights @ np.array(noise))
    batch_size = max(1, min(BATCH_ENTRIES // min(target.rows, block_rows(target.sources)) for target in objectives))
    replicate_shares, gains, gap = [], [], 0.0
    for first in range(0, replicates, batch_size):
        numbers = range(first, min(first + batch_size, replicates))
        batch = [target.replicates(seed, place, numbers) for place, target in enumerate(objectives)]
        shares, gaps = _solve_batch(curved, batch, tolerance)
        replicate_shares.append(shares)
        losses = np.stack([target.losses(mixtures) for target in batch])
        goals = np.apply_along_axis(problem.goal.value, 0, losses)  # (replicates, baselines + 1), the mixture last
        gains.append(goals[:, :-1] - goals[:, -1:])
        gap = max(gap, float(gaps.max()))
    all_shares = np.concatenate(replicate_shares)
    low, high = np.quantile(np.concatenate(gains), LEVELS, axis=0)
    return Bootstrap(
        interval=np.quantile(all_shares, LEVELS, axis=0).T,
        gain={name: (float(low[i]), float(high[i])) for i, name in enumerate(baseline_shares)},
        replicate_shares=all_shares,
        gap=gap,
        documents=sum(target.documents for target in objectives),
    )


def _solve_batch(curved: Point, batch: Sequence[Replicates], tolerance: float) -> tuple[Matrix, Vector]:
    """Return shares ``(replicates, sources)`` and their gaps: rounds for all together, then the exact method for the
    rest. ``curved``: the full sample's optimum, with its curvature."""
    problem = curved.problem
    objectives = zip(*([target.one(i) for i in range(batch[0].count)] for target in batch), strict=True)
    problems = [replace(problem, objectives=each) for each in objectives]
    shares, gaps = np.repeat(curved.shares[None], len(problems), axis=0), np.full(len(problems), np.inf)
    proofs: list[Proof | None] = [None] * len(problems)
    values = isinstance(problem.goal, Worst)
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
            if gaps[i] > tolerance and (step := model_step(point, problem.feasible.lower, problem.feasible.upper)):
                shares[i], proofs[i] = problem.feasible.repair(shares[i] + step.direction), step.proof
    for i in np.flatnonzero(gaps > tolerance):
        solution = minimise(problems[i], Newton(), problem.inside(shares[i]), tolerance, EXACT_ROUNDS)
        shares[i], gaps[i] = solution.weights, solution.gap
    return shares, gaps


@dataclass(frozen=True)
class Interchangeable:
    """Two sources that the data hardly tell apart. ``correlation``: of their shares across replicates."""

    first: int
    second: int
    correlation: float


def interchangeable(optimum: Point, replicate_shares: Matrix) -> list[Interchangeable]:
    """Return pairs of sources of which one could stand for the other.

    These are pairs whose shares rise and fall against each other across the bootstrap's replicates ``(replicates,
    sources)``, and pairs with equal columns, between which no replicate can decide.
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
    opposed = (correlation <= ANTI_CORRELATED) & notable & notable[:, None]
    pairs = np.argwhere(np.triu(opposed | alike, 1))
    return [Interchangeable(int(free[i]), int(free[j]), float(np.clip(correlation[i, j], -1, 1))) for i, j in pairs]
