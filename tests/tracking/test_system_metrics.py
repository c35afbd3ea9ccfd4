"""What the machine is busy with, in MLflow's own terms."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Any

import pytest

from mixray.config import RunConfig
from mixray.errors import InputError
from mixray.store import RunIndex, Storage
from mixray.store.index import now_ms
from mixray.tracking import RunTracking
from mixray.tracking.mlflow_runs import MlflowRuns
from mixray.tracking.records import Point, TrackedRun
from mixray.tracking.system_metrics import SystemMetrics


def test_samples_come_until_it_is_closed_and_mlflow_takes_them(
    connect: Callable[..., MlflowRuns], view: Callable[[], Any]
) -> None:
    samples: queue.Queue[tuple[Point, ...]] = queue.Queue()
    monitor = SystemMetrics(samples.put, pytest.fail, now_ms() - 5000, interval=0.05)
    sample = samples.get(timeout=60)
    monitor.close()
    monitor._thread.join(60)
    count = samples.qsize()
    time.sleep(0.2)
    assert samples.qsize() == count
    values = {point.metric: point.value for point in sample}
    assert 0 <= values["system/cpu_utilization_percentage"] <= 100
    assert 0 < values["system/system_memory_usage_percentage"] < 100
    assert {"system/disk_available_megabytes", "system/network_receive_megabytes"} <= set(values)
    assert {point.step for point in sample} <= set(range(5, 66))
    connect().publish([TrackedRun("", points=sample)])
    assert view().run("quickstart-1a2b3c4d").data.metrics == pytest.approx(values)


def test_a_machine_that_cannot_be_read_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def collect_metrics(self) -> None:
            raise PermissionError("/proc/stat")

    monkeypatch.setattr("mixray.tracking.system_metrics._monitors", lambda: [Broken()])
    warnings: queue.Queue[str] = queue.Queue()
    monitor = SystemMetrics(lambda _: pytest.fail("a sample of nothing"), warnings.put, now_ms(), interval=0.01)
    assert "this machine cannot be read: PermissionError('/proc/stat')" in warnings.get(timeout=60)
    monitor._thread.join(60)
    assert not monitor._thread.is_alive()
    assert warnings.empty()


def test_a_missing_package_is_named_before_the_run_is_worked_on(
    make_config: Callable[..., RunConfig], tracked_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixray.tracking.system_metrics.find_spec", lambda _: None)
    index = RunIndex(tracked_storage, "runs/x")
    RunTracking(make_config(), tracked_storage, "runs/x", index, pytest.fail)
    with pytest.raises(InputError, match=r"mixray\[system\]"):
        RunTracking(make_config(system_metrics=True), tracked_storage, "runs/x", index, pytest.fail)
