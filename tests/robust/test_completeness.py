"""Completeness in closed form, and of features made so that the answer is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixray.errors import InputError
from mixray.robust.completeness import completeness, from_importance


@given(dimensions=st.integers(2, 3000), data=st.data(), scale=st.floats(1e-6, 1e6))
def test_k_equal_dimensions(dimensions: int, data: st.DataObject, scale: float) -> None:
    k = data.draw(st.integers(1, dimensions))
    importance = np.zeros((dimensions, 1))
    importance[:k] = scale
    found = from_importance(importance, estimator="none")
    assert found.completeness == pytest.approx(1 - math.log(k) / math.log(dimensions), abs=1e-9)
    assert found.dimensions == dimensions


# The same five dimensions: the number says little without D.
@pytest.mark.parametrize(("dimensions", "expected"), [(50, 0.589), (2048, 0.789)])
def test_it_depends_on_the_number_of_dimensions(dimensions: int, expected: float) -> None:
    importance = np.zeros((dimensions, 1))
    importance[:5] = 0.2
    assert from_importance(importance, estimator="none").completeness == pytest.approx(expected, abs=5e-4)


def test_factors_weigh_by_their_importance() -> None:
    """Factor 0 in one dimension, factor 1 in both, factor 2 in none."""
    found = from_importance([[3.0, 0.5, 0.0], [0.0, 0.5, 0.0]], estimator="none")
    np.testing.assert_allclose(found.per_factor, [1, 0, 0], atol=1e-12)
    assert found.completeness == pytest.approx(0.75)


@pytest.mark.parametrize("estimator", ["gradient_boosting", "random_forest", "l1_logistic"])
def test_one_dimension_is_more_complete_than_four(estimator: Any) -> None:
    draw = np.random.default_rng(0)
    labels, signs = draw.integers(0, 2, 300), draw.normal(size=(300, 8))
    one, spread = signs.copy(), signs.copy()
    one[:, 0] += 6 * labels
    spread[:, :4] += 2 * labels[:, None]
    found = [completeness(codes, labels[:, None], estimator=estimator, seed=0) for codes in (one, spread)]
    assert found[0].completeness > found[1].completeness + 0.2
    assert (found[0].dimensions, found[0].estimator, found[0].kept_variance) == (8, estimator, None)


def test_a_pca_is_named_by_what_it_kept() -> None:
    draw = np.random.default_rng(0)
    codes = draw.normal(size=(400, 3)) * [3.0, 2.0, 1.0]
    found = completeness(codes, (codes[:, :1] > 0).astype(int), estimator="random_forest", seed=0, pca=2)
    assert found.dimensions == 2
    assert found.kept_variance == pytest.approx(13 / 14, abs=0.02)


def test_the_same_seed_gives_the_same_number() -> None:
    draw = np.random.default_rng(0)
    codes, factors = draw.normal(size=(100, 4)), draw.integers(0, 3, (100, 1))
    once, again = (completeness(codes, factors, estimator="random_forest", seed=7) for _ in range(2))
    assert once.completeness == again.completeness


CODES, FACTORS = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20)[:, None] % 2
REFUSALS = [
    (lambda: from_importance([[1.0]], estimator="none"), "a matrix of non-negative numbers"),
    (lambda: from_importance([[1.0], [-1.0]], estimator="none"), "a matrix of non-negative numbers"),
    (lambda: from_importance([[0.0], [0.0]], estimator="none"), "a matrix of non-negative numbers"),
    (lambda: completeness(CODES, FACTORS, estimator="mlp", seed=0), "no such estimator"),
    (lambda: completeness(CODES, FACTORS[:5], estimator="random_forest", seed=0), "do not fit together"),
    (lambda: completeness(CODES, FACTORS * 0, estimator="random_forest", seed=0), "one class only"),
    (lambda: completeness(CODES, FACTORS, estimator="random_forest", seed=0, pca=4), "number of dimensions"),
]


@pytest.mark.parametrize(("call", "what"), REFUSALS)
def test_what_has_no_answer_is_refused(call: Any, what: str) -> None:
    with pytest.raises(InputError, match=what):
        call()
