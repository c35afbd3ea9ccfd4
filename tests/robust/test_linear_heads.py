"""Heads at their minimum, their certificate, and the bound between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from mixray.errors import InputError
from mixray.robust.alignment import Bound, alignment, strong_convexity_bound
from mixray.robust.linear_heads import Head, HeadProblem

STRENGTHS = [0.001, 0.01, 0.1, 1.0, 3.0]
PENALTIES = pytest.mark.parametrize("l2", STRENGTHS)


def data(seed: int = 0, rows: int = 600, agreement: float = 0.9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Feature 0 is the label with noise, feature 1 the spurious attribute with less; groups are label x attribute."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, rows)
    spurious = np.where(draw.random(rows) < agreement, labels, 1 - labels)
    features = draw.normal(0, 1, (rows, 6))
    features[:, 0] += 2.0 * labels - 1
    features[:, 1] = 2.0 * spurious - 1 + 0.4 * features[:, 1]
    return features, labels, spurious


def problem(l2: float, seed: int = 0) -> HeadProblem:
    features, labels, spurious = data(seed)
    return HeadProblem(features, labels, 2 * labels + spurious, l2)


@PENALTIES
def test_erm_is_scikit_learns_logistic_regression(l2: float) -> None:
    """Two classes: (W, -W) at a softmax with penalty mu is a logistic head 2 W with penalty mu / 2."""
    one = problem(l2)
    head = one.erm()
    with_bias = np.column_stack([one.features, np.ones(len(one.labels))])
    model = LogisticRegression(C=2 / (l2 * len(one.labels)), fit_intercept=False, tol=1e-10, max_iter=10_000)
    logistic = model.fit(with_bias, one.labels).coef_[0]
    np.testing.assert_allclose(head.parameters[1] - head.parameters[0], logistic, rtol=0, atol=1e-6)
    np.testing.assert_allclose(head.parameters.sum(axis=0), 0, atol=1e-9)
    assert 0 <= head.error < 1e-12


@PENALTIES
def test_group_dro_is_certified_and_an_erm_head_of_its_weights(l2: float) -> None:
    one = problem(l2)
    robust, erm = one.group_dro(), one.erm()
    assert 0 <= robust.error < 1e-6
    assert robust.objective == robust.worst_objective < erm.worst_objective
    assert robust.group_weights is not None
    carrying = robust.group_weights > 1e-3
    np.testing.assert_allclose(robust.group_losses[carrying], robust.group_losses.max(), rtol=0, atol=1e-4)
    again = one.erm((robust.group_weights / np.bincount(one.group_ids))[one.group_ids])
    np.testing.assert_allclose(again.parameters, robust.parameters, rtol=0, atol=1e-6)


def test_group_dro_is_the_minimum_that_another_solver_finds() -> None:
    """Epigraph form, min t + mu/2 |w|^2 with L_g(w) <= t, by a general solver."""
    one = problem(0.1)
    robust = one.group_dro()
    start = np.append(one.erm().parameters.ravel(), 2.0)
    other = minimize(
        lambda z: z[-1] + 0.05 * z[:-1] @ z[:-1],
        start,
        jac=lambda z: np.append(0.1 * z[:-1], 1.0),
        constraints={"type": "ineq", "fun": lambda z: z[-1] - one.group_losses(z[:-1])},
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    assert robust.objective <= other.fun + robust.error + 1e-9
    assert robust.objective == pytest.approx(other.fun, abs=1e-6)


def bound_of(erm: Head, robust: Head, l2: float) -> Bound:
    return strong_convexity_bound(
        worst_objective=erm.worst_objective,
        robust_worst_objective=robust.worst_objective,
        weights=erm.parameters,
        robust_weights=robust.parameters,
        l2=l2,
        robust_error=robust.error,
    )


@PENALTIES
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_bound_holds(l2: float, seed: int) -> None:
    one = problem(l2, seed)
    erm, robust = one.erm(), one.group_dro()
    bound = bound_of(erm, robust, l2)
    assert bound.holds
    assert bound.slack > 0
    assert 0 < bound.distance < bound.gap
    assert bound.tolerance < 0.01 * bound.gap


def test_the_bound_holds_for_any_head_and_fails_for_too_large_a_penalty() -> None:
    one = problem(0.5)
    robust, draw = one.group_dro(), np.random.default_rng(0)
    for size in (0.3, 1.0, 10.0):
        weights = robust.parameters + size * draw.normal(size=robust.parameters.shape)
        flat = weights.ravel()
        worst = float(one.group_losses(flat).max()) + 0.25 * flat @ flat
        for l2, holds in [(0.5, True), (50.0, False)]:
            bound = strong_convexity_bound(
                worst_objective=worst,
                robust_worst_objective=robust.worst_objective,
                weights=weights,
                robust_weights=robust.parameters,
                l2=l2,
                robust_error=robust.error,
            )
            assert bound.holds == holds


def test_group_dro_turns_from_the_spurious_head_to_the_oracle() -> None:
    """On this toy; whether it does on real data is a question, not a test."""
    features, _, spurious = data()
    one = problem(0.1)
    attribute = HeadProblem(features, spurious, spurious, 0.1).erm()
    balanced = data(seed=9, agreement=0.5)
    oracle = HeadProblem(balanced[0], balanced[1], balanced[1], 0.1).erm()
    erm, robust = one.erm().weights, one.group_dro().weights
    assert alignment(erm, attribute.weights) - alignment(robust, attribute.weights) > 0.2
    assert alignment(robust, oracle.weights) - alignment(erm, oracle.weights) > 0.1


REFUSALS = [
    ({"labels": np.zeros(4, int)}, "labels of two classes"),
    ({"l2": 0.0}, "without a penalty"),
    ({"group_ids": np.array([0, 0, 2, 2])}, "a group has no training rows"),
    ({"group_ids": np.array([0, -1, 1, 1])}, "group ids not negative"),
    ({"features": np.full((4, 4), np.nan)}, "features must be finite"),
    ({"group_ids": np.array([0, 1])}, "do not fit together"),
    ({"features": np.ones(4)}, "do not fit together"),
]


@pytest.mark.parametrize(("change", "what"), REFUSALS)
def test_problems_without_an_answer_are_refused(change: dict[str, Any], what: str) -> None:
    whole = {"features": np.eye(4), "labels": np.array([0, 1, 0, 1]), "group_ids": np.array([0, 0, 1, 1]), "l2": 0.1}
    with pytest.raises(InputError, match=what):
        HeadProblem(**(whole | change))
