"""Two drivers at once on a storage that has no database yet, both killed, then run again."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixray.config import RunConfig
from mixray.store import Storage
from mixray.tracking import open_tracker

DRIVER = """
import os, signal, sys
import mlflow.store.tracking.sqlalchemy_store
from mixray.config import RunConfig
from mixray.store import Storage
from mixray.tracking import open_tracker
storage, folder, config = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
tracker = open_tracker(RunConfig.model_validate_json(config), Storage(storage), folder, print)
tracker.start("", params={"seed": 0})
tracker.metrics("proxy/python", [("loss", 1.0, step) for step in range(5)])
tracker.close()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_two_runs_share_a_new_database_and_go_on_after_being_killed(
    storage: Storage, make_config: Callable[..., RunConfig], look: Callable[..., Any], tmp_path: Path
) -> None:
    config, folders = make_config(), ["runs/quickstart-aaaaaaaa", "runs/quickstart-bbbbbbbb"]
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", DRIVER, storage.uri, folder, config.model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
        )
        for folder in folders
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
    assert {run.info.status for run in look().runs} == {"RUNNING"}

    for folder in folders:
        with open_tracker(config, storage, folder, pytest.fail) as tracker:
            tracker.start("", params={"seed": 0})
            tracker.start("proxy/python")
            tracker.metrics("proxy/python", [("loss", 1.0, step) for step in range(9)])
    mlflow = look()
    assert len(mlflow.runs) == 4
    assert {run.info.status for run in mlflow.runs} == {"FINISHED"}
    for run in mlflow.runs:
        if run.info.run_name == "proxy/python":
            points = mlflow.client.get_metric_history(run.info.run_id, "loss")
            assert [point.step for point in points] == list(range(9))
