"""An arm: the validation part alone selects, a run that was cut off ends as if it had not been, robust arms win."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixray.config.robust import RobustArm
from mixray.data.tabular.grouped import GroupedRows, GroupedTask
from mixray.store import Storage
from mixray.study import predict, results_of, train_arm
from mixray.study.arm import Selection
from mixray.training import StorageCheckpoint
from tests.study.conftest import run_file

ARMS: list[RobustArm] = ["erm", "balanced", "importance", "group_dro", "also"]


class CutOff(StorageCheckpoint):
    """Dies after it has saved so many times."""

    left = 2

    def save(self, step: int, state: dict[str, Any]) -> None:
        super().save(step, state)
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("arm", ARMS)
def test_an_interrupted_run_ends_like_an_uninterrupted_one(digits: GroupedTask, tmp_path: Path, arm: RobustArm) -> None:
    config = run_file(steps=24, evaluations=12)
    whole = train_arm(digits, config, arm, 0)
    storage = Storage(str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        train_arm(digits, config, arm, 0, checkpoint=CutOff(storage, "here"))
    again = train_arm(digits, config, arm, 0, checkpoint=StorageCheckpoint(storage, "here"))
    assert again.selection.history == whole.selection.history
    assert again.selection.best_step == whole.selection.best_step
    assert [record.group_weights for record in again.report.records] == [
        record.group_weights for record in whole.report.records
    ]
    for name, value in whole.model.state_dict().items():
        assert again.model.state_dict()[name].equal(value), name


def test_the_test_part_selects_nothing(digits: GroupedTask) -> None:
    other = replace(digits, test=digits.test.take(np.arange(len(digits.test))[::-1][:100]))
    one, two = (train_arm(task, run_file(), "erm", 0) for task in (digits, other))
    assert one.selection.history == two.selection.history
    assert all(one.model.state_dict()[name].equal(value) for name, value in two.model.state_dict().items())


@pytest.mark.parametrize(("select_by", "step"), [("worst_group", 2), ("average", 1)])
def test_the_best_model_is_the_one_asked_for_and_the_first_of_equals(select_by: Any, step: int) -> None:
    """Model 1 is right on the large group alone, 2 and 3 on half of each."""
    labels = np.array([0] * 8 + [1] * 2)
    right = {1: [0] * 10, 2: [0] * 4 + [1] * 5 + [0], 3: [0] * 4 + [1] * 5 + [0]}
    part = GroupedRows(np.eye(10, dtype=np.float32), labels, labels, None, np.arange(10))
    selection = Selection(part, 2, select_by)
    model = torch.nn.Linear(10, 2, bias=False)
    for number, predictions in right.items():
        with torch.no_grad():
            model.weight.copy_(torch.nn.functional.one_hot(torch.tensor(predictions), 2).T)
        selection.measure(number, model)
    assert selection.best_step == step
    assert [values for _, values in selection.history] == [[1.0, 0.0], [0.5, 0.5], [0.5, 0.5]]


def test_results_have_both_averages(digits: GroupedTask) -> None:
    config = run_file()
    trained = train_arm(digits, config, "group_dro", 0)
    result = results_of(trained, digits, config, "group_dro", 0)
    test, counts = result.test, np.array(result.test.counts)
    accuracy = np.array(test.accuracy)
    assert predict(trained.model, digits.test).accuracy.tolist() == list(test.accuracy)
    assert counts.sum() == len(digits.test)
    assert test.worst == accuracy.min() == accuracy[test.worst_group]
    assert test.average_test == pytest.approx(accuracy @ counts / counts.sum())
    assert test.average_training_share == pytest.approx(accuracy @ digits.training_counts / 1000)
    assert result.rows_seen == 40 * 64
    assert [step for step, _ in result.validation_curve] == [10, 20, 30, 40]
    for point in result.training_curve:
        assert point.group_weights is not None
        assert point.group_losses is not None
        assert sum(point.group_weights.values()) == pytest.approx(1)
        assert set(point.group_losses) <= set(digits.group_names)
    assert result.selected.step in (10, 20, 30, 40)


def test_robust_arms_lift_the_worst_group_by_20_points_over_erm(digits: GroupedTask) -> None:
    config = run_file(steps=400, evaluations=10, l2=0.03, group_dro={"step_size": 0.05}, also={"step_size": 0.05})
    worst = {}
    for arm in ARMS:
        trained = train_arm(digits, config, arm, 0)
        worst[arm] = results_of(trained, digits, config.model_copy(update={"l2": 0.0}), arm, 0).test.worst
    assert all(worst[arm] >= worst["erm"] + 0.2 for arm in ARMS[1:]), worst
