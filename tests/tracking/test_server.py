"""A real MLflow server, down at first: the run goes on, and every record arrives once and in order."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mixray.config import RunConfig
from mixray.store import Storage
from mixray.tracking import MlflowTracker, open_tracker, replay
from mixray.tracking.records import Finish
from mixray.tracking.spool import Spool

FOLDER, RUN = "runs/quickstart-1a2b3c4d", "quickstart-1a2b3c4d"


class Server:
    """An MLflow server on loopback that can be started and stopped; its database outlives it."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        places = ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        places += ["--artifacts-destination", str(self.folder / "artifacts")]
        command = [sys.executable, "-m", "mlflow", "server", *places, "--port", str(self.port), "--workers", "1"]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while not self._is_healthy():
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < deadline, (self.folder / "server.log").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)  # its own session: the server and its worker
            self.process.wait()
            self.process = None

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False


@pytest.fixture
def server(tmp_path: Path, template: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(template, folder / "mlflow.db")
    server = Server(folder)
    yield server
    server.stop()


def tell(tracker: MlflowTracker, steps: range) -> None:
    tracker.start("", params={"seed": 0})
    tracker.dataset(
        "", "python", digest="ab" * 32, source="/usr/lib/python3", context="training", profile={"documents": 5}
    )
    tracker.start("proxy/python")
    for step in steps:
        tracker.metrics("proxy/python", [("loss", 5 - step / 1000, step)])
    tracker.artifact("", f"figures/{steps.stop}.png", b"\x89PNG")


def test_a_server_that_is_down_at_first_gets_everything_once_and_in_order(
    server: Server,
    storage: Storage,
    make_config: Callable[..., RunConfig],
    look: Callable[..., Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, spool, warnings = make_config(uri=server.uri), Spool(storage, FOLDER), list[str]()
    environment = dict(os.environ)
    for attempt, steps in enumerate((range(10), range(20)), start=1):
        with open_tracker(config, storage, FOLDER, warnings.append) as tracker:
            tell(tracker, steps)
        assert tracker.view_command() == server.uri
        assert len(spool.segments()) == len(warnings) == attempt
    assert server.uri in warnings[0]
    assert "Connection refused" in warnings[0]
    assert replay(config, storage, FOLDER, warnings.append) == 0
    assert "records stay in" in warnings[2]

    server.start()
    with open_tracker(config, storage, FOLDER, pytest.fail) as tracker:
        tell(tracker, range(30))
    assert spool.segments() == []
    spool.write([Finish("proxy/cpp")])
    assert replay(config, storage, FOLDER, pytest.fail) == 1
    assert spool.segments() == []
    assert dict(os.environ) == environment
    assert (*capfd.readouterr(), caplog.text) == ("", "", "")

    mlflow = look(server.uri)
    assert sorted(run.info.run_name for run in mlflow.runs) == ["proxy/cpp", "proxy/python", RUN]
    assert {run.info.status for run in mlflow.runs} == {"FINISHED"}
    assert mlflow.history("proxy/python", "loss") == [(step, 5 - step / 1000) for step in range(30)]
    parent = mlflow.run(RUN)
    assert parent.data.params == {"seed": "0"}
    assert [entry.dataset.name for entry in parent.inputs.dataset_inputs] == ["python"]
    for last in (10, 20, 30):
        assert mlflow.artifact(RUN, f"figures/{last}.png", tmp_path / "down") == b"\x89PNG"
    page = f"{server.uri}/#/experiments/{mlflow.experiment.experiment_id}/runs/{parent.info.run_id}"
    assert tracker.view_command() == page
