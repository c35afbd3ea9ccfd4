"""Intervals of accuracies: closed forms for one seed, shared and separate test rows, and coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from mixray.numerics import SeedEstimate, interval_of_mean, interval_over_seeds
from mixray.study.intervals import Predictions, accuracy_of_group, weighted_accuracy, worst_accuracy

COUNTS = np.array([80, 120, 100])


def predictions(correct: np.ndarray, first_row: int = 0) -> Predictions:
    return Predictions(np.arange(len(correct)) + first_row, np.repeat(np.arange(3), COUNTS), correct)


def drawn(draws: np.random.Generator, accuracies: list[float]) -> np.ndarray:
    return draws.random(COUNTS.sum()) < np.repeat(accuracies, COUNTS)


def half(interval: tuple[float, float]) -> float:
    return (interval[1] - interval[0]) / 2


def test_one_seed_has_the_binomial_interval_of_its_group() -> None:
    judged = predictions(drawn(np.random.default_rng(0), [0.6, 0.9, 0.8]))
    p, n = judged.accuracy[0], COUNTS[0]
    expected = norm.ppf(0.975) * np.sqrt(p * (1 - p) / (n - 1))
    low, high = interval_of_mean([worst_accuracy(judged)])
    assert (low + high) / 2 == pytest.approx(p)
    assert (high - low) / 2 == pytest.approx(expected, rel=1e-3)


def test_an_average_has_the_stratified_interval() -> None:
    judged = predictions(drawn(np.random.default_rng(0), [0.6, 0.9, 0.8]))
    estimate = weighted_accuracy(judged, COUNTS / COUNTS.sum())
    assert estimate.value == pytest.approx(judged.correct.mean())
    variances = judged.accuracy * (1 - judged.accuracy) / (COUNTS - 1)
    expected = norm.ppf(0.975) * np.sqrt(((COUNTS / COUNTS.sum()) ** 2 * variances).sum())
    assert half(interval_of_mean([estimate])) == pytest.approx(expected, rel=1e-3)


def test_seeds_that_agree_on_shared_rows_narrow_nothing_and_on_other_rows_they_do() -> None:
    """Three seeds with the same predictions are one sample; three test parts of the same accuracy are three."""
    correct = drawn(np.random.default_rng(0), [0.6, 0.9, 0.8])
    one = worst_accuracy(predictions(correct))
    assert half(interval_of_mean([one] * 3)) == pytest.approx(half(interval_of_mean([one])))
    separate = [worst_accuracy(predictions(correct, first_row=1000 * seed)) for seed in range(3)]
    assert half(interval_of_mean(separate)) == pytest.approx(half(interval_of_mean([one])) / np.sqrt(3))


def test_seeds_alone_have_students_interval() -> None:
    rows, no_influence = np.arange(2), np.zeros(2)
    low, high = interval_of_mean([SeedEstimate(value, rows, no_influence) for value in (0.5, 0.6, 0.7)])
    assert (low, high) == pytest.approx((0.6 - 4.302653 * 0.1 / np.sqrt(3), 0.6 + 4.302653 * 0.1 / np.sqrt(3)))


def test_a_paired_difference_ignores_what_both_arms_get_right() -> None:
    draws = np.random.default_rng(0)
    correct = drawn(draws, [0.6, 0.9, 0.8])
    better = correct.copy()
    better[np.flatnonzero(~correct[:80])[:4]] = True
    one, other = (accuracy_of_group(predictions(each), 0) for each in (better, correct))
    difference = one.minus(other)
    assert difference.value == pytest.approx(4 / 80)
    assert half(interval_of_mean([difference])) < 0.5 * half(interval_of_mean([one]))


def test_predictions_survive_storage() -> None:
    judged = predictions(drawn(np.random.default_rng(0), [0.6, 0.9, 0.8]), first_row=7)
    again = Predictions.from_bytes(judged.to_bytes())
    assert again.row_ids.tolist() == judged.row_ids.tolist()
    assert again.group_ids.tolist() == judged.group_ids.tolist()
    assert again.correct.tolist() == judged.correct.tolist()
    assert again.to_bytes() == judged.to_bytes()


@pytest.mark.parametrize("shared", [True, False], ids=["same-test-rows", "test-rows-per-seed"])
@pytest.mark.parametrize("deviation", [0.0, 0.03])
def test_intervals_cover_the_worst_group_and_differences(shared: bool, deviation: float) -> None:
    """300 simulated comparisons of five seeds; a row's difficulty is common to seeds and arms.

    ``deviation``: of a group's accuracy between seeds. The bounds are those of a binomial at 0.95, n = 300, but for
    1 in 1,000.
    """
    draws, seeds, rounds = np.random.default_rng(0), 5, 300
    accuracies = [np.array([0.6, 0.95, 0.9]), np.array([0.75, 0.95, 0.9])]
    covered = np.zeros(2)
    for _ in range(rounds):
        common = draws.normal(size=(seeds, COUNTS.sum()))
        arms = []
        for base in accuracies:
            estimates = []
            for seed in range(seeds):
                level = np.repeat(norm.ppf(base + deviation * draws.normal(size=3).clip(-1.6, 1.6)), COUNTS)
                difficulty = np.sqrt(0.7) * common[0 if shared else seed] + np.sqrt(0.3) * draws.normal(size=len(level))
                judged = predictions(difficulty < level, first_row=0 if shared else 1000 * seed)
                estimates.append(accuracy_of_group(judged, 0))
            arms.append(estimates)
        low, high = interval_of_mean(arms[0])
        covered[0] += low <= 0.6 <= high
        low, high = interval_of_mean([other.minus(one) for one, other in zip(*arms, strict=True)])
        covered[1] += low <= 0.15 <= high
    assert (covered / rounds >= 0.905).all(), covered / rounds
    assert (covered / rounds <= 0.99).all(), covered / rounds


def test_an_interval_over_seeds_by_hand() -> None:
    """n = 4, mean 3, sample variance 20/3, t = 3.182. One seed has no interval."""
    reach = 3.18245 * np.sqrt(20 / 3) / 2
    assert interval_over_seeds([0.0, 2.0, 4.0, 6.0]) == pytest.approx((3 - reach, 3 + reach), abs=1e-4)
    assert interval_over_seeds([1.0]) is None
