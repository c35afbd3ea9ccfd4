"""Two drivers at once on a storage that has no database yet, both killed, then run again."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixray.store import Storage
from mixray.tracking.connection import artifact_location, default_uri
from mixray.tracking.mlflow_runs import Destination, MlflowRuns
from mixray.tracking.records import Point, TrackedRun

DRIVER = """
import os, signal, sys
import mlflow.store.tracking.sqlalchemy_store
from mixray.tracking.mlflow_runs import Destination, MlflowRuns
from mixray.tracking.records import Point, TrackedRun
uri, files, run_name = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
runs = MlflowRuns(Destination(uri, "quickstart", run_name, files, ""), print)
points = [Point("loss", 1.0, step) for step in range(5)]
runs.publish([TrackedRun("", {"seed": "0"}), TrackedRun("proxy/python", points=tuple(points))])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_two_runs_share_a_new_database_and_go_on_after_being_killed(
    storage: Storage, view: Callable[..., Any], tmp_path: Path
) -> None:
    uri, files, names = default_uri(storage), artifact_location(storage), ["quickstart-aaaaaaaa", "quickstart-bbbbbbbb"]
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", DRIVER, uri, files, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
        )
        for name in names
    ]
    for driver in drivers:  # both at the start line, so that they reach the new database together
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"ready\n"
    for driver in drivers:
        assert driver.stdin is not None
        driver.stdin.write(b"go\n")
        driver.stdin.flush()
    outputs = [driver.communicate(timeout=300)[0] for driver in drivers]
    assert outputs == [b"", b""]
    assert [driver.returncode for driver in drivers] == [-signal.SIGKILL] * 2
    assert {run.info.status for run in view().runs} == {"RUNNING"}

    for name in names:
        points = tuple(Point("loss", 1.0, step) for step in range(9))
        records = [TrackedRun("", status="FINISHED"), TrackedRun("proxy/python", points=points, status="FINISHED")]
        MlflowRuns(Destination(uri, "quickstart", name, files, ""), pytest.fail).publish(records)
    mlflow = view()
    assert len(mlflow.runs) == 4
    assert {run.info.status for run in mlflow.runs} == {"FINISHED"}
    for run in mlflow.runs:
        if run.info.run_name == "proxy/python":
            points = mlflow.client.get_metric_history(run.info.run_id, "loss")
            assert [point.step for point in points] == list(range(9))
