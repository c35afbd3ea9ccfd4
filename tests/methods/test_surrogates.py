"""Surrogates on swarms whose losses are a formula, and on published ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from mixray.errors import InputError
from mixray.export import read_swarm
from mixray.methods import boosted_trees, gaussian_process, mixing_law, ridge
from mixray.methods.surrogates import Fit

Floats = NDArray[np.float64]

REGMIX = Path(__file__).parents[3] / "shared" / "data" / "regmix"
FITS: dict[str, Fit] = {
    "gaussian_process": gaussian_process,
    "ridge": ridge,
    "mixing_law": mixing_law,
    "boosted_trees": boosted_trees,
}


def drawn(runs: int, seed: int, sources: int = 4) -> Floats:
    return np.random.default_rng(seed).dirichlet(np.full(sources, 0.7), runs)


def law(shares: Floats) -> Floats:
    """A mixing law: the loss falls exponentially with the shares of the first two sources."""
    return 2.0 + np.exp(shares @ np.array([-1.5, -0.5, 0.6, 0.8]))


@pytest.mark.parametrize("name", FITS)
def test_a_surrogate_ranks_mixtures_that_it_has_not_learned_from(name: str) -> None:
    shares = drawn(60, 0)
    losses = law(shares) + np.random.default_rng(1).normal(0, 0.005, 60)
    others = drawn(100, 2)
    least = 0.85 if name == "boosted_trees" else 0.98
    assert spearmanr(FITS[name](shares, losses)(others), law(others)).statistic > least


def test_the_mixing_law_finds_the_law_that_made_the_losses() -> None:
    shares, others = drawn(40, 0), drawn(200, 1)
    np.testing.assert_allclose(mixing_law(shares, law(shares))(others), law(others), atol=2e-3)


def test_ridge_learns_what_is_linear_in_its_features() -> None:
    shares, others = drawn(60, 0), drawn(100, 1)
    slopes = np.array([1.0, -2.0, 0.5, 0.25])
    np.testing.assert_allclose(ridge(shares, 5 + shares @ slopes)(others), 5 + others @ slopes, atol=0.02)


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_a_prior_mean_up_to_level_and_scale_needs_few_runs(scale: float) -> None:
    """With a prior mean of the right form, six runs predict to the last digits; without one they do not."""
    shares, others = drawn(6, 0), drawn(100, 1)
    mean = lambda mixtures: 7 + scale * law(mixtures)  # noqa: E731
    with_mean = gaussian_process(shares, law(shares), prior_mean=mean)(others)
    np.testing.assert_allclose(with_mean, law(others), atol=1e-6)
    assert np.abs(gaussian_process(shares, law(shares))(others) - law(others)).max() > 1e-3


def test_a_prior_mean_that_ranks_the_wrong_way_round_is_not_used() -> None:
    shares, others = drawn(30, 0), drawn(100, 1)
    plain = gaussian_process(shares, law(shares))(others)
    np.testing.assert_allclose(gaussian_process(shares, law(shares), prior_mean=lambda x: -law(x))(others), plain)


@pytest.mark.parametrize("name", FITS)
def test_equal_losses_predict_that_loss(name: str) -> None:
    shares = drawn(20, 0)
    np.testing.assert_allclose(FITS[name](shares, np.full(20, 3.5))(drawn(9, 1)), 3.5, atol=1e-3)


@pytest.mark.parametrize(
    ("shares", "losses", "message"),
    [
        (np.full((3, 2), 0.5), np.zeros(3), "the swarm is too small to learn from\n  got: 3 runs"),
        (np.full((5, 2), 0.5), np.zeros(4), "one loss for each mixture"),
        (np.full((5, 2), 0.5), np.array([1, 2, 3, 4, np.nan]), "not finite"),
    ],
)
def test_refusals(shares: Floats, losses: Floats, message: str) -> None:
    for fit in FITS.values():
        with pytest.raises(InputError, match=message):
            fit(shares, losses)


@pytest.mark.skipif(not REGMIX.is_dir(), reason="RegMix's published runs are not here")
@pytest.mark.parametrize(
    ("name", "bar"), [("gaussian_process", 0.965), ("ridge", 0.95), ("boosted_trees", 0.93), ("mixing_law", 0.91)]
)
def test_64_of_the_published_runs_rank_256_others(name: str, bar: float) -> None:
    """Bars: what careful quick fits of others reach on other draws (.973, .956, .931, .910), less the draws' noise."""
    taught, _ = read_swarm(*(str(REGMIX / f"train_{what}_1m.csv") for what in ("mixture", "pile_loss")))
    judged, _ = read_swarm(*(str(REGMIX / f"test_{what}_1m.csv") for what in ("mixture", "pile_loss")))
    place = taught.metrics.index("metric/the_pile_pile_cc_val_loss")
    correlations = []
    for draw in range(3):
        chosen = np.random.default_rng(draw).permutation(512)[:64]
        predict = FITS[name](taught.shares[chosen], taught.values[chosen, place])
        correlations.append(spearmanr(predict(judged.shares), judged.values[:, place]).statistic)
    assert np.mean(correlations) > bar
