"""Cosines of heads: what they do not see, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixray.errors import InputError
from mixray.robust.alignment import alignment, centred, strong_convexity_bound

HEAD = np.array([[1.0, 2.0], [3.0, -1.0], [0.0, 0.5]])
OTHER = np.array([[0.0, 1.0], [1.0, 1.0], [-2.0, 0.5]])


@given(scale=st.floats(0.01, 100), shift=st.lists(st.floats(-10, 10), min_size=2, max_size=2))
def test_what_is_added_to_all_classes_and_the_length_are_not_seen(scale: float, shift: list[float]) -> None:
    assert alignment(scale * HEAD + np.array(shift), OTHER) == pytest.approx(alignment(HEAD, OTHER), abs=1e-9)


def test_alignment_by_hand() -> None:
    """One logit is not centred; two classes (-w, w) are the head of one logit w."""
    assert alignment(np.array([3.0, 4.0]), np.array([1.0, 0.0])) == pytest.approx(0.6)
    two, spurious = np.array([[-3.0, -4.0], [3.0, 4.0]]), np.array([[0.0, 7.0], [2.0, 7.0]])
    assert alignment(two, spurious) == pytest.approx(0.6)
    assert alignment(HEAD, -HEAD) == pytest.approx(-1)
    assert alignment(torch.tensor(HEAD, requires_grad=True), HEAD) == pytest.approx(1)
    np.testing.assert_allclose(centred(HEAD).reshape(3, 2).sum(axis=0), 0, atol=1e-15)


def test_the_bound_of_a_parabola_is_tight() -> None:
    """R(w) = mu/2 |w - c|^2 up to a constant: both sides are equal, and the tolerance is what an error allows."""
    away, centre = np.array([2.0, -1.0, 0.5]), np.array([0.5, 0.5, 0.5])
    gap = 0.3 / 2 * float((away - centre) @ (away - centre))
    bound = strong_convexity_bound(
        worst_objective=gap,
        robust_worst_objective=0.0,
        weights=away,
        robust_weights=centre,
        l2=0.3,
    )
    assert bound.slack == pytest.approx(0, abs=1e-15)
    assert bound.tolerance == 0


@given(offset=st.floats(-0.3, 0.3), away=st.floats(-3, 3))
def test_the_tolerance_covers_a_minimiser_that_is_none(offset: float, away: float) -> None:
    """R(w) = w^2 / 2, the "minimiser" is ``offset``: its error is offset^2 / 2, and the bound must still hold."""
    bound = strong_convexity_bound(
        worst_objective=away**2 / 2,
        robust_worst_objective=offset**2 / 2,
        weights=np.array([away]),
        robust_weights=np.array([offset]),
        l2=1.0,
        robust_error=offset**2 / 2,
    )
    assert bound.slack >= -bound.tolerance - 1e-12


def test_heads_that_point_nowhere_or_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="points nowhere"):
        alignment(np.ones((3, 2)), HEAD)
    with pytest.raises(InputError, match="different shapes"):
        alignment(HEAD, HEAD[:2])
    with pytest.raises(InputError, match="finite numbers"):
        alignment(HEAD * np.nan, HEAD)
    with pytest.raises(InputError, match="not a number that it can be"):
        strong_convexity_bound(
            worst_objective=1.0, robust_worst_objective=0.0, weights=HEAD, robust_weights=OTHER, l2=-1.0
        )
