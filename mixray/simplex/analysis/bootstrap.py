"""Error bars: how far the mixture and its gain would move with another sample of the targets' documents.

A replicate draws as many documents of every target as there are, with replacement; a row's weight is multiplied by how
often its document was drawn, and the problem is solved again. A replicate's optimum is near the full sample's: so the
curvature there serves all replicates, a round costs two matrix products for a whole batch of them, and the few that
have not reached their tolerance after some rounds are finished by the exact method. Each one's gap is certified.

Sampling D documents moves the gradient by about W / sqrt(D), W the sum of the row weights; a replicate is solved to a
gap of a thousandth of that, so that its own error does not show in the intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixray.errors import InputError
from mixray.simplex.checks import Matrix, Vector, checked_shares
from mixray.simplex.goal import Worst
from mixray.simplex.objectives.objective import Columns, Evaluation, Objective, Replicates, Resampling, Rows
from mixray.simplex.objectives.rows import checked_token_counts, documents_of
from mixray.simplex.problem import Point, Problem, Proof
from mixray.simplex.solvers.loop import minimise
from mixray.simplex.solvers.newton import Newton
from mixray.simplex.solvers.quadratic import model_step

LEVELS = (0.025, 0.975)
NOISE_SHARE = 1e-3
"""The gap of a replicate as a part of the gradient's sampling noise."""
SHARED_ROUNDS = 6
"""Rounds with the shared curvature before a replicate is handed to the exact method."""
EXACT_ROUNDS = 100
BATCH_ENTRIES = 2**23
"""Rows x replicates that are worked on at once."""


@dataclass(frozen=True, eq=False)
class Documents:
    """What is drawn: ``document``: each row's document, 0 to ``count - 1``; ``row_tokens``: row weight times tokens,
    whose sum is 1 on the full sample and is made 1 on each replicate; None leaves it."""

    row_weights: Vector
    document: NDArray[np.intp]
    count: int
    row_tokens: Vector | None

    @classmethod
    def of(
        cls, row_weights: Vector, document_ids: ArrayLike | None = None, token_counts: ArrayLike | None = None
    ) -> Documents:
        """``document_ids``: the document of each row, ``(rows,)``; every row is one by default. ``token_counts``:
        tokens of each row, ``(rows,)``. With them a replicate's loss is again per token of that replicate, which
        matters under the token weighting, where documents of unequal length are drawn. Raises InputError."""
        rows = row_weights.size
        document, documents = np.arange(rows), rows
        if document_ids is not None:
            ids, document = documents_of(document_ids, rows)
            documents = ids.size
        tokens = None if token_counts is None else row_weights * checked_token_counts(token_counts, rows)
        return cls(row_weights, document, documents, tokens)

    def draw(self, generator: np.random.Generator) -> Vector:
        """By what the weight of every row is multiplied in one replicate, ``(rows,)``."""
        while True:
            chosen = generator.integers(self.count, size=self.count)
            times: Vector = np.bincount(chosen, minlength=self.count)[self.document].astype(np.float64)
            if self.row_weights @ times > 0:  # all drawn documents may have weight 0
                tokens = self.row_tokens
                return times if tokens is None else times * float(tokens.sum() / (times @ tokens))


@dataclass(frozen=True, eq=False)
class _Weighted:
    """Replicates of rows at hand. ``factors``: ``(replicates, rows)``; ``row_losses``: ``(mixtures, rows)``."""

    rows: Rows
    factors: Matrix
    row_losses: Matrix

    @cached_property
    def _row_weights(self) -> Matrix:
        return self.factors * self.rows.row_weights

    @property
    def count(self) -> int:
        return len(self.factors)

    def at(self, points: Matrix, which: Columns, *, values: bool) -> list[Evaluation]:
        return self.rows.replicates_at(points, self._row_weights[which], values=values)

    def one(self, replicate: int) -> Objective:
        return self.rows.reweighted(self._row_weights[replicate])

    def losses(self, mixtures: Matrix) -> Matrix:
        losses: Matrix = self.factors @ self.row_losses.T
        return losses


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
    problem: Problem,
    source_shares: ArrayLike,
    *,
    seed: int,
    replicates: int = 200,
    documents: Sequence[Documents] | None = None,
    judged: ArrayLike | None = None,
    baselines: Mapping[str, ArrayLike] | None = None,
) -> Bootstrap:
    """Intervals for the shares that solve ``problem``, over documents, and for its gain over baselines.

    The gain is that of the given mixture on resampled documents. It was fitted to the same documents, so its interval
    says how much depends on their choice, not what held-out documents would show.

    Args:
        problem: one whose objectives are all ``Rows``, or all ``Resampling``.
        source_shares: its answer, ``(sources,)``.
        seed: the same seed gives the same bits.
        documents: per target of ``Rows``, what is drawn; every row is a document by default.
        judged: the mixture whose gain is wanted, ``(sources,)``; the answer by default.
        baselines: name -> shares ``(sources,)``.

    Raises:
        InputError: for fewer than one replicate, and a baseline that is no mixture or gives some rows probability 0.
    """
    if replicates < 1:
        raise InputError("bootstrap: no replicates", got=replicates, wanted=">= 1")
    optimum = problem.feasible.repair(checked_shares("source_shares", source_shares, problem.sources))
    mixture = optimum if judged is None else checked_shares("judged", judged, problem.sources)
    rivals = {
        name: checked_shares(f"baseline {name}", shares, problem.sources) for name, shares in (baselines or {}).items()
    }
    mixtures = np.array([*rivals.values(), mixture])
    elsewhere = [objective for objective in problem.objectives if isinstance(objective, Resampling)]
    if elsewhere:
        assert len(elsewhere) == len(problem.objectives), "some rows are at hand and some elsewhere"
        assert documents is None, "rows that are elsewhere know their documents"
        counts = [(float(target.total_weight or 1.0), target.documents) for target in elsewhere]
        batches = _batches_elsewhere(elsewhere, seed, replicates)
    else:
        objectives: Sequence[Rows] = problem.objectives  # type: ignore[assignment]
        drawn = [Documents.of(rows.row_weights) for rows in objectives] if documents is None else documents
        counts = [(float(target.row_weights.sum()), target.count) for target in drawn]
        row_losses = _row_losses(objectives, rivals, mixture)
        batches = _batches(objectives, drawn, row_losses, seed, replicates)
    curved = problem.at(optimum, np.flatnonzero(problem.feasible.free))
    noise = [weight / np.sqrt(count) for weight, count in counts]
    tolerance = NOISE_SHARE * float(curved.target_weights @ np.array(noise))
    shares, gains, gap = [], [], 0.0
    for batch in batches:
        solved, gaps = _solve_batch(curved, batch, tolerance)
        shares.append(solved)
        losses = np.stack([target.losses(mixtures) for target in batch])
        goals = np.apply_along_axis(problem.goal.value, 0, losses)  # (replicates, baselines + 1), the mixture last
        gains.append(goals[:, :-1] - goals[:, -1:])
        gap = max(gap, float(gaps.max()))
    replicate_shares = np.concatenate(shares)
    low, high = np.quantile(np.concatenate(gains), LEVELS, axis=0)
    return Bootstrap(
        interval=np.quantile(replicate_shares, LEVELS, axis=0).T,
        gain={name: (float(low[i]), float(high[i])) for i, name in enumerate(rivals)},
        replicate_shares=replicate_shares,
        gap=gap,
        documents=sum(count for _, count in counts),
    )


def _row_losses(objectives: Sequence[Rows], rivals: Mapping[str, Vector], mixture: Vector) -> list[Matrix]:
    """Per target what each row adds to the loss of every baseline and, last, the mixture: ``(baselines + 1, rows)``."""
    found = []
    for objective in objectives:
        losses = np.stack([objective.row_losses(shares) for shares in [*rivals.values(), mixture]])
        for name, values in zip(rivals, losses, strict=False):
            if not np.isfinite(values).all():
                raise InputError(f"baseline {name!r} gives some rows probability 0", wanted="a finite loss")
        found.append(losses)
    return found


def _batches(
    objectives: Sequence[Rows], drawn: Sequence[Documents], row_losses: Sequence[Matrix], seed: int, replicates: int
) -> Iterator[list[Replicates]]:
    """Replicates of every target, a batch at a time."""
    generator = np.random.default_rng(seed)
    batch = max(1, BATCH_ENTRIES // sum(target.row_weights.size for target in drawn))
    for start in range(0, replicates, batch):
        drawings = [[target.draw(generator) for target in drawn] for _ in range(min(batch, replicates - start))]
        factors = [np.stack(own) for own in zip(*drawings, strict=True)]
        yield [_Weighted(*each) for each in zip(objectives, factors, row_losses, strict=True)]


def _batches_elsewhere(targets: Sequence[Resampling], seed: int, replicates: int) -> Iterator[list[Replicates]]:
    batch = min(target.batch for target in targets)
    for start in range(0, replicates, batch):
        numbers = range(start, min(start + batch, replicates))
        yield [target.replicates(seed, number, numbers) for number, target in enumerate(targets)]


def _solve_batch(curved: Point, batch: Sequence[Replicates], tolerance: float) -> tuple[Matrix, Vector]:
    """Shares ``(replicates, sources)`` and their gaps: rounds for all together, then the exact method for the rest."""
    problem = curved.problem
    ones = zip(*([target.one(i) for i in range(batch[0].count)] for target in batch), strict=True)
    problems = [replace(problem, objectives=each) for each in ones]
    shares, gaps = np.repeat(curved.shares[None], len(problems), axis=0), np.full(len(problems), np.inf)
    proofs: list[Proof | None] = [None] * len(problems)
    values = isinstance(problem.goal, Worst)
    for _ in range(SHARED_ROUNDS if problem.prior is None else 0):
        pending = np.flatnonzero(gaps > tolerance)
        if not pending.size:
            break
        asked = [target.at(shares[pending], pending, values=values) for target in batch]
        for i, *there in zip(pending, *asked, strict=True):
            with_curvature = [
                replace(own, curvature=shared.curvature) for own, shared in zip(there, curved.evaluations, strict=True)
            ]
            point = Point(problems[i], shares[i], tuple(with_curvature), curved.columns, proofs[i])
            gaps[i] = point.gap
            if gaps[i] > tolerance and (step := model_step(point, problem.feasible.lower, problem.feasible.upper)):
                shares[i], proofs[i] = problem.feasible.repair(shares[i] + step.direction), step.proof
    for i in np.flatnonzero(gaps > tolerance):
        solution = minimise(problems[i], Newton(), problem.inside(shares[i]), tolerance, EXACT_ROUNDS)
        shares[i], gaps[i] = solution.weights, solution.gap
    return shares, gaps
