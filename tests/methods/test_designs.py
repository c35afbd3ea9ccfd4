"""Mixtures to train a swarm on, and the choice from a swarm, where the answer is known."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from mixray.errors import InputError
from mixray.methods import best_expected, best_of_swarm, gaussian_process, random_mixtures, ridge, swarm_mixtures
from mixray.methods.designs import Design, d_optimal_mixtures

Floats = NDArray[np.float64]
PRIOR = np.array([0.5, 0.3, 0.1, 0.06, 0.04])
ANSWERS = np.array([[0.9, 0.1, 0, 0, 0], [0, 0, 0.2, 0.8, 0]])


@pytest.mark.parametrize("design", get_args(Design))
@pytest.mark.parametrize("count", [1, 7, 40])
def test_a_design_is_so_many_different_mixtures_and_the_same_for_the_same_seed(design: Design, count: int) -> None:
    mixtures = swarm_mixtures(design, count, PRIOR, ANSWERS, seed=3)
    assert mixtures.shape == (count, 5)
    assert (mixtures >= 0).all()
    np.testing.assert_allclose(mixtures.sum(axis=1), 1, atol=1e-12)
    assert len(np.unique(mixtures.round(9), axis=0)) == count
    np.testing.assert_array_equal(mixtures, swarm_mixtures(design, count, PRIOR, ANSWERS, seed=3))
    assert not np.array_equal(mixtures, swarm_mixtures(design, count, PRIOR, ANSWERS, seed=4))


def test_random_mixtures_scatter_around_the_prior() -> None:
    mixtures = random_mixtures(20_000, PRIOR, 0)
    np.testing.assert_allclose(mixtures.mean(axis=0), PRIOR, atol=0.02)
    assert (mixtures.max(axis=1) > 0.95).mean() > 0.05
    assert (np.abs(mixtures - PRIOR).max(axis=1) < 0.2).mean() > 0.1


def test_sobol_mixtures_are_more_even_than_random_ones() -> None:
    """Means over 64 mixtures are closer to 1 / sources than those of independent draws of the same distribution."""
    sobol = [swarm_mixtures("sobol", 64, PRIOR, ANSWERS, seed).mean(axis=0) for seed in range(20)]
    drawn = [np.random.default_rng(seed).dirichlet(np.full(5, 0.5), 64).mean(axis=0) for seed in range(20)]
    assert np.abs(np.array(sobol) - 0.2).mean() < 0.5 * np.abs(np.array(drawn) - 0.2).mean()


def test_a_d_optimal_design_tells_more_than_a_random_one() -> None:
    def information(mixtures: Floats) -> float:
        features = np.hstack([mixtures, np.sqrt(mixtures)])
        return float(np.linalg.slogdet(features.T @ features)[1])

    designed = np.mean([information(d_optimal_mixtures(16, PRIOR, seed)) for seed in range(5)])
    drawn = np.mean([information(random_mixtures(16, PRIOR, seed)) for seed in range(5)])
    assert designed > drawn + np.log(100)


def test_mixtures_around_answers_are_nearer_to_them_than_random_ones() -> None:
    def distance(mixtures: Floats) -> float:
        return float(np.abs(mixtures[:, None] - ANSWERS).sum(axis=2).min(axis=1).mean())

    around = distance(swarm_mixtures("around_answer", 200, PRIOR, ANSWERS, 0))
    assert around < 0.7 * distance(random_mixtures(200, PRIOR, 0))


# --------------------------------------------------------------------------------------------------------- the choice

BEST = np.array([0.6, 0.25, 0.15])


def loss(shares: Floats) -> Floats:
    """A bowl in the square roots of the shares, whose lowest point is BEST."""
    return np.asarray(3 + ((np.sqrt(shares) - np.sqrt(BEST)) ** 2).sum(axis=1))


def mean(losses: Floats) -> Floats:
    return np.asarray(losses.mean(axis=1))


def test_random_search_takes_the_best_of_the_swarm_over_its_targets() -> None:
    shares = np.eye(3)
    losses = np.array([[1.0, 9.0], [4.0, 4.0], [9.0, 2.0]])
    assert best_of_swarm(shares, losses, mean).source_shares.tolist() == [0, 1, 0]
    assert best_of_swarm(shares, losses, lambda each: each[:, 0]).source_shares.tolist() == [1, 0, 0]


def test_a_process_finds_the_lowest_point_between_the_mixtures_of_the_swarm() -> None:
    shares = random_mixtures(30, np.full(3, 1 / 3), 0)
    candidates = random_mixtures(20_000, np.full(3, 1 / 3), 1)
    choice = best_expected([gaussian_process], shares, loss(shares)[:, None], candidates, mean)
    np.testing.assert_allclose(choice.source_shares, BEST, atol=0.03)
    assert loss(choice.source_shares[None])[0] < loss(shares).min()
    assert choice.rank_correlation is not None
    assert choice.rank_correlation > 0.95


def test_runs_that_were_left_out_show_a_surrogate_that_learned_noise() -> None:
    shares = random_mixtures(40, np.full(3, 1 / 3), 0)
    noise = np.random.default_rng(5).normal(size=(40, 1))
    choice = best_expected([ridge], shares, noise, shares, mean)
    assert choice.rank_correlation is not None
    assert choice.rank_correlation < 0.5


def test_four_runs_are_too_few_to_leave_any_out() -> None:
    shares = random_mixtures(4, np.full(3, 1 / 3), 0)
    assert best_expected([ridge], shares, loss(shares)[:, None], shares, mean).rank_correlation is None


def test_targets_are_learned_one_by_one() -> None:
    shares = random_mixtures(30, np.full(3, 1 / 3), 0)
    with pytest.raises(InputError, match="a loss for each run and target"):
        best_expected([ridge, ridge], shares, loss(shares)[:, None], shares, mean)
