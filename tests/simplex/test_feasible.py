"""The box within the simplex: its extreme points, its projections, its rounding."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from mixray.simplex.feasible import FeasibleSet

Array = NDArray[np.float64]


@st.composite
def feasible_sets(draw: st.DrawFn) -> FeasibleSet:
    sources = draw(st.integers(1, 6))
    raw = draw(arrays(np.float64, (3, sources), elements=st.sampled_from([0.0, 1e-9, 0.1, 0.3, 0.5, 1.0])))
    inside = (raw[0] + 1e-3) / (raw[0] + 1e-3).sum()
    return FeasibleSet.of(sources, inside * raw[1], inside + (1 - inside) * raw[2])


def extreme_points(feasible: FeasibleSet) -> Array:
    """All but one coordinate at a bound, the last one what is left."""
    found = []
    for last, sides in product(range(feasible.lower.size), product([0, 1], repeat=feasible.lower.size)):
        point = np.where(sides, feasible.upper, feasible.lower)
        point[last] = 1 - np.delete(point, last).sum()
        if feasible.lower[last] - 1e-12 <= point[last] <= feasible.upper[last] + 1e-12:
            found.append(point)
    return np.array(found)


def is_feasible(shares: Array, feasible: FeasibleSet) -> bool:
    within = (feasible.lower <= shares).all() and (shares <= feasible.upper).all()
    return bool(within and abs(shares.sum() - 1) <= 1e-12)


def gradients(sources: int) -> st.SearchStrategy[Array]:
    return arrays(np.float64, sources, elements=st.floats(-1e3, 1e3))


@given(feasible_sets(), st.data())
def test_the_linear_minimum_is_the_best_extreme_point(feasible: FeasibleSet, data: st.DataObject) -> None:
    gradient = data.draw(gradients(feasible.lower.size))
    best = feasible.linear_minimum(gradient)
    assert is_feasible(best, feasible)
    assert gradient @ best == pytest.approx((extreme_points(feasible) @ gradient).min(), abs=1e-8)


@given(feasible_sets(), st.data())
def test_the_nearest_shares_are_scaled_and_clipped(feasible: FeasibleSet, data: st.DataObject) -> None:
    logs = data.draw(gradients(feasible.lower.size))
    shares = feasible.nearest(logs)
    assert is_feasible(shares, feasible)
    # Optimality: log(share) - logs is one number for the unclipped, no less at lower bounds, no more at upper ones.
    shift = np.log(np.maximum(shares, 1e-300)) - logs
    at_lower, at_upper = shares <= feasible.lower + 1e-12, shares >= feasible.upper - 1e-12
    may_shrink, may_grow = ~at_lower & (shares > 1e-250), ~at_upper
    if may_shrink.any() and may_grow.any():
        assert shift[may_shrink].max() <= shift[may_grow].min() + 1e-6 * (1 + np.abs(logs).max())


@given(feasible_sets())
def test_the_centre_is_the_euclidean_projection_of_balanced_too(feasible: FeasibleSet) -> None:
    centre, balanced = feasible.centre, 1 / feasible.lower.size
    for point in extreme_points(feasible):
        assert (centre - balanced) @ (point - centre) >= -1e-9


@given(feasible_sets(), st.integers(0, 2**32 - 1))
def test_repair_moves_rounding_errors_only(feasible: FeasibleSet, seed: int) -> None:
    draw = np.random.default_rng(seed)
    shares = feasible.nearest(draw.normal(size=feasible.lower.size))
    repaired = feasible.repair(shares + draw.uniform(-1e-15, 1e-15, shares.size))
    assert is_feasible(repaired, feasible)
    np.testing.assert_allclose(repaired, shares, atol=2e-14)


def test_one_number_bounds_every_source() -> None:
    feasible = FeasibleSet.of(4, 0.1, 0.4)
    assert feasible.lower.tolist() == [0.1] * 4
    assert feasible.upper.tolist() == [0.4] * 4
    assert feasible.centre.tolist() == [0.25] * 4


def test_shares_of_0_are_filled_when_the_bounds_demand_it() -> None:
    shares = FeasibleSet.of(3, None, 0.4).nearest(np.array([0.0, -600.0, -690.0]))
    np.testing.assert_allclose(shares, [0.4, 0.4, 0.2], atol=1e-12)
