"""What another sample of the targets' documents would change at a mixture, without solving again.

A bootstrap replicate (``objectives/draws.py``) stands for another sample. ``sampled_noise`` says how the losses and
their gradients differ in it, in one pass over the rows for many replicates; ``response`` how the answer follows a
change of the gradients. Together they give the error of the losses that were judged on the documents that chose the
mixture, and how sharply the documents tell two sources apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixray.simplex.checks import Matrix, Vector
from mixray.simplex.goal import Goal, Worst
from mixray.simplex.objectives.objective import Objective, Replicates
from mixray.simplex.objectives.passes import Columns, block_rows
from mixray.simplex.problem import Point, Problem
from mixray.simplex.solvers.quadratic import model_step, optimal_target_weights

Samples = NDArray[np.float64]

AT_LIMIT = 1e-9
"""A share this near to a limit is at it."""
BATCH_ENTRIES = 2**20
"""Rows of a block x replicates that a thread works on at once."""
SMALLEST_CURVATURE = 1e-10
"""Relative to all curvature: below it a direction is one in which the loss does not change."""
KINK = 1e6
"""The curvature of a plain maximum across its kink, relative to that of the losses: large enough for an edge."""


@dataclass(frozen=True, eq=False)
class Noise:
    """Deviations of bootstrap replicates from the full sample, with mean 0 over the replicates.

    ``gradients``: ``(replicates, targets, sources)``, at the mixture; ``losses``: ``(replicates, targets, mixtures)``,
    above the offsets of a worst case where these follow from the documents.
    """

    gradients: Samples
    losses: Samples

    def scaled(self, factor: float) -> Noise:
        return Noise(factor * self.gradients, factor * self.losses)


def replicate_batches(objectives: Sequence[Objective], seed: int, replicates: int) -> Iterator[list[Replicates]]:
    """Yield the replicates of every target, as many at a time as a thread can work on at once."""
    size = max(1, min(BATCH_ENTRIES // min(target.rows, block_rows(target.sources)) for target in objectives))
    for first in range(0, replicates, size):
        numbers = range(first, min(first + size, replicates))
        yield [target.replicates(seed, place, numbers) for place, target in enumerate(objectives)]


def sampled_noise(problem: Problem, source_shares: Vector, mixtures: Matrix, *, seed: int, replicates: int) -> Noise:
    """Return how gradients at ``source_shares`` and the losses of ``mixtures`` ``(mixtures, sources)`` vary."""
    rule = problem.goal.rule if isinstance(problem.goal, Worst) else None
    gradients, losses = [], []
    for batch in replicate_batches(problem.objectives, seed, replicates):
        count = batch[0].count
        points, which = np.repeat(source_shares[None], count, axis=0), np.arange(count)
        by_target = [[at.gradient for at in target.at(points, which, values=False)] for target in batch]
        gradients.append(np.array(by_target).transpose(1, 0, 2))
        own = np.stack([target.losses(mixtures) for target in batch], axis=1)
        losses.append(own if rule is None else own - rule.replicated(batch)[:, :, None])
    return Noise(*(_centred(np.concatenate(samples)) for samples in (gradients, losses)))


def _centred(samples: Samples) -> Samples:
    centred: Samples = samples - samples.mean(axis=0)
    return centred


@dataclass(frozen=True, eq=False)
class Response:
    """How the shares that are free to move follow their gradient: the shares change by ``-matrix @ pull``.

    ``columns``: those sources, ``(columns,)``; ``matrix``: ``(columns, columns)``; ``target_weights``: how much each
    target counts; ``coupling``: how the pull follows the targets' losses, which shift those weights, ``(targets,
    columns)``; ``free``: the number of directions in which the shares can move.
    """

    columns: Columns
    matrix: Matrix
    target_weights: Vector
    coupling: Matrix
    free: int

    def to(self, gradients: Samples, losses: Samples) -> Samples:
        """Return the change of the shares ``(replicates, columns)`` that changes of the targets' gradients
        ``(replicates, targets, sources)`` and losses ``(replicates, targets)`` bring."""
        pull = np.tensordot(gradients[:, :, self.columns], self.target_weights, axes=(1, 0)) + losses @ self.coupling
        return -(pull @ self.matrix)


def response(optimum: Point) -> Response:
    """Return the response at an optimum, with its prior's pull where there is one. Shares at a limit stay there."""
    problem, shares = optimum.problem, optimum.shares
    feasible, goal = problem.feasible, problem.goal
    weights = optimal_target_weights(optimum)
    columns = _between(optimum, shares)
    if columns.size > 1:
        curved = problem.at(shares, columns, optimum.proof)
        columns = columns if problem.prior is not None else _settled(curved)
    if columns.size < 2:  # the sum of the shares leaves a single one no room
        empty = np.zeros((columns.size, columns.size))
        return Response(columns, empty, weights, np.zeros((len(weights), columns.size)), 0)
    assert curved.columns is not None
    places = np.searchsorted(curved.columns, columns)
    jacobian = curved.jacobian[:, columns]
    # In units of the shares' square roots the curvature of a rare source is no larger than that of a common one.
    unit = np.sqrt(shares[columns])
    sums = feasible.member @ shares
    held = (sums <= feasible.group_lower + AT_LIMIT) | (sums >= feasible.group_upper - AT_LIMIT)
    limits = np.vstack([np.ones(columns.size), feasible.member[held][:, columns]]) * unit
    basis = unit[:, None] * null_space(limits)
    full = curved.curvature(weights)[np.ix_(places, places)]
    if problem.prior is not None:
        full = full + np.diag(problem.prior.curvature(shares)[columns])
    hessian = basis.T @ full @ basis
    slopes = jacobian @ basis
    coupling = target_coupling(goal, curved.losses, weights, hessian, slopes)
    curvatures, directions = np.linalg.eigh(hessian + slopes.T @ coupling @ slopes)
    curved_ones = curvatures > SMALLEST_CURVATURE * float(unit @ (full.diagonal() * unit))
    directions = basis @ directions[:, curved_ones]
    return Response(
        columns,
        directions / curvatures[curved_ones] @ directions.T,
        weights,
        coupling @ jacobian,
        int(curved_ones.sum()),
    )


def target_coupling(goal: Goal, losses: Vector, target_weights: Vector, hessian: Matrix, slopes: Matrix) -> Matrix:
    """Return the curvature of the goal in the losses at an optimum, ``(targets, targets)``: 0 for a mean; for a plain
    maximum, whose kink has none, one that is stiff beside the losses' own.

    ``hessian``: that, ``(columns, columns)``; ``slopes``: the losses' gradients, ``(targets, columns)``.
    """
    if isinstance(goal, Worst) and goal.tau == 0:
        kink = np.diag(target_weights) - np.outer(target_weights, target_weights)
        edge = np.trace(slopes.T @ kink @ slopes)
        stiff: Matrix = kink * (KINK * np.trace(hessian) / edge if edge > 0 else 0.0)
        return stiff
    curvature = goal.curvature(losses)
    return np.zeros((len(losses), len(losses))) if curvature is None else curvature


def _between(optimum: Point, shares: Vector) -> Columns:
    """Return the sources whose shares are at neither bound."""
    feasible = optimum.problem.feasible
    return np.flatnonzero((shares > feasible.lower + AT_LIMIT) & (shares < feasible.upper - AT_LIMIT))


def _settled(curved: Point) -> Columns:
    """Return the sources that the model of the loss keeps between their bounds: a first-order solver leaves small
    shares where there should be none."""
    assert curved.columns is not None
    feasible = curved.problem.feasible
    step = model_step(curved, feasible.lower, feasible.upper)
    # The loss can fall by the gap at most: a model that promises more is wrong.
    if step is None or step.predicted > 2 * curved.gap:
        return curved.columns
    return np.intersect1d(curved.columns, _between(curved, curved.shares + step.direction))


def null_space(limits: Matrix) -> Matrix:
    """Return an orthonormal basis of the directions that keep all limits, ``(columns, directions)``."""
    _, singular, directions = np.linalg.svd(limits, full_matrices=True)
    rank = int((singular > 1e-12 * singular[0]).sum())
    basis: Matrix = directions[rank:].T
    return basis
