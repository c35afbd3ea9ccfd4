"""Covariate shift: Gaussians whose AUC and support are known, sources with equal inputs, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.special import log_softmax
from scipy.stats import norm

from mixray.diagnose import (
    cross_fitted,
    fold_auc,
    input_shift,
    log_densities_at,
    shift_warnings,
)
from mixray.errors import InputError

ROWS = 400


def gaussian(seed: int, mean: float, rows: int = ROWS, scale: float = 1.0) -> np.ndarray:
    """Return examples of one column that tells sources apart and one that does not."""
    values = np.random.default_rng(seed).normal(size=(rows, 2))
    values[:, 0] = mean + scale * values[:, 0]
    return values


@pytest.mark.parametrize("distance", [0.5, 1.0, 2.0])
def test_shifted_gaussians_have_the_auc_that_is_known(distance: float) -> None:
    auc = norm.cdf(distance / np.sqrt(2))
    draws = [
        input_shift([gaussian(3 * seed, 0), gaussian(3 * seed + 1, distance)], gaussian(3 * seed + 2, 0), seed=seed)
        for seed in range(8)
    ]
    measured = [each.pairs[0, 1] for each in draws]
    assert np.mean([each.auc for each in measured]) == pytest.approx(auc, abs=0.02)
    assert sum(each.interval[0] <= auc <= each.interval[1] for each in measured) >= 7
    # Of two sources, each against the rest is the pair, and the target lies where the first source does.
    assert draws[0].against_rest[0].auc == pytest.approx(measured[0].auc, abs=1e-12)
    assert sum(low <= 0.5 <= high for low, high in (each.against_target[0].interval for each in draws)) >= 7


def test_equal_inputs_show_no_shift() -> None:
    """Of 20 draws with three sources, nearly all intervals cover 0.5: 60 of a source, 95 % of which are 57."""
    intervals = [
        each.interval
        for seed in range(20)
        for each in input_shift(
            [gaussian(10 * seed + source, 0, 200 + 100 * source) for source in range(3)],
            gaussian(10 * seed + 5, 0, 200),
            seed=seed,
        ).against_rest
    ]
    assert sum(low <= 0.5 <= high for low, high in intervals) >= 54


def test_a_difference_in_scale_alone_shows() -> None:
    shift = input_shift([gaussian(0, 0), gaussian(1, 0, scale=3.0)], gaussian(2, 0), seed=0)
    assert shift.pairs[0, 1].interval[0] > 0.7


@pytest.mark.parametrize("sparse", [False, True])
def test_an_example_of_several_sources_tells_nothing_about_them(sparse: bool) -> None:
    """The same examples in both sources: split over folds, each would be taken for one of the other source."""
    bits = (np.random.default_rng(0).random((100, 40)) < 0.2).astype(np.float64)
    table = csr_matrix(bits) if sparse else bits
    shift = input_shift([table, table], table[:50], seed=0)
    assert shift.pairs[0, 1].interval[0] <= 0.5 <= shift.pairs[0, 1].interval[1]
    ids = np.arange(100)
    again = input_shift([table, table], table[:50], example_ids=[ids, ids], target_ids=ids[:50], seed=0)
    assert again.pairs[0, 1].interval[0] <= 0.5 <= again.pairs[0, 1].interval[1]
    split = input_shift([table, table], table[:50], example_ids=[ids, ids + 100], target_ids=ids[:50], seed=0)
    assert split.pairs[0, 1].interval[1] < 0.5


def test_the_part_of_the_target_without_support_is_the_known_one() -> None:
    distance = 2.0
    shift = input_shift([gaussian(0, distance, 4000), gaussian(1, 0, 4000)], gaussian(2, 0, 4000), seed=0)
    # The ratio of the densities at x is exp(distance x - distance^2 / 2).
    truth = norm.cdf((np.log(0.1) + distance**2 / 2) / distance)
    assert shift.unsupported[0][0] == pytest.approx(truth, abs=0.03)
    assert shift.unsupported[1][0] < 0.01
    assert shift.unsupported_by_all[0] <= shift.unsupported[1][0]


def test_densities_at_new_examples_are_the_known_ones() -> None:
    means = np.array([0.0, 1.0, 2.0])
    points = np.column_stack([np.linspace(-1, 3, 9), np.zeros(9)])
    fitted = log_densities_at(
        [gaussian(seed, mean, 4000 + 1000 * seed) for seed, mean in enumerate(means)], points, seed=0
    )
    truth = log_softmax(norm.logpdf(points[:, :1], means), axis=1)
    assert np.abs(np.exp(fitted) - np.exp(truth)).max() < 0.04


def test_a_target_where_no_source_has_examples_is_warned_of() -> None:
    near, far = [gaussian(seed, 0) for seed in (0, 1)], [gaussian(seed, 0) - 4 for seed in (0, 1)]
    for tables, codes in ((near, []), (far, ["no_support"])):
        shift = input_shift(tables, gaussian(2, 0), seed=0)
        signs = shift_warnings({"t": shift}, ["a", "b"], is_reweighted=False)
        assert [sign.code for sign in signs] == codes


@pytest.mark.parametrize(
    ("distance", "is_reweighted", "warns"), [(0.3, False, False), (1.5, False, True), (1.5, True, False)]
)
def test_sources_with_clearly_different_inputs_are_named(distance: float, is_reweighted: bool, warns: bool) -> None:
    shift = input_shift([gaussian(0, 0), gaussian(1, distance)], gaussian(2, 0), seed=0)
    signs = shift_warnings({"t": shift}, ["a", "b"], is_reweighted=is_reweighted)
    assert [sign.code for sign in signs] == ["covariate_shift"] * warns
    assert all("2 of 2 sources" in sign.message and "b 0.8" in sign.message for sign in signs)


def test_a_sample_of_the_sources_says_so_and_nothing_of_what_the_others_support() -> None:
    tables = [gaussian(0, 0), gaussian(1, 1.5)]
    shift = input_shift(tables, gaussian(2, 0) - 4, seed=0)
    codes = {"no_support", "covariate_shift"}
    assert {sign.code for sign in shift_warnings({"t": shift}, ["a", "b"], is_reweighted=False)} == codes
    (sign,) = shift_warnings({"t": shift}, ["a", "b"], sampled_of=40, is_reweighted=False)
    assert "2 of a sample of 2 of 40 sources" in sign.message


def test_an_example_that_a_source_has_is_not_judged_by_what_was_learned_from_it() -> None:
    """Inputs that say nothing: what was trained on them takes each for one of its own source."""
    bits = [(np.random.default_rng(seed).random((100, 60)) < 0.5).astype(np.float64) for seed in (0, 1)]
    fitted = log_densities_at(bits, bits[0], seed=0)
    assert np.exp(fitted[:, 0]).mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("sources", [2, 3])
def test_densities_far_away_stay_finite(sources: int) -> None:
    far = np.array([[1e4, 0.0], [-1e4, 0.0]])
    fitted = log_densities_at([gaussian(seed, seed) for seed in range(sources)], far, seed=0)
    assert np.isfinite(fitted).all()
    assert fitted.min() < -1000


def test_the_auc_is_the_part_of_pairs_in_order_and_its_interval_holds_95_percent() -> None:
    generator = np.random.default_rng(0)
    truth = norm.cdf(1 / np.sqrt(2))
    held = 0
    for _ in range(200):
        scores = np.concatenate([generator.normal(1, 1, 60), generator.normal(0, 1, 90)])
        is_positive = np.arange(150) < 60
        auc = fold_auc(scores, is_positive, np.zeros(150, int), np.arange(150))
        held += auc.interval[0] <= truth <= auc.interval[1]
    ordered = scores[is_positive][:, None] > scores[~is_positive]
    assert auc.auc == pytest.approx(ordered.mean(), abs=1e-12)
    assert 180 <= held < 200


def test_scores_of_different_folds_are_never_compared() -> None:
    scores = np.array([1.0, 0.0, 11.0, 10.0])
    auc = fold_auc(scores, np.array([True, False, True, False]), np.array([0, 0, 1, 1]), np.arange(4))
    assert auc.auc == 1
    ties = fold_auc(np.zeros(4), np.array([True, False, True, False]), np.zeros(4, int), np.arange(4))
    assert ties.auc == 0.5


def test_copies_of_examples_do_not_narrow_an_interval() -> None:
    scores = np.random.default_rng(0).normal(size=40)
    is_positive, folds, examples = np.arange(40) < 20, np.zeros(40, int), np.arange(40)
    once = fold_auc(scores, is_positive, folds, examples)
    four = fold_auc(np.tile(scores, 4), np.tile(is_positive, 4), np.tile(folds, 4), np.tile(examples, 4))
    assert four.interval == pytest.approx(once.interval)


def test_a_share_that_was_never_seen_may_still_be_above_0() -> None:
    share, (low, high) = input_shift([gaussian(0, 0), gaussian(1, 0)], gaussian(2, 0, 50), seed=0).unsupported_by_all
    assert share == 0
    assert low == pytest.approx(0, abs=1e-15)
    assert 0.05 < high < 0.1


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([gaussian(0, 0)], "sources to compare"),
        ([gaussian(0, 0), np.zeros((0, 2))], "same columns"),
        ([gaussian(0, 0), np.zeros((5, 3))], "same columns"),
        ([gaussian(0, 0), np.full((20, 2), np.nan)], "not all numbers are finite"),
        ([gaussian(0, 0), np.zeros((20, 2))], "too few different examples"),
    ],
)
def test_what_cannot_be_measured_is_refused(features: list[np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        input_shift(features, gaussian(9, 0), seed=0)


def test_the_same_seed_gives_the_same_bits() -> None:
    tables = [gaussian(0, 0, 50), gaussian(1, 1, 50)]
    once, again = cross_fitted(tables, seed=3), cross_fitted(tables, seed=3)
    assert np.array_equal(once.log_densities, again.log_densities)
    assert not np.array_equal(once.folds, cross_fitted(tables, seed=4).folds)


def test_ids_that_do_not_fit_the_rows_are_refused() -> None:
    tables = [gaussian(0, 0, 50), gaussian(1, 1, 50)]
    with pytest.raises(InputError, match="one per row"):
        cross_fitted(tables, [np.arange(50), np.arange(49)], seed=0)
