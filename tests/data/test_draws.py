"""Which rows a stream draws: what it says, and the same however it is read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mixray.data.draws import Draws, GroupBalanced, InEpochs

GROUP_IDS = np.repeat([0, 1, 2], [700, 250, 50])
MAKE: dict[str, Callable[[int], Draws]] = {
    "epochs": lambda seed: InEpochs(len(GROUP_IDS), seed),
    "balanced": lambda seed: GroupBalanced(GROUP_IDS, seed),
}


@pytest.mark.parametrize("kind", MAKE)
def test_a_position_holds_the_same_row_however_it_is_read(kind: str) -> None:
    whole = MAKE[kind](3).rows(4000, 4400)
    pieces = [MAKE[kind](3).rows(start, start + 40) for start in range(4000, 4400, 40)]
    assert np.concatenate(pieces).tolist() == whole.tolist()
    assert MAKE[kind](4).rows(4000, 4400).tolist() != whole.tolist()


def test_epochs_have_every_row_once_and_each_its_own_order() -> None:
    draws = InEpochs(len(GROUP_IDS), 0)
    first, second = draws.rows(0, 1000), draws.rows(1000, 2000)
    assert sorted(first) == sorted(second) == list(range(1000))
    assert first.tolist() != second.tolist()


def test_balanced_draws_have_every_group_alike_and_every_row_of_it() -> None:
    rows = GroupBalanced(GROUP_IDS, 0).rows(0, 60_000)
    shares = np.bincount(GROUP_IDS[rows]) / len(rows)
    # Six standard deviations of a share of 1/3 in 60,000 draws.
    assert shares == pytest.approx(np.full(3, 1 / 3), abs=6 * np.sqrt(2 / 9 / 60_000))
    of_rarest = np.bincount(rows[GROUP_IDS[rows] == 2], minlength=1000)[950:]
    assert of_rarest.min() > 0.5 * of_rarest.mean()
