"""The distribution-weighted rule: against a brute search, against the plain problem, its bound and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from mixray.errors import InputError
from mixray.simplex import mixed_log_probs, reweighted_log_probs, solve, solve_reweighted
from mixray.simplex.solvers.reweighted import _Point


def labelled(seed: int, sources: int, distance: float, rows: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the true log-probabilities of labels, the true log-densities of inputs and the shares of a target that is
    a mixture of Gaussian sources, whose means are so far from the origin and which disagree about the labels."""
    generator = np.random.default_rng([seed, sources])
    shares = generator.dirichlet(np.ones(sources))
    means = generator.normal(size=(sources, 2))
    means *= distance / np.linalg.norm(means, axis=1, keepdims=True)
    slopes = 2 * generator.normal(size=(sources, 2))
    origin = generator.choice(sources, rows, p=shares)
    inputs = means[origin] + generator.normal(size=(rows, 2))
    of_one = 1 / (1 + np.exp(-inputs @ slopes.T))
    labels = generator.random(rows) < of_one[np.arange(rows), origin]
    log_densities = -((inputs[:, None] - means) ** 2).sum(axis=2) / 2
    return np.log(np.where(labels[:, None], of_one, 1 - of_one)), log_densities, shares


def grid(sources: int) -> np.ndarray:
    """Return shares that cover the simplex of two or three sources, and more of them where a share is tiny."""
    edge = np.concatenate([[0.0], np.geomspace(1e-4, 0.02, 10), np.linspace(0.02, 1, 99)])
    if sources == 2:
        return np.column_stack([edge, 1 - edge])
    first, second = (axis.ravel() for axis in np.meshgrid(edge, edge))
    return np.column_stack([first, (1 - first) * second, (1 - first) * (1 - second)])


def losses_on(points: np.ndarray, log_probs: np.ndarray, log_densities: np.ndarray) -> np.ndarray:
    """The rule's loss as it is written down, of every point."""
    densities = np.exp(log_densities)
    rule = (points @ (densities * np.exp(log_probs)).T) / (points @ densities.T)
    return -np.log(rule).mean(axis=1)


@pytest.mark.parametrize("sources", [2, 3])
@pytest.mark.parametrize("distance", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_shares_on_a_grid_are_better(seed: int, sources: int, distance: float) -> None:
    log_probs, log_densities, _ = labelled(seed, sources, distance)
    best = solve_reweighted(log_probs, log_densities, pieces=8)
    on_grid = losses_on(grid(sources), log_probs, log_densities)
    assert best.status == "local_minimum"
    assert on_grid.min() - 1e-3 <= best.loss <= on_grid.min() + 1e-6
    assert best.lower_bound <= best.loss
    assert best.loss == pytest.approx(losses_on(best.weights[None], log_probs, log_densities)[0], abs=1e-12)


def test_two_local_minima_are_told_apart() -> None:
    """Two sources that agree about neither group of rows, in equal measure but for a few rows."""
    inputs = np.array([-2.0] * 30 + [2.0] * 31)
    log_densities = np.column_stack([inputs, -inputs])
    log_probs = np.log(np.where((inputs > 0)[:, None], [0.1, 0.9], [0.9, 0.1]))
    best = solve_reweighted(log_probs, log_densities, seed=1)
    assert best.loss == pytest.approx(losses_on(grid(2), log_probs, log_densities).min(), abs=1e-4)
    assert np.ptp(best.start_losses) > 0.01
    assert best.loss == best.start_losses.min()
    assert np.unique(best.start_shares.argmax(axis=1)).size == 2


def test_with_equal_inputs_it_is_the_plain_mixture() -> None:
    log_probs, _, _ = labelled(0, 4, 0.0)
    constants = np.random.default_rng(0).normal(size=(len(log_probs), 1))
    best, plain = solve_reweighted(log_probs, np.tile(constants, 4)), solve(log_probs)
    assert best.loss == pytest.approx(plain.loss, abs=1e-6)
    assert best.lower_bound == pytest.approx(plain.loss, abs=1e-5)
    assert np.ptp(best.start_losses) < 1e-6
    mixed = reweighted_log_probs(log_probs, np.tile(constants, 4), plain.weights)
    assert mixed == pytest.approx(mixed_log_probs(log_probs, plain.weights), abs=1e-12)


def test_shares_of_a_mixture_of_shifted_sources_are_recovered_where_the_plain_mixture_misses_them() -> None:
    log_probs, log_densities, shares = labelled(5, 3, 2.5, rows=4000)
    best = solve_reweighted(log_probs, log_densities, draws=0, pieces=1)
    assert np.abs(best.weights - shares).sum() < 0.2
    assert np.abs(solve(log_probs).weights - shares).sum() > 0.8


@pytest.mark.parametrize(("sources", "distance"), [(2, 1.0), (3, 0.5)])
def test_more_pieces_bring_the_bound_up_to_the_loss(sources: int, distance: float) -> None:
    log_probs, log_densities, _ = labelled(1, sources, distance)
    bounds = [solve_reweighted(log_probs, log_densities, pieces=pieces).lower_bound for pieces in (1, 8, 64)]
    least = losses_on(grid(sources), log_probs, log_densities).min()
    assert bounds[0] < bounds[1] <= bounds[2] <= least
    assert bounds[2] == pytest.approx(least, abs=1e-3)


def test_row_weights_and_numbers_added_to_a_row_of_densities() -> None:
    log_probs, log_densities, _ = labelled(3, 3, 1.0)
    times = np.random.default_rng(0).integers(0, 3, len(log_probs))
    weighted = solve_reweighted(log_probs, log_densities, row_weights=times.astype(float))
    shifted = log_densities + np.arange(len(log_probs))[:, None]
    repeated = solve_reweighted(np.repeat(log_probs, times, axis=0), np.repeat(shifted, times, axis=0))
    assert weighted.weights == pytest.approx(repeated.weights, abs=1e-3)
    assert weighted.loss == pytest.approx(repeated.loss * times.sum(), rel=1e-6)
    assert weighted.lower_bound == pytest.approx(repeated.lower_bound * times.sum(), rel=1e-3)


@pytest.mark.parametrize("distance", [800.0, 1e6])
@pytest.mark.parametrize("is_far", [[False, False, True], [True, True, False]])
def test_a_source_without_density_at_any_row_neither_matters_nor_fails(distance: float, is_far: list[bool]) -> None:
    """Such a source has no share, and where only one source is not far away the rule is that source's model."""
    log_probs, near, _ = labelled(2, 3, 1.0)
    far, kept = np.array(is_far), ~np.array(is_far)
    best = solve_reweighted(log_probs, near - distance * far, pieces=8)
    without = solve_reweighted(log_probs[:, kept], near[:, kept], pieces=8)
    assert best.status == "local_minimum"
    assert best.loss == pytest.approx(without.loss, abs=1e-9)
    assert not best.weights[far].any()
    assert best.lower_bound == pytest.approx(without.lower_bound, abs=1e-5)


def test_sources_far_from_each_other_all_keep_their_own_rows() -> None:
    """Two groups of rows, each 40 standard deviations away from the other's source."""
    inputs = np.repeat([-20.0, 20.0], 50)
    log_densities = -((inputs[:, None] - np.array([-20.0, 20.0])) ** 2) / 2
    log_probs = np.log(np.where((inputs > 0)[:, None], [0.1, 0.9], [0.9, 0.1]))
    best = solve_reweighted(log_probs, log_densities)
    assert best.loss == pytest.approx(-np.log(0.9), abs=1e-9)
    alone = reweighted_log_probs(log_probs, log_densities, np.array([0.0, 1.0]))
    assert alone == pytest.approx(log_probs[:, 1], abs=1e-9)


def test_a_slope_that_is_not_a_number_is_not_0() -> None:
    point = _Point(np.ones(2) / 2, 0.0, rise=np.array([np.nan, 0.0]), fall=np.zeros(2))
    assert np.isnan(point.slope)


@pytest.mark.parametrize(("sources", "distance"), [(3, 5.0), (6, 5.0), (12, 3.0)])
def test_no_bound_is_below_that_of_the_best_source_at_every_row(sources: int, distance: float) -> None:
    """The rule is a convex combination of the sources' models at every row, and a probability is at most 1."""
    log_probs, log_densities, _ = labelled(0, sources, distance)
    best = solve_reweighted(log_probs, log_densities, draws=0)
    assert 0 <= -log_probs.max(axis=1).mean() <= best.lower_bound + 1e-12
    assert best.lower_bound <= best.loss


def test_too_few_steps_are_said_to_be_too_few() -> None:
    log_probs, log_densities, _ = labelled(4, 3, 2.0)
    best = solve_reweighted(log_probs, log_densities, max_steps=2, pieces=1)
    assert best.status == "step_limit"
    assert best.slope > 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_densities": np.zeros((200, 2))}, "not the shape of log_probs"),
        ({"log_densities": np.full((200, 3), -np.inf)}, "have densities that are not finite"),
        ({"log_probs": np.full((200, 3), -np.inf)}, "cannot occur under any source"),
        ({"log_probs": np.full((200, 3), np.nan)}, "hold NaN"),
        ({"row_weights": np.ones(3)}, "one weight per row"),
    ],
)
def test_what_cannot_be_solved_is_refused(change: dict[str, np.ndarray], message: str) -> None:
    log_probs, log_densities, _ = labelled(0, 3, 1.0)
    with pytest.raises(InputError, match=message):
        solve_reweighted(**{"log_probs": log_probs, "log_densities": log_densities, **change})
