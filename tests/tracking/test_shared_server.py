"""A real MLflow server that several people share: it asks for a password, and many runs write to it at once."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mixray.config import RunConfig
from mixray.store import Artifacts, RunIndex, Storage
from mixray.tracking import RunTracking, publish_folder
from mixray.training import Progress, TrainReport
from tests.tracking.server import Server

PASSWORD = "correct horse"
USER, SECRET = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
RUNS, STEPS = 8, 30


@pytest.fixture
def server(tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with a password, which this process does not know."""
    for name in (USER, SECRET):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(template, folder / "mlflow.db")
    server = Server(folder, PASSWORD)
    server.start()
    yield server
    server.stop()


def write_run(config: RunConfig, storage: Storage, number: int, warn: Callable[[str], None]) -> None:
    """Publish a run as a driver does: records while a proxy trains, and then its model."""
    folder = f"runs/quickstart-{number:08x}"
    index = RunIndex(storage, folder)
    records = [Progress(step, STEPS, 64 * step, 5.0 + number, 1.0, 0.1, time=step) for step in range(1, STEPS + 1)]
    with RunTracking(config, storage, folder, index, warn) as tracking:
        tracking.publish()
        for record in records:
            tracking.publish_training("proxy/python", record)
        report = TrainReport(tuple(records), 1.0)
        meta = {"parameters": 7, "tokens": report.tokens, "seconds": 1.0, **report.rates}
        meta |= {"curve": [[tokens, loss] for tokens, loss in report.curve.items()]}
        model = Artifacts(storage, folder).draft("proxy", f"{number:064x}").publish({}, meta)
        index.add({"proxy/python": model})
        storage.write(f"{folder}/report/proxy_curves.png", b"figure %d" % number)
        tracking.publish()


def write_run_apart(config: RunConfig, uri: str, number: int) -> list[str]:
    """Publish a run from a process of its own; return the warnings."""
    os.environ.update({USER: "admin", SECRET: PASSWORD})
    warnings: list[str] = []
    write_run(config, Storage(uri), number, warnings.append)
    return warnings


def test_a_password_that_is_missing_or_wrong_is_one_warning_and_the_run_is_published_later(
    server: Server,
    storage: Storage,
    make_config: Callable[..., RunConfig],
    view: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config(uri=server.uri)
    for number, given in enumerate([{}, {USER: "admin", SECRET: "wrong"}]):
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        warnings: list[str] = []
        write_run(config, storage, number, warnings.append)
        (warning,) = warnings
        assert "401" in warning
        assert f"{USER} and {SECRET}" in warning
        folder = f"runs/quickstart-{number:08x}"
        assert f"`mixray show {storage.location(folder)}`" in warning
        assert not RunIndex.open(storage, folder).is_published

    monkeypatch.setenv(SECRET, PASSWORD)
    for folder in ("runs/quickstart-00000000", "runs/quickstart-00000001"):
        publish_folder(config, storage, folder, pytest.fail)
        assert RunIndex.open(storage, folder).is_published
    mlflow = view(server.uri)
    proxies = [run.info.run_id for run in mlflow.runs if run.info.run_name == "proxy/python"]
    assert [len(mlflow.client.get_metric_history(proxy, "loss")) for proxy in proxies] == [STEPS] * 2


def test_many_runs_at_once_arrive_whole(
    server: Server,
    tmp_path: Path,
    make_config: Callable[..., RunConfig],
    view: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eight drivers with storages of their own, of which none knows the others, in one experiment."""
    config = make_config(uri=server.uri)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(RUNS, mp_context=spawn) as drivers:
        waiting = [
            drivers.submit(write_run_apart, config, str(tmp_path / str(number)), number) for number in range(RUNS)
        ]
        assert [each.result() for each in waiting] == [[]] * RUNS
    monkeypatch.setenv(USER, "admin")
    monkeypatch.setenv(SECRET, PASSWORD)
    mlflow = view(server.uri)
    names = [run.info.run_name for run in mlflow.runs]
    assert sorted(names) == sorted([*(f"quickstart-{number:08x}" for number in range(RUNS)), *["proxy/python"] * RUNS])
    assert {run.info.status for run in mlflow.runs} == {"FINISHED"}
    for number in range(RUNS):
        parent = mlflow.run(f"quickstart-{number:08x}")
        assert mlflow.file(parent.info.run_name, "proxy_curves.png", tmp_path / "down") == b"figure %d" % number
        (proxy,) = [run for run in mlflow.runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
        points = mlflow.client.get_metric_history(proxy.info.run_id, "loss")
        assert [(point.step, point.value) for point in points] == [
            (64 * step, 5.0 + number) for step in range(1, STEPS + 1)
        ]
