"""MLflow's server dies during a run: the run ends well, and ``mixray show`` publishes all of it once it is back."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tests.end_to_end.conftest import MIXRAY, mixray
from tests.tracking.server import Server

TIMED = ("seconds", "tokens_per_second")
"""Metrics that no two runs share."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    server.start()
    yield server
    server.stop()


def contents(uri: str) -> dict[str, dict[str, Any]]:
    """Return what MLflow holds of every run of the experiment, but for times and places."""
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    return {run.info.run_name: _content(client, run) for run in client.search_runs([experiment.experiment_id])}


def _content(client: mlflow.MlflowClient, run: Any) -> dict[str, Any]:
    curves = {}
    for metric in run.data.metrics:
        points = sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric))
        curves[metric] = [step for step, _ in points] if metric in TIMED else points
    return {
        "status": run.info.status,
        "params": run.data.params,
        "curves": curves,
        "datasets": sorted((entry.dataset.name, entry.dataset.digest) for entry in run.inputs.dataset_inputs),
        "files": sorted(_files(client, run.info.run_id)),
        "summary": run.data.tags.get("mlflow.note.content"),
    }


def _files(client: mlflow.MlflowClient, run_id: str, folder: str | None = None) -> Iterator[str]:
    for item in client.list_artifacts(run_id, folder):
        if item.is_dir:
            yield from _files(client, run_id, item.path)
        else:
            yield item.path


def test_a_run_whose_mlflow_dies_is_published_whole_by_a_later_command(
    finished: Path, server: Server, tmp_path: Path
) -> None:
    """To be short, the run has one proxy to train; the other artifacts exist."""
    shutil.copytree(finished / "runs-here" / "artifacts", tmp_path / "store" / "artifacts")
    shutil.rmtree(next((tmp_path / "store" / "artifacts" / "proxy").iterdir()))
    settings = [f"storage={tmp_path / 'store'}", f"tracking.uri={server.uri}"]
    command = [*MIXRAY, "run", str(finished / "run.yaml"), *settings]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **streams, text=True) as process:  # type: ignore[call-overload]
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("[proxies] ") and "loss" in line and server.process is not None:
                server.stop()
        assert process.stdout is not None
        printed = process.stdout.read()
        assert process.wait() == 0, "".join(lines)
    assert server.process is None, "no proxy was trained"
    (folder,) = (tmp_path / "store" / "runs").glob("small-*")
    (warning,) = [line for line in lines if line.startswith("warning: MLflow")]
    assert f"MLflow at {server.uri} cannot be reached" in warning
    assert printed.splitlines()[-1] == f"MLflow lacks it; mixray show {folder} publishes it"

    server.start()
    shown = mixray("show", folder)
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == ""
    undisturbed = contents(f"sqlite:///{finished / 'runs-here' / 'mlflow.db'}")
    assert len(undisturbed) == 7
    assert contents(server.uri) == undisturbed
