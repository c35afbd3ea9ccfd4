"""What a run tells of an arm that weighs its sources."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mixray import narration
from mixray.progress import SilentProgress
from mixray.store import Artifact
from mixray.tracking.tracker import NoTracker
from mixray.training import Progress


class Told(NoTracker):
    """Remembers metrics: (key, metric, step) -> value."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str, int], float] = {}

    def metrics(self, key: str, values: Iterable[tuple[str, float, int]], times: Sequence[int] | None = None) -> None:
        self.values |= {(key, metric, step): value for metric, value, step in values}


GROUPS = {"group_loss/low": 3.0, "group_loss/one": 1.0, "group_weight/low": 0.9, "group_weight/one": 0.1}


def record(**groups: Any) -> Progress:
    return Progress(3, 4, 192, 1.5, 1000.0, 0.1, **groups)


def model(**meta: Any) -> Artifact:
    facts = {"parameters": 7, "tokens": 192, "seconds": 1.0, "curve": [[192, 1.5]]}
    return Artifact("model", "a" * 64, {}, facts | meta)


def group_metrics(told: Told) -> dict[str, float]:
    return {metric: value for (key, metric, step), value in told.values.items() if "group" in metric and step == 192}


def test_group_weights_and_losses_are_metrics_of_the_arm() -> None:
    told = Told()
    with SilentProgress().stage("retrain") as stage:
        news = narration.training(told, stage, "arm")
        news("mixmin", record(group_losses={"low": 3.0, "one": 1.0}, group_weights={"low": 0.9, "one": 0.1}))
    assert group_metrics(told) == GROUPS
    assert told.values["arm/mixmin", "loss", 192] == 1.5


def test_a_finished_arm_tells_its_groups_again() -> None:
    told = Told()
    curves = {
        "group_losses": {"low": [[192, 3.0]], "one": [[64, 2.0], [192, 1.0]]},
        "group_weights": {"low": [[64, 0.6], [192, 0.9]], "one": [[64, 0.4], [192, 0.1]]},
    }
    with SilentProgress().stage("retrain") as stage:
        narration.trained(told, stage, "arm", {"mixmin": model(**curves)})
    assert group_metrics(told) == GROUPS
    assert told.values["arm/mixmin", "group_weight/low", 64] == 0.6


def test_other_arms_have_none() -> None:
    told = Told()
    with SilentProgress().stage("retrain") as stage:
        narration.training(told, stage, "arm")("natural", record())
        narration.trained(told, stage, "arm", {"natural": model()})
    assert told.values
    assert not group_metrics(told)


def test_groups_of_whatever_name_are_metrics_that_mlflow_takes() -> None:
    """The number is the group's, also where others have no loss yet."""
    told = Told()
    weights = {"10 - 20 km": 0.2, "<10 km": 0.5, ">10 km": 0.3}
    with SilentProgress().stage("retrain") as stage:
        narration.training(told, stage, "arm")("a", record(group_losses={">10 km": 2.0}, group_weights=weights))
    assert group_metrics(told) == {
        "group_loss/2__10 km": 2.0,
        "group_weight/10 - 20 km": 0.2,
        "group_weight/1__10 km": 0.5,
        "group_weight/2__10 km": 0.3,
    }
