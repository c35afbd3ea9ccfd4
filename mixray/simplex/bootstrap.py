"""Error bars: how far the mixture and its gain would move with another sample of the target's documents.

A replicate draws as many documents as there are, with replacement; a row's weight is multiplied by how often its
document was drawn, and the problem is solved again. A replicate's optimum is near the full sample's: so the curvature
there serves all replicates, a round costs two matrix products for a whole batch of them, and the few that have not
reached their tolerance after some rounds are finished by the exact method. Each one's gap is certified.

Sampling D documents moves the gradient by about W / sqrt(D), W the sum of the row weights; a replicate is solved to a
gap of a thousandth of that, so that its own error does not show in the intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixray.errors import InputError
from mixray.simplex.checks import Mask, Matrix, Vector, checked_shares
from mixray.simplex.evaluate import mixed_log_probs
from mixray.simplex.feasible import FeasibleSet
from mixray.simplex.loop import minimise
from mixray.simplex.newton import Newton, newton_direction
from mixray.simplex.objective import CrossEntropy, floored
from mixray.simplex.problem import Problem
from mixray.simplex.rows import checked_token_counts, documents_of

LEVELS = (0.025, 0.975)
NOISE_SHARE = 1e-3
"""The gap of a replicate as a part of the gradient's sampling noise."""
SHARED_ROUNDS = 6
"""Rounds with the shared curvature before a replicate is handed to the exact method."""
EXACT_ROUNDS = 100
BATCH_ENTRIES = 2**23
"""Rows x replicates that are worked on at once."""


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """``interval``: 95 % percentile interval of every share, ``(sources, 2)``; ``gain``: baseline -> 95 % interval of
    loss(baseline) - loss(mixture), nats per token, of the mixture given; ``replicate_shares``: ``(replicates,
    sources)``; ``gap``: the largest certified gap of a replicate, nats per token; ``documents``: how many are drawn."""

    interval: Matrix
    gain: dict[str, tuple[float, float]]
    replicate_shares: Matrix
    gap: float
    documents: int


def bootstrap(
    log_probs: ArrayLike,
    source_shares: ArrayLike,
    *,
    seed: int,
    replicates: int = 200,
    row_weights: ArrayLike | None = None,
    document_ids: ArrayLike | None = None,
    token_counts: ArrayLike | None = None,
    baselines: Mapping[str, ArrayLike] | None = None,
    lower: ArrayLike | None = None,
    upper: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    prior_strength: float = 0.0,
) -> Bootstrap:
    """Intervals for the shares that ``solve`` found, over documents, and for its gain over baselines.

    The gain is that of the given mixture on resampled documents. It was fitted to the same documents, so its interval
    says how much depends on their choice, not what held-out documents would show.

    Args:
        log_probs, row_weights, lower, upper, prior, prior_strength: as given to ``solve``.
        source_shares: its answer, ``(sources,)``.
        seed: the same seed gives the same bits.
        document_ids: the document of each row, ``(rows,)``; every row is one by default.
        token_counts: tokens of each row, ``(rows,)``. With them a replicate's loss is again per token of that
            replicate, which matters under the token weighting, where documents of unequal length are drawn.
        baselines: name -> shares ``(sources,)``.

    Raises:
        InputError: as ``solve``; for fewer than one replicate.
    """
    if replicates < 1:
        raise InputError("bootstrap: no replicates", got=replicates, wanted=">= 1")
    problem = Problem.of(log_probs, row_weights, lower, upper, prior, prior_strength)
    assert isinstance(problem.objective, CrossEntropy)
    draws = _Draws.of(problem.objective.row_weights, document_ids, token_counts)
    optimum = problem.feasible.repair(checked_shares("source_shares", source_shares, problem.feasible.lower.size))
    advantage = _advantage(log_probs, optimum, baselines or {}, draws.row_weights > 0)
    tolerance = NOISE_SHARE * float(draws.row_weights.sum()) / float(np.sqrt(draws.documents))
    curvature = problem.at(optimum).curvature()
    shares, gains, gap = [], [], 0.0
    for replicate_weights in draws.batches(seed, replicates):
        solved, gaps = _solve_batch(problem, problem.objective, optimum, curvature, replicate_weights, tolerance)
        shares.append(solved)
        gains.append(replicate_weights @ advantage.T)
        gap = max(gap, float(gaps.max()))
    replicate_shares = np.concatenate(shares)
    low, high = np.quantile(np.concatenate(gains), LEVELS, axis=0)
    return Bootstrap(
        interval=np.quantile(replicate_shares, LEVELS, axis=0).T,
        gain={name: (float(low[i]), float(high[i])) for i, name in enumerate(baselines or {})},
        replicate_shares=replicate_shares,
        gap=gap,
        documents=draws.documents,
    )


@dataclass(frozen=True, eq=False)
class _Draws:
    """Row weights of the replicates. ``document``: each row's document, 0 to ``documents - 1``; ``row_tokens``: row
    weight times tokens, whose sum is 1 on the full sample and is made 1 on each replicate; None leaves it."""

    row_weights: Vector
    document: NDArray[np.intp]
    documents: int
    row_tokens: Vector | None

    @classmethod
    def of(cls, row_weights: Vector, document_ids: ArrayLike | None, token_counts: ArrayLike | None) -> _Draws:
        rows = row_weights.size
        document, documents = np.arange(rows), rows
        if document_ids is not None:
            ids, document = documents_of(document_ids, rows)
            documents = ids.size
        tokens = None if token_counts is None else row_weights * checked_token_counts(token_counts, rows)
        return cls(row_weights, document, documents, tokens)

    def batches(self, seed: int, replicates: int) -> Iterator[Matrix]:
        """Replicates' row weights, ``(replicates of the batch, rows)``."""
        generator = np.random.default_rng(seed)
        batch = max(1, BATCH_ENTRIES // self.row_weights.size)
        for start in range(0, replicates, batch):
            drawn = [self._draw(generator) for _ in range(min(batch, replicates - start))]
            yield np.stack(drawn)

    def _draw(self, generator: np.random.Generator) -> Vector:
        while True:
            chosen = generator.integers(self.documents, size=self.documents)
            times = np.bincount(chosen, minlength=self.documents)[self.document]
            weights: Vector = times * self.row_weights
            if weights.any():  # all drawn documents may have weight 0
                tokens = self.row_tokens
                return weights if tokens is None else weights * float(tokens.sum() / (times @ tokens))


def _advantage(
    log_probs: ArrayLike, source_shares: Vector, baselines: Mapping[str, ArrayLike], counted: Mask
) -> Matrix:
    """By how many nats each row is likelier under the mixture than under each baseline, ``(baselines, rows)``."""
    mixed = mixed_log_probs(log_probs, source_shares)
    advantage = np.zeros((len(baselines), mixed.size))
    for row, (name, shares) in zip(advantage, baselines.items(), strict=True):
        baseline = mixed_log_probs(log_probs, shares)
        if np.isneginf(baseline[counted]).any():
            raise InputError(f"baseline {name!r} gives some rows probability 0", wanted="a finite loss")
        row[counted] = mixed[counted] - baseline[counted]
    return advantage


def _solve_batch(
    problem: Problem,
    rows: CrossEntropy,
    optimum: Vector,
    curvature: Matrix,
    replicate_weights: Matrix,
    tolerance: float,
) -> tuple[Matrix, Vector]:
    """Shares ``(replicates, sources)`` and their gaps: rounds for all together, then the exact method for the rest."""
    problems = [replace(problem, objective=rows.reweighted(weights)) for weights in replicate_weights]
    shares, gaps = np.repeat(optimum[None], len(problems), axis=0), np.full(len(problems), np.inf)
    for _ in range(SHARED_ROUNDS if problem.prior is None else 0):
        pending = np.flatnonzero(gaps > tolerance)
        mixed = floored(shares[pending] @ rows.likelihood.T)
        gradients = -(np.divide(replicate_weights[pending], mixed, out=mixed) @ rows.likelihood)
        for i, gradient in zip(pending, gradients, strict=True):
            gaps[i] = problems[i].gap(shares[i], gradient)
            if gaps[i] > tolerance:
                shares[i] = _full_step(problem.feasible, shares[i], gradient, curvature)
    for i in np.flatnonzero(gaps > tolerance):
        solution = minimise(problems[i], Newton(), problem.inside(shares[i]), tolerance, EXACT_ROUNDS)
        shares[i], gaps[i] = solution.weights, solution.gap
    return shares, gaps


def _full_step(feasible: FeasibleSet, source_shares: Vector, gradient: Vector, curvature: Matrix) -> Vector:
    lower, upper = feasible.lower - source_shares, feasible.upper - source_shares
    direction = newton_direction(gradient, curvature, lower, upper)
    return source_shares if direction is None else feasible.repair(source_shares + direction)
