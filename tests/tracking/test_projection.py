"""What MLflow should hold of a trained model, from its artifact and from the records of its training."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from mixray.store import Artifact, HeldOutCurve
from mixray.tracking.projection import _model_record, training_points
from mixray.tracking.records import Point, TrackedRun
from mixray.training import Progress, TrainReport

GROUPS = {"group_loss/low": 3.0, "group_loss/one": 1.0, "group_weight/low": 0.9, "group_weight/one": 0.1}


def record(step: int = 3, **groups: Any) -> Progress:
    return Progress(step, 4, 64 * step, 4.5 - step, 1000.0 + step, 0.1, time=1_700_000_000_000 + step, **groups)


def model(*records: Progress, **meta: Any) -> Artifact:
    """The artifact that a training job publishes."""
    report = TrainReport(records, 1.0)
    facts = {"parameters": 7, "tokens": report.tokens, "seconds": 1.0}
    curves = {"curve": [[tokens, loss] for tokens, loss in report.curve.items()], **report.rates}
    groups = {f"group_{kind}": group_curves for kind, group_curves in report.group_curves.items() if group_curves}
    return Artifact("model", "a" * 64, {}, facts | curves | groups | meta)


def group_metrics(points: tuple[Point, ...]) -> dict[str, float]:
    return {point.metric: point.value for point in points if "group" in point.metric and point.step == 192}


def test_group_weights_and_losses_are_metrics_of_the_arm() -> None:
    points = training_points(record(group_losses={"low": 3.0, "one": 1.0}, group_weights={"low": 0.9, "one": 0.1}))
    assert group_metrics(points) == GROUPS
    assert Point("loss", 1.5, 192, 1_700_000_000_003) in points


@pytest.mark.parametrize(
    "groups",
    [{}, {"group_losses": {"low": 3.0, "one": 1.0}, "group_weights": {"low": 0.9, "one": 0.1}}],
    ids=["without groups", "with groups"],
)
def test_a_finished_model_holds_every_point_that_was_published_while_it_trained(groups: Any) -> None:
    records = [record(step, **groups) for step in (1, 2, 3)]
    published = {point for one in records for point in training_points(one)}
    finished = _model_record("arm/mixmin", model(*records))
    lacking = {(point.metric, point.value, point.step) for point in published} - {
        (point.metric, point.value, point.step) for point in finished.points
    }
    assert not lacking
    assert published <= set(finished.points)
    assert (finished.status, finished.started, finished.ended) == (
        "FINISHED",
        1_700_000_000_001,
        1_700_000_000_003,
    )
    assert bool(group_metrics(finished.points)) == bool(groups)


def test_an_artifact_of_an_earlier_version_has_its_loss_alone() -> None:
    meta = {"parameters": 7, "tokens": 192, "seconds": 1.0, "curve": [[64, 2.0], [192, 1.5]]}
    assert _model_record("proxy/python", Artifact("proxy", "a" * 64, {}, meta)) == TrackedRun(
        "proxy/python",
        params={"parameters": "7", "tokens": "192"},
        tags={"artifact": "a" * 64},
        points=(Point("loss", 2.0, 64), Point("loss", 1.5, 192), Point("seconds", 1.0, 192)),
        status="FINISHED",
    )


def test_groups_of_whatever_name_are_metrics_that_mlflow_takes() -> None:
    """The number is the group's, also where others have no loss yet."""
    weights = {"10 - 20 km": 0.2, "<10 km": 0.5, ">10 km": 0.3}
    points = training_points(record(group_losses={">10 km": 2.0}, group_weights=weights))
    assert group_metrics(points) == {
        "group_loss/2__10 km": 2.0,
        "group_weight/10 - 20 km": 0.2,
        "group_weight/1__10 km": 0.5,
        "group_weight/2__10 km": 0.3,
    }


def test_losses_on_held_out_samples_are_metrics_under_the_names_that_the_run_gives_its_targets() -> None:
    """A training may have been begun by another run, whose targets are none of this one's."""
    records = [record(step, held_out={"a" * 64: 4.0 - step, "c" * 64: 9.0} if step > 1 else None) for step in (1, 2, 3)]
    targets = {"zoo": "a" * 64, "mixed": "b" * 64}
    published = {point for one in records for point in training_points(one, targets)}
    held_out = {point for point in published if point.metric.startswith("held_out")}
    assert held_out == {
        Point("held_out_sample/zoo", 2.0, 128, 1_700_000_000_002),
        Point("held_out_sample/zoo", 1.0, 192, 1_700_000_000_003),
    }
    curves = {"a" * 64: HeldOutCurve(4, 99, [(128, 2.0), (192, 1.0)]), "c" * 64: HeldOutCurve(4, 99, [(192, 9.0)])}
    stored = model(*records, held_out_curves={id: asdict(curve) for id, curve in curves.items()})
    assert published == set(_model_record("arm/mixmin", stored, targets).points) - {
        Point("seconds", 1.0, 192, 1_700_000_000_003)
    }
