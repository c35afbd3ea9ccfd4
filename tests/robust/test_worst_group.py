"""Measures by group, against hand-made numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from mixray.errors import InputError
from mixray.robust.worst_group import GroupAccuracy, group_accuracy

IDS = [0, 0, 0, 0, 1, 1, 3]
LABELS = [1, 0, 1, 0, 1, 1, 0]
PREDICTIONS = [1, 0, 1, 1, 0, 1, 0]


def whole() -> GroupAccuracy:
    return group_accuracy(PREDICTIONS, LABELS, IDS, num_groups=4)


KINDS: list[Callable[[list], Any]] = [list, np.array, torch.tensor]


@pytest.mark.parametrize("kind", KINDS)
def test_accuracy_by_group(kind: Callable[[list], Any]) -> None:
    found = group_accuracy(kind(PREDICTIONS), kind(LABELS), kind(IDS), num_groups=4)
    np.testing.assert_array_equal(found.values, [0.75, 0.5, np.nan, 1.0])
    np.testing.assert_array_equal(found.counts, [4, 2, 0, 1])
    assert (found.worst_group, found.worst) == (1, 0.5)
    assert found.average_test == pytest.approx(5 / 7)
    assert found.average_training_share([2, 6, 0, 2]) == pytest.approx(0.2 * 0.75 + 0.6 * 0.5 + 0.2 * 1.0)


def test_the_two_averages_agree_where_the_shares_do() -> None:
    found = whole()
    assert found.average_training_share(found.counts * 10) == pytest.approx(found.average_test)


def test_of_equal_groups_the_first_is_named() -> None:
    assert group_accuracy([1, 0], [1, 0], [1, 0], num_groups=2).worst_group == 0


REFUSALS = [
    (lambda: group_accuracy([1], [1, 0], [0, 0], num_groups=1), "the same shape"),
    (lambda: group_accuracy([[0.1, 0.9]], [[1]], [0], num_groups=1), "a vector is wanted"),
    (lambda: group_accuracy([1, 0], [1, 0], [0, 1], num_groups=1), "1 of 2 rows belong to no group"),
    (lambda: group_accuracy([1, 0], [1, 0], [0], num_groups=1), "every row needs a group"),
    (lambda: group_accuracy([], [], [], num_groups=1), "there must be rows"),
    (lambda: group_accuracy([1], [1], [0.0], num_groups=1), "a vector of integers"),
    (
        lambda: whole().average_training_share([1, 1, 1, 1]),
        "has no rows here",
    ),
    (
        lambda: whole().average_training_share([1, 1]),
        "one for each group",
    ),
    (
        lambda: whole().average_training_share([0, 0, 0, 0]),
        "one for each group",
    ),
]


@pytest.mark.parametrize(("call", "what"), REFUSALS)
def test_rows_that_do_not_fit_are_refused(call: Callable[[], Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        call()
