"""Why a head is robust: its direction, its distance from the robust minimum, the spread of its representation.

An arm's head is compared with exact heads on the arm's own representation, which for a linear model is the inputs.
They are minimisers at the arm's strength of L2 (``linear_heads``), on training rows:

    spurious   the ERM head that predicts the spurious attribute
    oracle     the ERM head that predicts the label with all groups weighted alike
    robust     the Group DRO head, which the bound R(w) - R(w_G) >= mu/2 |w - w_G|^2 is about
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mixray.config.robust import MeasuresConfig
from mixray.data.tabular.grouped import GroupedRows, GroupedTask, importance_weights
from mixray.models import Classifier
from mixray.report.robust.results import (
    BoundSides,
    CompletenessResult,
    Cosines,
    ErmAndRobust,
    ExactHeads,
    Measures,
    SeedHeads,
)
from mixray.robust.alignment import alignment, strong_convexity_bound
from mixray.robust.completeness import completeness
from mixray.robust.linear_heads import Head, HeadProblem
from mixray.robust.worst_group import group_accuracy

Matrix = NDArray[np.float64]
GROUP_ROWS = 50
"""Rows that every group keeps when the rows to measure on are drawn."""


@dataclass(frozen=True, eq=False)
class References:
    """Exact heads on one representation at one strength of L2. ``spurious`` is None where no attribute is named."""

    problem: HeadProblem
    erm: Head
    oracle: Head
    robust: Head
    spurious: Head | None

    @classmethod
    def of(cls, features: Matrix, rows: GroupedRows, l2: float) -> References:
        """Fit the heads. ``features``: the rows' representation, float64 (rows, dimensions)."""
        problem = HeadProblem(features, rows.labels, rows.group_ids, l2)
        row_weights = importance_weights(np.bincount(rows.group_ids))[rows.group_ids]
        spurious = None
        if rows.spurious is not None:
            spurious = HeadProblem(features, rows.spurious, rows.group_ids, l2).erm()
        return cls(problem, problem.erm(), problem.erm(row_weights), problem.group_dro(), spurious)

    def bound(self, parameters: Matrix) -> BoundSides:
        """Return the bound for a head's parameters, float64 (classes, features + 1) with the bias last."""
        flat, l2 = parameters.ravel(), self.problem.l2
        bound = strong_convexity_bound(
            worst_objective=float(self.problem.group_losses(flat).max()) + l2 / 2 * float(flat @ flat),
            robust_worst_objective=self.robust.worst_objective,
            weights=parameters,
            robust_weights=self.robust.parameters,
            l2=l2,
            robust_error=self.robust.error,
        )
        return BoundSides.model_validate(bound)

    def alignment(self, weights: Matrix) -> Cosines:
        """Return the cosines of a head's weights, (classes, features), with the oracle's and the spurious head's."""
        return Cosines(
            oracle=alignment(weights, self.oracle.weights),
            spurious=None if self.spurious is None else alignment(weights, self.spurious.weights),
        )


def measured_rows(task: GroupedTask, most: int, seed: int) -> GroupedRows:
    """Return the training rows to measure on: all, or about ``most`` of them, drawn by the seed.

    The draw keeps the groups' shares, but leaves every group at least GROUP_ROWS rows, or all that it has.
    """
    rows, counts = task.train, task.training_counts
    if len(rows) <= most:
        return rows
    draws = np.random.default_rng([seed, most])
    drawn = []
    for group, count in enumerate(counts):
        members = np.flatnonzero(rows.group_ids == group)
        drawn.append(draws.permutation(members)[: max(min(GROUP_ROWS, count), round(most * count / len(rows)))])
    return rows.take(np.sort(np.concatenate(drawn)))


@torch.no_grad()
def representation(model: Classifier, rows: GroupedRows) -> Matrix:
    """Return the output of the model's trunk, float64 (rows, dimensions)."""
    device = next(model.parameters()).device
    output: Matrix = model.trunk(torch.from_numpy(rows.features).to(device)).cpu().double().numpy()
    return output


def measures_of_arm(model: Classifier, rows: GroupedRows, *, l2: float, config: MeasuresConfig, seed: int) -> Measures:
    """Measure a trained model. Without L2 the exact heads do not exist, and so neither alignment nor bound."""
    features = representation(model, rows)
    spread = completeness_of(features, rows, config, seed)
    if not l2:
        return Measures(completeness=spread)
    weights = model.head.weight.detach().cpu().double().numpy()
    bias = model.head.bias.detach().cpu().double().numpy()
    references = References.of(features, rows, l2)
    return Measures(
        completeness=spread,
        bound=references.bound(np.column_stack([weights, bias])),
        alignment=references.alignment(weights),
    )


def completeness_of(
    features: Matrix, rows: GroupedRows, config: MeasuresConfig, seed: int
) -> CompletenessResult | None:
    """Return the completeness for the label and, where there is one, the spurious attribute.

    It is None where fewer than two dimensions vary, because there is nothing to spread over.
    """
    if (features.std(axis=0) > 0).sum() < 2:
        return None
    factors = [rows.labels] if rows.spurious is None else [rows.labels, rows.spurious]
    pca = None if config.pca is None else min(config.pca, *features.shape)
    return CompletenessResult.model_validate(
        completeness(features, np.column_stack(factors), estimator=config.estimator, seed=seed, pca=pca)
    )


def seed_heads(task: GroupedTask, config: MeasuresConfig, seed: int) -> SeedHeads:
    """Return the exact heads of one seed's task at every strength of L2 that the run file names."""
    rows = measured_rows(task, config.rows, seed)
    heads = tuple(exact_heads(rows, task.test, l2=l2) for l2 in config.l2)
    return SeedHeads(seed=seed, rows=len(rows), heads=heads)


def exact_heads(rows: GroupedRows, test: GroupedRows, *, l2: float) -> ExactHeads:
    """Compare the exact ERM and Group DRO heads on the inputs, which is the setting of the mechanism paper."""
    references = References.of(rows.features.astype(np.float64), rows, l2)
    erm, robust = references.erm, references.robust
    of_erm, of_robust = references.alignment(erm.weights), references.alignment(robust.weights)
    spurious = None
    if of_erm.spurious is not None and of_robust.spurious is not None:
        spurious = ErmAndRobust(erm=of_erm.spurious, group_dro=of_robust.spurious)
    return ExactHeads(
        l2=l2,
        bound=references.bound(erm.parameters),
        worst_loss=ErmAndRobust(erm=float(erm.group_losses.max()), group_dro=float(robust.group_losses.max())),
        worst_test_accuracy=ErmAndRobust(erm=_worst_accuracy(erm, test), group_dro=_worst_accuracy(robust, test)),
        certificate=robust.error,
        oracle=ErmAndRobust(erm=of_erm.oracle, group_dro=of_robust.oracle),
        spurious=spurious,
    )


def _worst_accuracy(head: Head, test: GroupedRows) -> float:
    predicted = (test.features @ head.weights.T + head.bias).argmax(axis=1)
    groups = int(test.group_ids.max()) + 1
    return group_accuracy(predicted, test.labels, test.group_ids, num_groups=groups).worst
