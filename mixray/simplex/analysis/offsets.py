"""What each target's loss is compared with in a worst case, and how that varies with the documents.

An offset is a loss on the same documents: that of the target's best single source, or of its own best mixture. Another
sample of documents has other offsets, which move with the losses that they are subtracted from. So a replicate of the
bootstrap works them out anew; fixed, they would let the documents' own difficulty decide which target is the worst.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mixray.simplex.analysis.bootstrap import replicate_optima
from mixray.simplex.checks import Matrix, Vector
from mixray.simplex.feasible import FeasibleSet
from mixray.simplex.objectives.cross_entropy import CrossEntropy
from mixray.simplex.objectives.objective import Replicates
from mixray.simplex.objectives.squared_error import SquaredError
from mixray.simplex.problem import Point, Problem
from mixray.simplex.solvers.solve import solve_problem

Objectives = tuple[CrossEntropy | SquaredError, ...]
CANDIDATES = 8
"""The best single source of a replicate is one of so many of the full sample's best."""


@dataclass(frozen=True, eq=False)
class BestSingle:
    """The loss under the target's best single source. ``objectives``: one per target."""

    objectives: Objectives

    @cached_property
    def _best(self) -> list[tuple[list[int], Vector]]:
        """For every target its best sources and their losses."""
        by_target = []
        for objective in self.objectives:
            losses = objective.single_losses()
            best = np.argsort(losses, kind="stable")[:CANDIDATES]
            best = best[np.isfinite(losses[best])] if np.isfinite(losses).any() else best[:1]
            by_target.append((best.tolist(), losses[best]))
        return by_target

    def full(self) -> Vector:
        """Return the offsets of the full sample, nats per token ``(targets,)``."""
        return np.array([losses.min() for _, losses in self._best])

    def replicated(self, batch: Sequence[Replicates]) -> Matrix:
        """Return the offsets of every replicate of a batch, ``(replicates, targets)``."""
        offsets = []
        for objective, replicates, (sources, losses) in zip(self.objectives, batch, self._best, strict=True):
            singles = np.eye(objective.sources)[sources]
            if not np.isfinite(losses).all():  # no source alone can explain all documents
                offsets.append(np.full(replicates.count, np.inf))
                continue
            # Rows on shards are rounded; the losses of the full sample are from before that.
            rounding = losses - np.array([objective.loss(single) for single in singles])
            offsets.append((replicates.losses(singles) + rounding).min(axis=1))
        return np.stack(offsets, axis=1)


@dataclass(frozen=True, eq=False)
class BestMixture:
    """The loss under the target's own best mixture within the limits."""

    objectives: Objectives
    feasible: FeasibleSet

    @cached_property
    def _optima(self) -> list[Point]:
        problems = [Problem((objective,), self.feasible) for objective in self.objectives]
        return [solve_problem(problem).point for problem in problems]

    def full(self) -> Vector:
        """Return the offsets of the full sample, nats per token ``(targets,)``."""
        return np.array([point.loss for point in self._optima])

    def replicated(self, batch: Sequence[Replicates]) -> Matrix:
        """Return the offsets of every replicate of a batch, ``(replicates, targets)``."""
        offsets = []
        for optimum, replicates in zip(self._optima, batch, strict=True):
            shares = replicate_optima(optimum, [replicates])
            at = replicates.at(shares, np.arange(replicates.count), values=True)
            offsets.append(np.array([evaluation.value for evaluation in at]))
        return np.stack(offsets, axis=1)
