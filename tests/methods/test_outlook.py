"""Forecasts by simulation: how often they hold what comes out, and what they say where much or nothing is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mixray.errors import InputError
from mixray.methods import MeasuredDifference, outlook
from mixray.methods.outlook import DRIFT_SD, GROWTH, GROWTH_SD

SURE = MeasuredDifference(0.5, 0.0, 0.0, 10, 1)


@pytest.mark.parametrize("token_ratio", [1.0, 5.0, 50.0])
@pytest.mark.parametrize(("replicates", "degrees"), [(1, 3), (2, 8), (2, 40)])
def test_nine_of_ten_forecasts_hold_what_comes_out(token_ratio: float, replicates: int, degrees: int) -> None:
    """600 problems of true difference 0.2: documents, seeds, growth and drift vary as the module says."""
    draw = np.random.default_rng([int(token_ratio), degrees])
    covered = measured_covered = 0
    for number in range(600):
        true, document_se, seed_sd, spread = 0.2, 0.03, 0.05, 0.3
        estimated_sd = seed_sd * (draw.chisquare(degrees) / degrees) ** 0.5
        value = true + draw.normal(0, document_se) + draw.normal(0, seed_sd / replicates**0.5)
        drift = draw.normal(0, DRIFT_SD * spread) * np.log(token_ratio)
        realised = true * token_ratio ** draw.normal(GROWTH, GROWTH_SD) + drift + draw.normal(0, seed_sd)
        measured = MeasuredDifference(value, document_se, estimated_sd, degrees, replicates, spread)
        forecast = outlook(measured, token_ratio=token_ratio, replicates=1, seed=number)
        covered += forecast.low <= realised <= forecast.high
        measured_covered += measured.interval[0] <= true <= measured.interval[1]
    assert 0.87 <= covered / 600 <= 0.97  # three standard errors are 0.037
    assert measured_covered / 600 >= 0.925


def test_at_the_same_budget_and_without_noise_it_is_what_was_measured() -> None:
    forecast = outlook(SURE, token_ratio=1.0, replicates=1)
    assert (forecast.expected, forecast.low, forecast.high, forecast.probability) == (0.5, 0.5, 0.5, 1.0)


def test_a_larger_budget_widens_the_forecast_and_keeps_the_sign() -> None:
    near, far = (outlook(SURE, token_ratio=ratio, replicates=1) for ratio in (2.0, 100.0))
    assert far.high - far.low > near.high - near.low
    assert far.low > 0
    assert near.probability == far.probability == 1
    assert near.expected == pytest.approx(0.5 * 2**GROWTH, rel=0.02)


def test_what_is_better_for_little_training_may_be_worse_for_much() -> None:
    spread = replace(SURE, spread=0.5)
    short, long = (outlook(spread, token_ratio=ratio, replicates=1) for ratio in (1.0, 1000.0))
    assert short.probability == 1
    assert 0.8 < long.probability < 0.99


def test_a_difference_within_the_noise_is_not_told_from_none() -> None:
    noisy = replace(SURE, value=0.01, seed_sd=0.1)
    forecast = outlook(noisy, token_ratio=5.0, replicates=1)
    assert forecast.covers_zero
    assert 0.45 < forecast.probability < 0.65
    assert not outlook(SURE, token_ratio=5.0, replicates=1).covers_zero


def test_replicates_of_the_retraining_narrow_it() -> None:
    noisy = replace(SURE, seed_sd=0.2)
    one, four = (outlook(noisy, token_ratio=1.0, replicates=number) for number in (1, 4))
    assert four.high - four.low < one.high - one.low


@pytest.mark.parametrize(
    ("changes", "ratio", "replicates"), [({"degrees": 0}, 1, 1), ({"seed_sd": -1}, 1, 1), ({}, 0, 1), ({}, 1, 0)]
)
def test_refusals(changes: dict[str, float], ratio: float, replicates: int) -> None:
    with pytest.raises(InputError):
        outlook(replace(SURE, **changes), token_ratio=ratio, replicates=replicates)
