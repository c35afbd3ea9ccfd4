"""The quadratic step, its line search, and what happens when the quadratic solver gives up."""

from __future__ import annotations

from typing import Any

import daqp
import numpy as np
import pytest
from numpy.typing import NDArray

from mixray.simplex import newton, solve
from mixray.simplex.newton import newton_direction, search

Array = NDArray[np.float64]


class Parabola:
    """``a t^2 / 2 + b t + c``, as a line search meets it."""

    def __init__(self, a: float, b: float, c: float) -> None:
        self.a, self.b, self.c = a, b, c

    def value(self, position: float) -> float:
        return self.a * position**2 / 2 + self.b * position + self.c

    def slope(self, position: float) -> float:
        return self.a * position + self.b


def test_the_direction_of_a_quadratic_by_hand() -> None:
    # min -d1 + (d1^2 + d2^2) / 2 with d1 + d2 = 0: d1 = 1/2; a bound of 0.2 cuts it.
    gradient, curvature, wide = np.array([-1.0, 0.0]), np.eye(2), np.ones(2)
    np.testing.assert_allclose(newton_direction(gradient, curvature, -wide, wide), [0.5, -0.5], atol=1e-8)
    assert newton_direction(gradient, curvature, -wide, np.array([0.2, 1.0])).tolist() == [0.2, -0.2]  # type: ignore[union-attr]


def test_curvature_and_gradient_along_the_sum_change_nothing() -> None:
    draw = np.random.default_rng(0)
    half = draw.normal(size=(6, 4))
    gradient, lower, upper = draw.normal(size=4), np.full(4, -0.1), np.full(4, 0.1)
    plain = newton_direction(gradient, half.T @ half, lower, upper)
    moved = newton_direction(gradient + 1e3, half.T @ half + 1e3, lower, upper)
    np.testing.assert_allclose(moved, plain, atol=1e-9)


@pytest.mark.parametrize("curvature", [np.zeros((3, 3)), np.full((3, 3), 2.0)])
def test_without_curvature_the_step_goes_to_the_bounds(curvature: Array) -> None:
    direction = newton_direction(np.array([3.0, 2.0, 1.0]), curvature, np.full(3, -0.5), np.full(3, 0.5))
    np.testing.assert_allclose(direction, [-0.5, 0.0, 0.5], atol=1e-8)


def test_there_is_no_direction_where_nothing_can_or_should_move() -> None:
    fixed = np.array([0.0, 0.0, 0.5])
    assert newton_direction(np.arange(3.0), np.eye(3), -fixed, fixed) is None
    assert newton_direction(np.ones(3), np.zeros((3, 3)), -np.ones(3), np.ones(3)) is None


@pytest.mark.parametrize(
    ("parabola", "least", "most"),
    [
        (Parabola(0, -1, 3), 1.0, 1.0),  # downhill all the way
        (Parabola(1, -0.9, 3), 1.0, 1.0),  # a little past the minimum
        (Parabola(10, -1, 3), 0.07, 0.1),  # far past it: back to just before 0.1
        (Parabola(0, 1, 3), 0.0, 0.0),  # uphill
        (Parabola(0, 1e-12, 1e9), 1.0, 1.0),  # below what values resolve
    ],
)
def test_the_line_search(parabola: Parabola, least: float, most: float) -> None:
    assert least <= search(parabola, parabola.c) <= most


LOG_PROBS = np.random.default_rng(0).normal(-5, 2, (60, 4))


def test_a_larger_ridge_is_tried_when_the_quadratic_solver_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, real = [], daqp.solve

    def fails_at_first(hessian: Array, *arguments: Any, **settings: Any) -> Any:
        asked.append(hessian)
        found, value, flag, info = real(hessian, *arguments, **settings)
        return found, value, -1 if len(asked) % 2 else flag, info

    expected = solve(LOG_PROBS)
    monkeypatch.setattr(newton.daqp, "solve", fails_at_first)
    solution = solve(LOG_PROBS)
    assert solution.status == "converged"
    assert len(asked) > 2
    np.testing.assert_allclose(solution.weights, expected.weights, atol=1e-6)


def test_without_any_quadratic_solution_the_rounds_are_those_of_em(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newton.daqp, "solve", lambda *_, **__: (np.zeros(4), 0.0, -1, {}))
    solution = solve(LOG_PROBS)
    by_em = solve(LOG_PROBS, solver="em")
    assert (solution.status, solution.rounds) == ("converged", by_em.rounds)
    assert solution.weights.tolist() == by_em.weights.tolist()
