"""What an arm draws and what its rows weigh: the arms differ in nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from mixray.config.robust import RobustArm
from mixray.data.tabular.grouped import GroupedTask, importance_weights
from mixray.study.arm import stream_of


@pytest.mark.parametrize("arm", ["erm", "importance", "group_dro", "also"])
def test_all_arms_but_the_balanced_one_see_the_same_rows(digits: GroupedTask, arm: RobustArm) -> None:
    epoch = stream_of(arm, digits, 3).read(0, len(digits.train))
    assert np.bincount(epoch.group_ids).tolist() == digits.training_counts.tolist()
    assert epoch.inputs[0].tolist() == stream_of("erm", digits, 3).read(0, len(digits.train)).inputs[0].tolist()
    assert (epoch.row_weights is not None) == (arm == "importance")


def test_rows_keep_their_own_labels_and_groups(digits: GroupedTask) -> None:
    batch = stream_of("balanced", digits, 0).read(100, 140)
    known = {tuple(features): row for row, features in enumerate(digits.train.features)}
    rows = [known[tuple(features)] for features in batch.inputs[0]]
    assert batch.inputs[1].tolist() == digits.train.labels[rows].tolist()
    assert batch.group_ids.tolist() == digits.train.group_ids[rows].tolist()


def test_balanced_batches_have_all_groups_alike(digits: GroupedTask) -> None:
    batch = stream_of("balanced", digits, 0).read(0, 8000)
    assert np.bincount(batch.group_ids) / 8000 == pytest.approx(np.full(4, 0.25), abs=0.03)
    assert batch.row_weights is None


def test_importance_weights_make_groups_alike_and_are_1_on_average() -> None:
    counts = np.array([700, 250, 50])
    weights = importance_weights(counts)
    assert counts * weights == pytest.approx(np.full(3, counts.sum() / 3))
    assert (counts * weights).sum() / counts.sum() == pytest.approx(1)
