"""Solvers x problems with known answers; an independent conic solver; brute force; every refusal by its message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cvxpy
import numpy as np
import pytest
from numpy.typing import NDArray

from mixray.errors import InputError
from mixray.simplex import (  # fmt: skip
    CrossEntropy,
    Entropic,
    FeasibleSet,
    Group,
    Newton,
    Problem,
    SquaredError,
    Worst,
    mixture_loss,
    row_weights,
    solve,
    solve_problem,
)

Array = NDArray[np.float64]
NOTHING = -np.inf


def one_hot(counts: list[int], gap: float) -> Array:
    """Rows of which each is likely under one source only, by ``gap`` nats: the optimum is the sources' row counts."""
    likely = np.repeat(np.arange(len(counts)), counts)
    return np.where(np.eye(len(counts))[likely] > 0, -3.0, -3.0 - gap)


def entropy(*shares: float) -> float:
    return -sum(share * np.log(share) for share in shares)


# Two sources, two kinds of rows: likelihoods (1, a) with weight w and (b, 1) with weight 1 - w. The derivative is 0 at
# w (1-a) / (s + (1-s) a) = (1-w) (1-b) / (s b + 1 - s), which is linear in the first share s.
A, B, W = 0.25, 0.5, 0.4
FIRST = (W * (1 - A) - (1 - W) * (1 - B) * A) / ((1 - A) * (1 - B))
TWO_LOSS = -W * np.log(FIRST + (1 - FIRST) * A) - (1 - W) * np.log(FIRST * B + 1 - FIRST)

KNOWN: dict[str, tuple[Array, dict[str, Any], list[float] | None, float]] = {
    # name: (log_probs, options, shares or None where they are not unique, loss in nats)
    "one source": (np.array([[-2.0], [-4.0]]), {}, [1.0], 3.0),
    "one row": (np.array([[-2.0, -1.0, -3.0]]), {}, [0.0, 1.0, 0.0], 1.0),
    "disjoint rows": (one_hot([5, 3, 2], np.inf), {}, [0.5, 0.3, 0.2], 3 + entropy(0.5, 0.3, 0.2)),
    "thousands of nats": (one_hot([6, 3, 1], 5000.0), {}, [0.6, 0.3, 0.1], 3 + entropy(0.6, 0.3, 0.1)),
    "a rare source": (one_hot([1, 99_999], 800.0), {}, [1e-5, 1 - 1e-5], 3 + entropy(1e-5, 1 - 1e-5)),
    "more sources than rows": (
        np.array([[0.0, -9, -9, -9, -9], [-9, -9, -9, 0.0, -9]]) * 100,
        {},
        [0.5, 0, 0, 0.5, 0],
        entropy(0.5, 0.5),
    ),
    "equal columns": (np.array([[-1.0, -1.0, -1.0], [-2.0, -2.0, -2.0]]), {}, None, 1.5),
    "a duplicated column": (one_hot([2, 1], np.inf)[:, [0, 0, 1]], {}, None, 3 + entropy(2 / 3, 1 / 3)),
    "a dominated source": (
        np.array([[-1.0, -2.0, -4.0], [-3.0, -3.0, -3.5]]),
        {},
        [1.0, 0.0, 0.0],
        2.0,
    ),
    "two sources": (
        np.log([[1, A], [B, 1]]),
        {"row_weights": [W, 1 - W]},
        [FIRST, 1 - FIRST],
        TWO_LOSS,
    ),
    "weighted rows": (
        one_hot([1, 1], np.inf),
        {"row_weights": [3.0, 1.0]},
        [0.75, 0.25],
        4 * (3 + entropy(0.75, 0.25)),
    ),
    "rows without weight": (
        one_hot([1, 1, 1], np.inf),
        {"row_weights": [0.5, 0.5, 0.0]},
        [0.5, 0.5, 0.0],
        3 + entropy(0.5, 0.5),
    ),
    "an upper bound": (
        one_hot([7, 2, 1], np.inf),
        {"upper": [0.4, 1, 1]},
        [0.4, 0.4, 0.2],
        3 - 0.7 * np.log(0.4) - 0.2 * np.log(0.4) - 0.1 * np.log(0.2),
    ),
    "a lower bound": (
        one_hot([6, 3, 1], np.inf),
        {"lower": [0, 0, 0.4]},
        [0.4, 0.2, 0.4],
        3 - 0.6 * np.log(0.4) - 0.3 * np.log(0.2) - 0.1 * np.log(0.4),
    ),
    "a group's upper limit": (
        # its members share what it allows as they would alone, the others the rest
        one_hot([4, 2, 3, 1], np.inf),
        {"groups": [Group([0, 1], upper=0.3)]},
        [0.2, 0.1, 0.525, 0.175],
        3 - 0.4 * np.log(0.2) - 0.2 * np.log(0.1) - 0.3 * np.log(0.525) - 0.1 * np.log(0.175),
    ),
    "groups that overlap": (
        # both limits are met with one share of source 1 between them: 0.5 + 0.1, 0.1 + 0.4
        one_hot([5, 2, 3], np.inf),
        {"groups": [Group([0, 1], upper=0.6), Group([1, 2], upper=0.5)]},
        [0.5, 0.1, 0.4],
        3 - 0.5 * np.log(0.5) - 0.2 * np.log(0.1) - 0.3 * np.log(0.4),
    ),
    "a group that rules a source out": (
        np.array([[0.0, -1.0, -2.0], [0.0, -2.0, -1.0]]),
        {"groups": [Group([1, 2], lower=1.0)]},
        [0, 0.5, 0.5],
        -np.log((np.exp(-1) + np.exp(-2)) / 2),
    ),
    "a source that never helps": (
        np.array([[-1.0, -2.0, -9.0], [-2.0, -1.0, -9.0]]),
        {},
        [0.5, 0.5, 0.0],
        1 - np.log((1 + np.exp(-1)) / 2),
    ),
    "a forbidden source": (
        np.array([[0.0, -1.0, -2.0], [0.0, -2.0, -1.0]]),
        {"upper": [0, 1, 1]},
        [0, 0.5, 0.5],
        -np.log((np.exp(-1) + np.exp(-2)) / 2),
    ),
    "a fixed source": (
        one_hot([2, 1, 1], np.inf),
        {"lower": [0, 0.5, 0], "upper": [1, 0.5, 1]},
        [1 / 3, 0.5, 1 / 6],
        3 - 0.5 * np.log(1 / 3) - 0.25 * np.log(1 / 2) - 0.25 * np.log(1 / 6),
    ),
    "bounds that leave one mixture": (
        one_hot([1, 1], np.inf),
        {"lower": [0.3, 0.7]},
        [0.3, 0.7],
        3 - 0.5 * np.log(0.3) - 0.5 * np.log(0.7),
    ),
    "upper bounds that sum to 1": (
        one_hot([1, 1], np.inf),
        {"upper": [0.2, 0.8]},
        [0.2, 0.8],
        3 - 0.5 * np.log(0.2) - 0.5 * np.log(0.8),
    ),
}


@pytest.mark.parametrize("solver", ["newton", "entropic"])
@pytest.mark.parametrize("name", KNOWN)
def test_known_answers(name: str, solver: str) -> None:
    log_probs, options, shares, loss = KNOWN[name]
    solution = solve(log_probs, solver=solver, tolerance=1e-9, **options)
    assert solution.status == "converged"
    assert solution.gap <= 1e-9
    assert solution.loss == pytest.approx(loss, abs=2e-9)
    assert abs(solution.weights.sum() - 1) <= 1e-12
    assert (solution.weights >= options.get("lower", 0)).all()
    assert (solution.weights <= options.get("upper", 1)).all()
    if shares is not None:
        np.testing.assert_allclose(solution.weights, shares, atol=2e-4)


@pytest.mark.parametrize("solver", ["newton", "entropic"])
def test_a_strong_prior_is_the_answer_and_a_weak_one_is_not(solver: str) -> None:
    log_probs, prior = one_hot([8, 1, 1], 50.0), [0.2, 0.3, 0.5]
    strong = solve(log_probs, prior=prior, prior_strength=1e9, solver=solver, tolerance=1e-3)
    np.testing.assert_allclose(strong.weights, prior, atol=1e-6)
    weak = solve(log_probs, prior=prior, prior_strength=1e-9, solver=solver)
    np.testing.assert_allclose(weak.weights, [0.8, 0.1, 0.1], atol=1e-4)


def test_a_source_outside_the_prior_gets_nothing() -> None:
    solution = solve(one_hot([8, 1, 1], 50.0), prior=[0.0, 0.5, 0.5], prior_strength=0.1)
    np.testing.assert_allclose(solution.weights, [0, 0.5, 0.5], atol=1e-6)


def test_the_loss_is_reported_without_the_prior() -> None:
    log_probs = np.random.default_rng(0).normal(-10, 2, (40, 3))
    solution = solve(log_probs, prior_strength=0.3)
    assert solution.loss == pytest.approx(mixture_loss(log_probs, solution.weights), abs=1e-12)
    assert solution.trace[-1, 0] > solution.loss


def random_problem(seed: int) -> tuple[Array, dict[str, Any]]:
    """Rows, weights, and in turn nothing, bounds, or a prior."""
    draw = np.random.default_rng(seed)
    sources = int(draw.integers(2, 6))
    log_probs = draw.normal(-20, [0.5, 2.0, 6.0][seed % 3], (40, sources))
    options: dict[str, Any] = {"row_weights": draw.exponential(size=40) / 40}
    if seed % 4 == 1:
        options |= {"lower": np.full(sources, 0.4 / sources), "upper": np.full(sources, 1.3 / sources)}
    if seed % 4 == 2:
        options |= {"prior": draw.dirichlet(np.ones(sources)), "prior_strength": 0.1}
    return log_probs, options


def by_conic_solver(log_probs: Array, options: dict[str, Any]) -> tuple[Array, float]:
    """The same problem, written for cvxpy and solved by clarabel's interior point method."""
    row_max = log_probs.max(axis=1)
    shares = cvxpy.Variable(log_probs.shape[1])
    mixed = cvxpy.log(np.exp(log_probs - row_max[:, None]) @ shares) + row_max
    objective = -options["row_weights"] @ mixed
    if "prior" in options:
        objective += options["prior_strength"] * cvxpy.sum(cvxpy.rel_entr(shares, options["prior"]))
    bounds = [shares >= options.get("lower", 0), shares <= options.get("upper", 1), cvxpy.sum(shares) == 1]
    value = cvxpy.Problem(cvxpy.Minimize(objective), bounds).solve(solver=cvxpy.CLARABEL)
    return shares.value, float(value)


@pytest.mark.parametrize("seed", range(12))
def test_a_conic_solver_finds_the_same(seed: int) -> None:
    log_probs, options = random_problem(seed)
    shares, value = by_conic_solver(log_probs, options)
    for solver in ["newton", "entropic"]:
        solution = solve(log_probs, solver=solver, tolerance=1e-9, max_rounds=50_000, **options)
        assert solution.status == "converged"
        assert solution.trace[-1, 0] == pytest.approx(value, abs=1e-6)
        np.testing.assert_allclose(solution.weights, shares, atol=1e-3)


def test_no_point_of_a_fine_grid_is_better() -> None:
    log_probs = np.random.default_rng(3).normal(-8, 1.5, (30, 3))
    steps = np.linspace(0, 1, 201)
    grid = np.array([(a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1 + 1e-12]).clip(0)
    losses = -np.log(np.exp(log_probs) @ grid.T).mean(axis=0)
    solution = solve(log_probs)
    assert solution.loss <= losses.min() + 1e-12
    np.testing.assert_allclose(solution.weights, grid[losses.argmin()], atol=0.01)


def correlated(rows: int, sources: int, noise: float) -> Array:
    """Columns as alike as real proxies': a common base, six shared factors, noise of their own."""
    draw = np.random.default_rng(rows + sources)
    common = draw.normal(-60, 20, (rows, 1)) + 0.3 * draw.normal(size=(rows, 6)) @ draw.normal(size=(6, sources))
    return common + noise * draw.normal(size=(rows, sources))


def separated(rows: int, sources: int, scale: float) -> Array:
    return np.random.default_rng(rows + sources).normal(-5000, scale, (rows, sources))


def dominated(rows: int, sources: int) -> Array:
    return separated(rows, sources, 2.0) - 40.0 * (np.arange(sources) >= sources // 2)


HARD: dict[str, Callable[[], Array]] = {
    "correlated": lambda: correlated(5000, 40, 0.05),
    "nearly equal": lambda: correlated(2000, 30, 1e-5),
    "equal within rounding": lambda: correlated(500, 20, 1e-9),
    "duplicated": lambda: np.tile(correlated(2000, 15, 0.05), 3),
    "separated": lambda: separated(2000, 30, 30.0),
    "thousands of nats apart": lambda: separated(2000, 30, 3000.0),
    "dominated": lambda: dominated(1000, 40),
    "more sources than rows": lambda: separated(40, 150, 5.0),
    "one row": lambda: separated(1, 100, 3.0),
    "two rows": lambda: correlated(2, 60, 1.0),
    "float32": lambda: correlated(1000, 20, 0.05).astype(np.float32),
}


def caps(sources: int) -> Array:
    return np.where(np.arange(sources) % 3 == 0, 2 / sources, 0.5)


def overlapping(sources: int) -> list[Group]:
    """Three groups of neighbours, each with half of the next, one of every other source."""
    third = max(2, sources // 3)
    return [
        Group(range(third), upper=0.3),
        Group(range(third // 2, third // 2 + third), 0.1, 0.5),
        Group(range(0, sources, 2), lower=0.6),
    ]


CUTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "free": lambda _: {},
    "caps": lambda sources: {"upper": caps(sources)},
    "groups": lambda sources: {"groups": overlapping(sources)},
    "caps and groups": lambda sources: {"upper": caps(sources), "groups": overlapping(sources)[:2]},
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("per_token", [1.0, 1e-3])
@pytest.mark.parametrize("name", HARD)
def test_newton_needs_few_rounds(name: str, per_token: float, cut: str) -> None:
    log_probs = HARD[name]()
    rows, sources = log_probs.shape
    weights = np.full(rows, per_token / rows)
    solution = solve(log_probs, row_weights=weights, tolerance=1e-8 * per_token, **CUTS[cut](sources), densities=True)
    assert solution.status == "converged"
    assert solution.rounds <= 10


@pytest.mark.parametrize("tau", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("name", HARD)
def test_newton_needs_few_rounds_for_the_worst_of_hard_targets(name: str, tau: float) -> None:
    log_probs = HARD[name]()
    halves = [CrossEntropy.from_log_probs(part) for part in (log_probs[::2], log_probs[len(log_probs) // 2 :])]
    problem = Problem(tuple(halves), FeasibleSet.of(log_probs.shape[1]), Worst.of(2, tau=tau))
    solution = solve_problem(problem)
    assert solution.status == "converged"
    assert solution.rounds <= 15


EDGES: dict[str, Callable[[], Array]] = {
    "one row": lambda: HARD["one row"]()[:, :6],
    "one source": lambda: correlated(20, 1, 0.1),
    "more sources than rows": lambda: separated(4, 9, 5.0),
    "duplicated": lambda: np.tile(separated(30, 3, 2.0), 2),
    "thousands of nats apart": lambda: separated(30, 5, 3000.0),
    "dominated": lambda: dominated(30, 6),
}
EDGE_CUTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "free": lambda _: {},
    "fixed": lambda sources: {"lower": 1 / sources, "upper": 1 / sources},
    "one fixed": lambda sources: {"lower": np.eye(sources)[0] * 0.2, "upper": np.where(np.arange(sources), 1, 0.2)},
    "group": lambda _: {"groups": [Group([0], 0.1, 0.4)]},
}


@pytest.mark.parametrize("cut", EDGE_CUTS)
@pytest.mark.parametrize("solver", ["newton", "entropic"])
@pytest.mark.parametrize("name", EDGES)
def test_edge_cases_end_with_a_certificate(name: str, solver: str, cut: str) -> None:
    log_probs = EDGES[name]()
    if log_probs.shape[1] == 1 and cut in ("one fixed", "group"):
        with pytest.raises(InputError, match="no mixture satisfies"):
            solve(log_probs, solver=solver, **EDGE_CUTS[cut](1), densities=True)
        return
    weights = np.where(np.arange(len(log_probs)) % 5 == 4, 0.0, 1.0) / len(log_probs)
    options = EDGE_CUTS[cut](log_probs.shape[1])
    solution = solve(log_probs, solver=solver, row_weights=weights, tolerance=1e-5, **options, densities=True)
    assert solution.status == "converged"
    best = solve(log_probs, row_weights=weights, tolerance=1e-11, **options, densities=True)
    assert -1e-9 <= solution.loss - best.loss <= solution.gap + 1e-9
    assert solution.loss == pytest.approx(mixture_loss(log_probs, solution.weights, row_weights=weights), rel=1e-12)


@pytest.mark.parametrize("strength", [1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("name", ["correlated", "separated", "more sources than rows"])
def test_newton_needs_few_rounds_with_a_prior(name: str, strength: float) -> None:
    log_probs = HARD[name]()
    prior = np.random.default_rng(0).dirichlet(np.full(log_probs.shape[1], 0.5))
    solution = solve(log_probs, prior=prior, prior_strength=strength, densities=True)
    assert solution.status == "converged"
    assert solution.rounds <= 15


def test_the_trace_runs_from_the_start_to_the_answer() -> None:
    log_probs = correlated(300, 5, 0.1)
    solution = solve(log_probs)
    assert solution.trace.shape == (solution.rounds + 1, 2)
    assert solution.trace[0, 0] == pytest.approx(mixture_loss(log_probs, np.full(5, 0.2)), abs=1e-12)
    assert tuple(solution.trace[-1]) == (solution.loss, solution.gap)


def test_the_same_call_gives_the_same_bits() -> None:
    first, second = (solve(correlated(3000, 20, 0.05), densities=True) for _ in range(2))
    assert first.weights.tobytes() == second.weights.tobytes()
    assert first.loss == second.loss


@pytest.mark.parametrize("solver", ["newton", "entropic"])
def test_a_start_at_a_corner_is_left(solver: str) -> None:
    log_probs = one_hot([1, 1], 20.0)
    solution = solve(log_probs, solver=solver, start=[1.0, 0.0])
    assert solution.status == "converged"
    np.testing.assert_allclose(solution.weights, 0.5, atol=1e-3)


def test_too_few_rounds_are_reported_with_the_gap_reached() -> None:
    solution = solve(correlated(200, 10, 0.05), solver="entropic", max_rounds=3)
    assert (solution.status, solution.rounds) == ("round_limit", 3)
    assert solution.gap > 1e-8


def test_no_round_is_the_start_with_its_certificate() -> None:
    log_probs = one_hot([3, 1], 2.0)
    solution = solve(log_probs, max_rounds=0)
    assert (solution.status, solution.rounds) == ("round_limit", 0)
    assert solution.weights.tolist() == [0.5, 0.5]
    assert solution.loss - solve(log_probs).loss <= solution.gap


@pytest.mark.parametrize("solver", ["newton", "entropic"])
def test_a_tolerance_below_the_precision_ends_as_stalled(solver: str) -> None:
    solution = solve(separated(400, 6, 5.0), solver=solver, tolerance=1e-300)
    assert solution.status == "stalled"
    assert solution.gap < 1e-9


def test_a_solver_may_be_given_as_an_object() -> None:
    log_probs = one_hot([3, 1], 2.0)
    for solver in (Newton(), Entropic()):
        assert solve(log_probs, solver=solver).status == "converged"


def test_the_released_constants_hardly_move_on_long_documents() -> None:
    # 100 steps of 1.0 from balanced, as in the released code: a gradient in nats per token is tiny for long documents.
    draw = np.random.default_rng(0)
    tokens = draw.integers(1500, 2500, 400)
    log_probs = -3.9 * tokens[:, None] + draw.normal(0, 60, (400, 7)) + np.linspace(40, 0, 7)
    weights = row_weights(tokens, None, "document")
    released = solve(log_probs, row_weights=weights, solver=Entropic(fixed_step=1.0), max_rounds=100)
    assert (released.status, released.rounds) == ("round_limit", 100)
    best = solve(log_probs, row_weights=weights, solver="entropic", max_rounds=100)
    assert best.status == "converged"
    assert np.abs(released.weights - best.weights).sum() / 2 > 0.1
    assert released.loss - best.loss <= released.gap


def test_a_fixed_step_is_the_papers_update() -> None:
    log_probs = np.random.default_rng(1).normal(-5, 1, (50, 4))
    shares = np.full(4, 0.25)
    for _ in range(3):
        likelihood = np.exp(log_probs)
        gradient = -(likelihood / (likelihood @ shares)[:, None]).mean(axis=0)
        shares = shares * np.exp(-0.7 * gradient)
        shares /= shares.sum()
    solution = solve(log_probs, solver=Entropic(fixed_step=0.7), max_rounds=3)
    np.testing.assert_allclose(solution.weights, shares, rtol=1e-12)


TABLE = one_hot([2, 1], 3.0)

REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "NaN": ({"log_probs": [[0.0, np.nan], [0, 0], [np.nan, 0]]}, r"some rows hold NaN\n  got: rows 0, 2"),
    "+inf": ({"log_probs": [[0.0, 1], [0, np.inf]]}, r"some rows hold \+inf\n  got: row 1"),
    "impossible row": (
        {"log_probs": [[-1.0, 0], [NOTHING, NOTHING]]},
        r"probability 0 under every allowed source\n  got: row 1",
    ),
    "row of a forbidden source": (
        {"log_probs": [[-1.0, 0], [0.0, NOTHING]], "upper": [0, 1]},
        r"probability 0 under every allowed source\n  got: row 1",
    ),
    "many bad rows": ({"log_probs": np.full((20, 2), np.nan)}, r"rows 0, 1, 2, 3, 4, 5, 6, 7, ... \(20 in all\)"),
    "one dimension": ({"log_probs": [0.0, 1.0]}, r"a table of numbers is needed\n  got: shape \(2,\)"),
    "no rows": ({"log_probs": np.empty((0, 2))}, r"got: shape \(0, 2\)"),
    "text": ({"log_probs": [["a", "b"]]}, r"a table of numbers is needed"),
    "weights' shape": ({"row_weights": [1.0]}, r"row_weights: one weight per row.*\n  got: shape \(1,\)\n.*\(3,\)"),
    "negative weight": ({"row_weights": [1, -1, 1]}, r"the weight of row 1 is not a valid weight\n  got: -1.0"),
    "NaN weight": ({"row_weights": [1, 1, np.nan]}, r"the weight of row 2 is not a valid weight"),
    "weights 0": ({"row_weights": [0, 0, 0]}, "all weights are 0"),
    "unknown solver": ({"solver": "newtom"}, r"unknown solver 'newtom'\n(.*\n)*.*did you mean 'newton'\?"),
    "lower above upper": (
        {"lower": [0, 0.6], "upper": [1, 0.5]},
        "satisfies.*\n  got: source 1 at most 0.5; source 1 at least 0.6;",
    ),
    "lower sum": ({"lower": [0.6, 0.6]}, "got: source 0 at least 0.6; source 1 at least 0.6; shares"),
    "upper sum": ({"upper": [0.3, 0.3]}, "got: source 0 at most 0.3; source 1 at most 0.3; shares"),
    "upper beyond 1": ({"upper": [1.5, 1]}, r"upper: the bound of source 0 is not a valid share\n  got: 1.5"),
    "lower NaN": ({"lower": [0, np.nan]}, "lower: the bound of source 1 is not a valid share"),
    "bounds' shape": ({"lower": [0, 0, 0]}, r"lower: one bound per source is needed\n  got: shape \(3,\)"),
    "tolerance": ({"tolerance": 0.0}, "tolerance: not a valid tolerance"),
    "rounds": ({"max_rounds": -1}, "max_rounds: not a valid number of rounds"),
    "strength": ({"prior_strength": -1.0}, "prior_strength: not a valid strength"),
    "prior": ({"prior": [0.5, 0.6]}, "prior: not valid shares"),
    "start": ({"start": [1.0, 1.0]}, "start: not valid shares"),
    "groups in conflict": (
        {"groups": [Group([0], upper=0.3), Group([1], upper=0.6)]},
        "got: source 1 at most 0.6; source 0 at most 0.3; shares sum to 1",
    ),
    "row of a forbidden group": (
        {"log_probs": [[-1.0, 0], [0.0, NOTHING]], "groups": [Group([0], upper=0)]},
        r"probability 0 under every allowed source\n  got: row 1",
    ),
    "a solver of the past": ({"solver": "em"}, r"unknown solver 'em'\n  wanted: auto, newton, entropic, working_set"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    arguments, message = REFUSALS[name]
    with pytest.raises(InputError, match=message):
        solve(**{"log_probs": TABLE} | arguments)


PREDICTED, LABELS = np.full((3, 2, 2), 0.5), np.array([0, 1, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CrossEntropy.of_labels(PREDICTED[0], LABELS), "probabilities: a table per source is needed"),
        (
            lambda: CrossEntropy.of_labels(PREDICTED, LABELS[:2]),
            r"labels: one class number per row.*\n  got: shape \(2,\)",
        ),
        (
            lambda: CrossEntropy.of_labels(PREDICTED, LABELS + 0.0),
            "labels: one class number per row is needed\n.*float64",
        ),
        (lambda: CrossEntropy.of_labels(PREDICTED, [0, 2, -1]), "labels: no class in rows 1, 2\n  wanted: 0 to 1"),
        (lambda: CrossEntropy.of_labels(PREDICTED * 3, LABELS), "probabilities: no probabilities in rows 0, 1, 2"),
        (lambda: CrossEntropy.of_labels(PREDICTED * np.nan, LABELS), "probabilities: no probabilities in rows 0, 1, 2"),
        (lambda: CrossEntropy.of_labels(PREDICTED * 0, LABELS), "have probability 0 under every allowed source"),
        (lambda: CrossEntropy.of_labels(PREDICTED, LABELS, [1, 1]), "row_weights: one weight per row is needed"),
        (
            lambda: SquaredError.from_predictions(PREDICTED, LABELS),
            r"predictions and truth do not fit\n  got: shapes \(3, 2, 2\) and \(3,\)",
        ),
        (lambda: SquaredError.from_predictions(LABELS, LABELS), "predictions and truth do not fit"),
        (lambda: SquaredError.from_predictions(PREDICTED[:, :, 0], [0, np.nan, np.inf]), "not finite in rows 1, 2"),
        (lambda: SquaredError.from_predictions(PREDICTED[:, :, 0], LABELS, [0, 0, 0]), "all weights are 0"),
    ],
)
def test_refusals_of_objectives(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
