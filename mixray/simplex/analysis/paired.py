"""How sure a difference of two mixtures is: both are judged on the same documents, whose differences vary less than
their losses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mixray.simplex.analysis.bootstrap import Documents
from mixray.simplex.checks import Vector
from mixray.simplex.problem import Problem

Z95 = 1.959963984540054


def paired_difference(
    problem: Problem,
    documents: Sequence[Documents],
    source_shares: Vector,
    reference: Vector,
    target_weights: Vector | None = None,
) -> tuple[float, float]:
    """(loss(source_shares) - loss(reference), its standard error), nats per token; NaN for the error of one document.

    The error is that of a sum over documents (of a ratio, where replicates are rescaled to their own tokens), with the
    targets weighted as they count at the reference: what follows from re-weighting them is of second order.
    ``target_weights``: ``(targets,)``, those of a solution whose weights are the reference; by default they are worked
    out from its losses, which at a kink of the worst case name one target alone.
    """
    differences, variance = [], 0.0
    reference_losses = np.array([at.value for at in problem.at(reference).evaluations])
    pi = problem.goal.target_weights(reference_losses) if target_weights is None else target_weights
    for objective, drawn, weight in zip(problem.objectives, documents, pi, strict=True):
        rows = objective.row_losses(source_shares) - objective.row_losses(reference)
        differences.append(float(rows.sum()))
        variance += float(weight) ** 2 * _variance(rows, drawn)
    change = problem.goal.value(reference_losses + np.array(differences)) - problem.goal.value(reference_losses)
    return change, float(np.sqrt(variance))


def _variance(rows: Vector, drawn: Documents) -> float:
    values = np.bincount(drawn.document, weights=rows, minlength=drawn.count)
    if drawn.count < 2:
        return float("nan")
    centre = np.full(drawn.count, rows.sum() / drawn.count)
    if drawn.row_tokens is not None:
        tokens = np.bincount(drawn.document, weights=drawn.row_tokens, minlength=drawn.count)
        centre = rows.sum() * tokens / tokens.sum()
    return float(drawn.count / (drawn.count - 1) * ((values - centre) ** 2).sum())
