"""Problems as products of four tables: what is minimised, over how many targets, within which limits, with which pull.

Each case is built twice from the same numbers: as a ``Problem`` and as a cvxpy program.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from zlib import crc32

import cvxpy
import numpy as np
from numpy.typing import NDArray

from mixray.simplex import CrossEntropy, FeasibleSet, Group, Mean, Prior, Problem, SquaredError, Worst

Array = NDArray[np.float64]
Draw = np.random.Generator
Target = tuple[Any, Callable[[cvxpy.Variable], cvxpy.Expression]]

SOURCES, ROWS, TARGETS = 5, 40, 3
PRECISION = 1e-6
"""What is asked of the conic solver: how feasible its answer is."""


def row_weights_of(objective: Any) -> Array:
    """Return the row weights of an objective in memory."""
    return objective.shards.row_weights if isinstance(objective, CrossEntropy) else objective.row_weights


def reweighted(objective: Any, row_weights: Array, dtype: Any = np.float64) -> Any:
    """Return the same rows in memory under other weights."""
    if isinstance(objective, CrossEntropy):
        return CrossEntropy.from_log_probs(objective.shards.table, row_weights, objective.allowed, dtype=dtype)
    return replace(objective, row_weights=row_weights)


def draw_for(*names: object) -> Draw:
    return np.random.default_rng(crc32("/".join(map(str, names)).encode()))


# ---------------------------------------------------------------------------------- objectives, each made for target t


def cross_entropy(draw: Draw, t: int) -> Target:
    """Documents that the sources t, t + 3, ... explain better than others; weights of documents of unequal length."""
    log_probs = draw.normal(-6, 1.5, (ROWS, SOURCES)) + 1.5 * (np.arange(SOURCES) % TARGETS == t)
    return _likelihood(log_probs, draw.uniform(0.2, 1, ROWS) / 30 / ROWS)


def labels(draw: Draw, t: int) -> Target:
    """Three classes; a classifier that knows target t is surer of the true label."""
    label = draw.integers(3, size=ROWS)
    sure = 1.0 + 2.0 * (np.arange(SOURCES) % TARGETS == t)
    scores = draw.normal(size=(ROWS, SOURCES, 3)) + sure[None, :, None] * np.eye(3)[label][:, None, :]
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=2, keepdims=True)
    _, expression = _likelihood(np.log(probabilities[np.arange(ROWS), :, label]), np.full(ROWS, 1 / ROWS))
    return CrossEntropy.of_labels(probabilities, label), expression


def squared_error(outputs: int) -> Callable[[Draw, int], Target]:
    def build(draw: Draw, t: int) -> Target:
        predictions = draw.normal(size=(ROWS, SOURCES, outputs))
        truth = 0.7 * predictions[:, t] + 0.3 * predictions[:, t + 1] + draw.normal(0, 0.5, (ROWS, outputs))
        weights = draw.uniform(0.2, 1, ROWS) / ROWS

        def expression(shares: cvxpy.Variable) -> cvxpy.Expression:
            errors = [predictions[:, :, k] @ shares - truth[:, k] for k in range(outputs)]
            return sum(cvxpy.sum_squares(cvxpy.multiply(np.sqrt(weights), error)) for error in errors)

        one = outputs == 1
        given = (predictions[:, :, 0], truth[:, 0]) if one else (predictions, truth)
        return SquaredError.from_predictions(*given, weights), expression

    return build


def _likelihood(log_probs: Array, weights: Array) -> Target:
    top = log_probs.max(axis=1)

    def expression(shares: cvxpy.Variable) -> cvxpy.Expression:
        return -weights @ (cvxpy.log(np.exp(log_probs - top[:, None]) @ shares) + top)

    return CrossEntropy.from_log_probs(log_probs, weights), expression


OBJECTIVES: dict[str, Callable[[Draw, int], Target]] = {
    "cross entropy": cross_entropy,
    "labels": labels,
    "squared error": squared_error(1),
    "squared error of two outputs": squared_error(2),
}

# ------------------------------------------------------------------------------------------------------ goals, limits

GOALS: dict[str, float | None] = {
    # name: temperature of a worst case, in units of a target's weight of all rows
    "one target": None,
    "weighted sum": None,
    "worst": 0.0,
    "worst, tau small": 0.02,
    "worst, tau 1": 1.0,
    "worst, tau large": 20.0,
}


@dataclass(frozen=True)
class Limits:
    lower: tuple[float, ...] | None = None
    upper: tuple[float, ...] | None = None
    groups: tuple[Group, ...] = ()

    def feasible(self) -> FeasibleSet:
        return FeasibleSet.of(SOURCES, self.lower, self.upper, self.groups)


LIMITS: dict[str, Limits] = {
    "none": Limits(),
    "box": Limits(lower=(0.05, 0, 0, 0.1, 0), upper=(0.5, 0.3, 0.6, 0.6, 0.35)),
    # available tokens x the most passes / training budget: a source that is scarce, one that is plentiful
    "repetition caps": Limits(upper=tuple(min(1.0, 4 * tokens / 1e9) for tokens in (2e7, 5e7, 1e8, 9e7, 9e9))),
    "fixed shares": Limits(lower=(0, 0.15, 0, 0, 0.2), upper=(1, 0.15, 1, 1, 0.2)),
    "groups": Limits(groups=(Group([0, 1], upper=0.3), Group([2, 3], lower=0.45))),
    "overlapping groups": Limits(
        groups=(Group([0, 1, 2], 0.1, 0.5), Group([2, 3], lower=0.4), Group([0, 3, 4], upper=0.6))
    ),
    "a group held at one number": Limits(groups=(Group([1, 4], 0.25, 0.25),)),
    "all together": Limits(
        lower=(0.05, 0.15, 0, 0, 0),
        upper=(0.5, 0.15, 0.6, 0.25, 0.3),
        groups=(Group([0, 1, 2], 0.1, 0.6), Group([2, 3], lower=0.35), Group([3, 4], upper=0.45)),
    ),
}

PULLS = {"no prior": 0.0, "prior": 0.05}


# --------------------------------------------------------------------------------------------------------------- cases


@dataclass(frozen=True, eq=False)
class Case:
    """``weight``: of a target's rows: tolerances are relative to it. ``shares``: those of cvxpy with Clarabel."""

    problem: Problem
    weight: float
    shares: Array
    written: cvxpy.Expression

    def value(self, shares: Array) -> float:
        """What is minimised, as cvxpy computes it."""
        self.written.variables()[0].value = shares
        return float(self.written.value) * self.weight


@cache
def case(objective: str, goal: str, limits: str, pull: str) -> Case:
    """Deterministic: the numbers depend on the names."""
    draw = draw_for(objective, goal, limits, pull)
    targets = 1 if goal == "one target" else TARGETS
    objectives, written = zip(*[OBJECTIVES[objective](draw, t) for t in range(targets)], strict=True)
    variable = cvxpy.Variable(SOURCES)
    weights = np.array([row_weights_of(objective).sum() for objective in objectives])
    within: list[Any] = [cvxpy.sum(variable) == 1]
    tau = GOALS[goal]
    weight = float(weights.mean())
    losses = [expression(variable) / weight for expression in written]
    if tau is None:
        made: Mean | Worst = Mean.of(draw.uniform(0.2, 2, targets), targets)
        value = sum(a * loss for a, loss in zip(made.weights, losses, strict=True))
    else:
        offsets = weight * draw.uniform(0, 0.1, targets)
        made = Worst.of(targets, offsets, draw.dirichlet(np.full(targets, 3.0)), tau * weight)
        above = [loss - b for loss, b in zip(losses, made.offsets / weight, strict=True)]
        if tau == 0:
            value = cvxpy.maximum(*above)
        else:
            value = tau * cvxpy.log_sum_exp(cvxpy.hstack(above) / tau + np.log(made.prior))
    prior = None
    if PULLS[pull]:
        prior = Prior.of(draw.dirichlet(np.full(SOURCES, 2.0)), PULLS[pull] * weight, SOURCES)
        assert prior is not None
        value = value + PULLS[pull] * cvxpy.sum(cvxpy.kl_div(variable, prior.shares))
    feasible = LIMITS[limits].feasible()
    for part, least, most in (
        (variable, feasible.lower, feasible.upper),
        (feasible.member @ variable if feasible.groups else None, feasible.group_lower, feasible.group_upper),
    ):
        held, free = np.flatnonzero(least == most), np.flatnonzero(least < most)
        within += [part[held] == least[held]] if held.size else []
        within += [part[free] >= least[free], part[free] <= most[free]] if free.size else []
    program = cvxpy.Problem(cvxpy.Minimize(value), within)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Solution may be inaccurate")  # PRECISION is asked for
        program.solve(solver=cvxpy.CLARABEL)
    assert program.status in (cvxpy.OPTIMAL, cvxpy.OPTIMAL_INACCURATE), program.status
    assert np.abs(variable.value - feasible.repair(variable.value)).max() < PRECISION
    return Case(Problem(objectives, feasible, made, prior), weight, variable.value, value)
