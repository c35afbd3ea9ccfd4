"""A real MLflow server that dies during a run: the run goes on, and a later command publishes what is missing."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from mixray.config import RunConfig
from mixray.store import Artifact, Artifacts, RunIndex, Storage
from mixray.tracking import SUMMARY_FILE, RunTracking, connection, publish_folder, tracker
from mixray.training import Progress, TrainReport
from tests.tracking.server import Server

FOLDER, RUN = "runs/quickstart-1a2b3c4d", "quickstart-1a2b3c4d"


@pytest.fixture
def server(tmp_path: Path, template: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(template, folder / "mlflow.db")
    server = Server(folder)
    yield server
    server.stop()


def test_an_outage_leaves_no_gap_in_what_mlflow_holds(
    server: Server,
    storage: Storage,
    make_config: Callable[..., RunConfig],
    view: Callable[..., Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The server dies while a proxy trains and is back when somebody shows the run."""
    config, warnings, environment = make_config(uri=server.uri), list[str](), dict(os.environ)
    server.start()
    records = [Progress(step, 20, 64 * step, 5.0 - step / 10, 1000.0, 0.1, time=1000 + step) for step in range(1, 21)]
    index = RunIndex(storage, FOLDER)
    with RunTracking(config, storage, FOLDER, index, warnings.append) as tracking:
        for record in records[:10]:
            tracking.publish_training("proxy/python", record)
        tracking.publish()
        wait_until(lambda: len(view(server.uri).runs) == 2)
        server.stop()
        for record in records[10:]:
            tracking.publish_training("proxy/python", record)
        index.add({"proxy/python": publish_model(storage, records)})
        storage.write(f"{FOLDER}/report/proxy_curves.png", b"\x89PNG curves")
        storage.write(f"{FOLDER}/report/sklearn_weights.png", b"\x89PNG weights")
        storage.write(f"{FOLDER}/report/{SUMMARY_FILE}", b"python 100 %")
        tracking.publish()
    (warning,) = warnings
    assert server.uri in warning
    assert "cannot be reached" in warning  # or the request that the server died in was cut off
    assert f"`mixray show {storage.location(FOLDER)}`" in warning
    publish_folder(config, storage, FOLDER, warnings.append)
    assert "Connection refused" in warnings[1]
    assert not RunIndex.open(storage, FOLDER).is_published

    server.start()
    publish_folder(config, storage, FOLDER, pytest.fail)
    assert RunIndex.open(storage, FOLDER).is_published
    assert dict(os.environ) == environment
    assert (*capfd.readouterr(), caplog.text) == ("", "", "")

    mlflow = view(server.uri)
    assert sorted(run.info.run_name for run in mlflow.runs) == ["proxy/python", RUN]
    assert {run.info.status for run in mlflow.runs} == {"FINISHED"}
    assert mlflow.history("proxy/python", "loss") == [(64 * step, 5.0 - step / 10) for step in range(1, 21)]
    assert [point.timestamp for point in mlflow.points("proxy/python", "learning_rate")] == list(range(1001, 1021))
    proxy = mlflow.run("proxy/python").info
    assert (proxy.start_time, proxy.end_time) == (1001, 1020)  # not when the first record was published
    parent = mlflow.run(RUN)
    assert parent.data.params["seed"] == "0"
    assert parent.data.tags["mlflow.note.content"] == "python 100 %"
    assert mlflow.file(RUN, "proxy_curves.png", tmp_path / "down") == b"\x89PNG curves"
    assert mlflow.file(RUN, "figures/sklearn_weights.png", tmp_path / "down") == b"\x89PNG weights"
    page = f"{server.uri}/#/experiments/{mlflow.experiment.experiment_id}/runs/{parent.info.run_id}"
    page += "?workflowType=machine_learning"
    index = RunIndex.open(storage, FOLDER)
    with RunTracking(config, storage, FOLDER, index, pytest.fail) as tracking:
        pass
    assert tracking.view_command() == page


def test_a_server_that_does_not_answer_is_one_warning_before_work_starts(
    storage: Storage, make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "SECONDS_TO_ANSWER", 0.2)
    monkeypatch.setattr(tracker, "SECONDS_TO_CLOSE_IN_A_HURRY", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config, warnings = make_config(uri=f"http://127.0.0.1:{silent.getsockname()[1]}"), list[str]()
        index = RunIndex(storage, FOLDER)
        with RunTracking(config, storage, FOLDER, index, warnings.append):
            (warning,) = warnings
    assert "cannot be reached" in warning
    assert "timed out" in warning
    assert "the run goes on, and `mixray show" in warning
    assert warnings == [warning]
    assert not RunIndex.open(storage, FOLDER).is_published


@pytest.mark.parametrize("status", [200, 401, 404])
def test_any_status_is_an_answer(status: int) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        connection.require_answer(f"http://me:secret@127.0.0.1:{server.server_port}/")
        thread.join()


@pytest.mark.parametrize("uri", ["sqlite:////nowhere/mlflow.db", "postgresql://u:p@127.0.0.1:1/db"])
def test_databases_are_not_tried(uri: str) -> None:
    connection.require_answer(uri)


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_that_ends_early_ends_with_the_models_that_it_was_training(
    tracked_storage: Storage,
    make_config: Callable[..., RunConfig],
    view: Callable[..., Any],
    error: type[BaseException],
    status: str,
) -> None:
    index = RunIndex(tracked_storage, FOLDER)
    record = Progress(1, 20, 64, 5.0, 1000.0, 0.1)
    try:
        with RunTracking(make_config(), tracked_storage, FOLDER, index, pytest.fail) as tracking:
            tracking.publish_training("proxy/python", record)
            index.add({"proxy/cpp": publish_model(tracked_storage, [record])})
            raise error
    except error:
        pass
    ends = {run.info.run_name: run.info.status for run in view().runs}
    assert ends == {RUN: status, "proxy/python": status, "proxy/cpp": "FINISHED"}
    assert RunIndex.open(tracked_storage, FOLDER).status == status


def publish_model(storage: Storage, records: list[Progress]) -> Artifact:
    report = TrainReport(tuple(records), 1.0)
    meta = {"parameters": 7, "tokens": report.tokens, "seconds": 1.0}
    meta |= {"curve": [[tokens, loss] for tokens, loss in report.curve.items()], **report.rates}
    return Artifacts(storage, RUN).draft("proxy", "ab" * 32).publish({}, meta)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)
