"""The background thread: what it delivers and when, and what an MLflow that cannot be reached costs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mixray.tracking.connection import short_reason
from mixray.tracking.mlflow_runs import Destination, MlflowRuns
from mixray.tracking.records import Point, TrackedRun
from mixray.tracking.tracker import Tracker

NOBODY = "http://127.0.0.1:1"
PROXY = "proxy/python"


def losses(*steps: int) -> TrackedRun:
    return TrackedRun(PROXY, points=tuple(Point("loss", 1.0, step, step) for step in steps))


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def published_steps(view: Callable[[], Any]) -> list[int]:
    mlflow = view()
    if all(run.info.run_name != PROXY for run in mlflow.runs):
        return []
    return [step for step, _ in mlflow.history(PROXY, "loss")]


def test_live_points_come_with_the_next_delivery_and_records_of_a_stage_at_once(
    destination: Destination, view: Callable[[], Any]
) -> None:
    MlflowRuns(destination, pytest.fail)
    tracker = Tracker(destination, pytest.fail, interval=0.05)
    tracker.send([losses(1)], soon=False)
    wait_until(lambda: published_steps(view) == [1])
    assert tracker.close([losses(1)])
    tracker = Tracker(destination, pytest.fail, interval=1000)
    tracker.send([losses(2)], soon=False)
    tracker.send([losses(3)])
    wait_until(lambda: published_steps(view) == [1, 2, 3])
    assert tracker.close([losses(1, 2, 3, 4)])
    assert published_steps(view) == [1, 2, 3, 4]


def test_sending_does_not_wait(
    destination: Destination, view: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_answer, publish = threading.Event(), MlflowRuns.publish

    def publish_slowly(self: MlflowRuns, runs: list[TrackedRun]) -> None:
        may_answer.wait()
        publish(self, runs)

    monkeypatch.setattr(MlflowRuns, "publish", publish_slowly)
    tracker = Tracker(destination, pytest.fail)
    for step in range(1000):
        tracker.send([losses(step)])
    may_answer.set()
    assert tracker.close([losses(*range(1000))])
    assert published_steps(view) == list(range(1000))


def test_an_unreachable_server_costs_one_warning(destination: Destination) -> None:
    warnings: list[str] = []
    tracker = Tracker(replace(destination, uri=NOBODY), warnings.append, pause=0)
    for step in range(3):
        tracker.send([losses(step)])
        time.sleep(0.05)
    assert not tracker.close([losses(0, 1, 2)])
    (warning,) = warnings
    assert NOBODY in warning
    assert "the run goes on" in warning
    assert "`mixray show` publishes it later" in warning
    assert tracker.view_command() == NOBODY


def test_after_a_failure_live_points_are_dropped_and_the_last_records_are_complete(
    destination: Destination, view: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[int] = []
    warnings: list[str] = []
    publish = MlflowRuns.publish

    def publish_at_last(self: MlflowRuns, runs: list[TrackedRun]) -> None:
        attempts.append(len(runs))
        if len(attempts) == 1:
            raise OSError("the network is down")
        publish(self, runs)

    monkeypatch.setattr(MlflowRuns, "publish", publish_at_last)
    tracker = Tracker(destination, warnings.append, pause=1000)
    tracker.send([losses(0)])
    wait_until(lambda: warnings)
    tracker.send([losses(1)])
    tracker.send([losses(2)])
    assert tracker.close([losses(0, 1, 2, 3)])
    assert len(attempts) == 2
    assert published_steps(view) == [0, 1, 2, 3]


def test_closing_waits_for_a_stuck_server_only_so_long(
    destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_answer = threading.Event()
    monkeypatch.setattr(MlflowRuns, "publish", lambda *_: may_answer.wait())
    monkeypatch.setattr("mixray.tracking.tracker.SECONDS_TO_CLOSE_IN_A_HURRY", 0.1)
    warnings: list[str] = []
    tracker = Tracker(destination, warnings.append)
    assert not tracker.close([losses(0)], is_hurried=True)
    assert warnings[0].startswith("MLflow did not answer within")
    may_answer.set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_the_thread_is_a_warning(destination: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    def publish(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(MlflowRuns, "publish", publish)
    warnings: list[str] = []
    tracker = Tracker(destination, warnings.append)
    assert not tracker.close([losses(0)])
    assert warnings[0].startswith("tracking has failed; the run goes on")


def test_a_long_reason_keeps_its_two_ends() -> None:
    text = short_reason(OSError("API request to https://tracking failed" + "." * 500 + "Connection refused\nand more"))
    assert text.startswith("API request to https://tracking failed")
    assert text.endswith("Connection refused")
    assert len(text) < 200
