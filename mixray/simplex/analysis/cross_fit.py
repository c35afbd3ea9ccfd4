"""Cross-fitting: what every document costs under a mixture that other documents chose.

The documents are split into ten folds by a seeded draw, and the problem is solved again without each fold in turn. This
takes no approximation of the loss, which few documents ask for: where one of them alone calls for a source, the mixture
that the others choose has hardly any of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mixray.simplex.checks import Vector
from mixray.simplex.goal import Mean
from mixray.simplex.objectives.cross_entropy import CrossEntropy
from mixray.simplex.problem import Point
from mixray.simplex.solvers.loop import minimise
from mixray.simplex.solvers.newton import Newton

FOLDS = 10
MOST_SOURCES = 384
"""The folds are solved by Newton's method, with a curvature over sources x sources."""
TOLERANCE, MOST_ROUNDS = 1e-6, 200


@dataclass(frozen=True, eq=False)
class CrossFit:
    """``row_losses``: what the rows of every target add to its loss under the mixtures that other documents chose,
    ``(rows,)`` each."""

    objectives: list[CrossEntropy]
    row_losses: list[Vector]

    @property
    def losses(self) -> Vector:
        """The loss on every target, ``(targets,)``."""
        return np.array([float(rows.sum()) for rows in self.row_losses])

    def paired_variances(self, baseline: Vector) -> Vector:
        """Return the variance, over samples of documents, of a target's loss under ``baseline`` ``(sources,)`` less its
        cross-fitted loss, ``(targets,)``."""
        variances = []
        for objective, rows in zip(self.objectives, self.row_losses, strict=True):
            documents = objective.row_documents()
            differences = documents.by_document(objective.row_losses(baseline) - rows)
            tokens = documents.tokens_by_document()
            parts = 1 / documents.count if tokens is None else tokens / tokens.sum()
            deviations = differences - parts * differences.sum()
            variances.append(float(deviations @ deviations) * documents.count / (documents.count - 1))
        return np.array(variances)


def cross_fit(chosen: Point, *, seed: int) -> CrossFit | None:
    """Return the cross-fitted losses of a mixture's problem.

    None where there are none: for a worst case, for objectives that are not cross entropies in memory, for more than
    ``MOST_SOURCES``, where one document is all that counts, and where the others' mixture rules a document out.
    """
    problem = chosen.problem
    objectives = [each for each in problem.objectives if isinstance(each, CrossEntropy) and each.is_local]
    if len(objectives) < len(problem.objectives) or not isinstance(problem.goal, Mean):
        return None
    if problem.sources > MOST_SOURCES or min(objective.documents for objective in objectives) < 2:
        return None
    folds = [_fold_of_rows(objective, seed, target) for target, objective in enumerate(objectives)]
    row_losses = [np.zeros(objective.rows) for objective in objectives]
    for fold in range(FOLDS):
        held_out = [numbers == fold for numbers in folds]
        if not any(rows.any() for rows in held_out):
            continue  # fewer documents than folds
        pairs = zip(objectives, held_out, strict=True)
        kept = tuple(each for objective, rows in pairs if (each := objective.of_rows(~rows)) is not None)
        if len(kept) < len(objectives):
            return None
        start = problem.inside(chosen.shares)
        outcome = minimise(replace(problem, objectives=kept), Newton(), start, TOLERANCE, MOST_ROUNDS)
        for objective, rows, losses in zip(objectives, held_out, row_losses, strict=True):
            losses[rows] = objective.row_losses(outcome.point.shares)[rows]
    result = CrossFit(objectives, row_losses)
    return result if np.isfinite(result.losses).all() else None


def _fold_of_rows(objective: CrossEntropy, seed: int, target: int) -> NDArray[np.int64]:
    """Return the fold of every row, ``(rows,)``: that of its document."""
    documents = objective.row_documents()
    folds = np.random.default_rng([seed, target]).permutation(documents.count) % FOLDS
    return folds if documents.numbers is None else folds[documents.numbers]
