"""The embedded task: a shortcut in the training rows, none in the others."""

from __future__ import annotations

import numpy as np
import pytest

from mixray.config.robust import DigitsConfig
from mixray.data.tabular.grouped import digits_task


@pytest.mark.parametrize("seed", range(3))
def test_the_patch_tells_the_label_in_training_rows_alone(seed: int) -> None:
    task = digits_task(DigitsConfig(correlation=0.95), seed)
    agree = [np.mean(part.spurious == part.labels) for part in (task.train, task.validation, task.test)]
    assert agree[0] == pytest.approx(0.95, abs=0.025)
    assert agree[1:] == pytest.approx([0.5, 0.5], abs=0.1)
    assert [len(part) for part in (task.train, task.validation, task.test)] == [1000, 300, 497]


def test_groups_are_label_and_patch_and_the_patch_is_in_the_picture() -> None:
    task = digits_task(DigitsConfig(), 0)
    assert task.group_names == ("0-4|no patch", "0-4|patch", "5-9|no patch", "5-9|patch")
    assert task.train.spurious is not None
    assert (task.train.group_ids == 2 * task.train.labels + task.train.spurious).all()
    corner = task.train.features[:, [0, 1, 8, 9]]
    assert (corner[task.train.spurious == 1] > 0).all()
    assert (corner[task.train.spurious == 0] < 0).all()
