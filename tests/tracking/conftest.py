"""A migrated MLflow database, made once and copied for every test; MLflow's own view of what was written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mixray.config import RunConfig
from mixray.store import Storage
from mixray.tracking.address import artifact_location, default_uri
from mixray.tracking.mlflow_sink import MlflowSink

MODEL = {"architecture": "gpt_neox"}


@pytest.fixture(scope="session", autouse=True)
def _quiet_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    MlflowSink(f"sqlite:///{path}", "template", "none", None, warn=pytest.fail)
    return path


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """An empty storage folder."""
    return Storage(str(tmp_path / "store"))


@pytest.fixture
def tracked_storage(storage: Storage, template: Path) -> Storage:
    """A storage folder whose MLflow database exists."""
    path = Path(storage.full("mlflow.db"))
    path.parent.mkdir()
    shutil.copy(template, path)
    return storage


def make_config(**tracking: str) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "quickstart",
            "tokenizer": {"train": {}},
            "window": 8,
            "sources": {"python": {"files": "*.py"}},
            "targets": {"sklearn": {"files": "*.txt"}},
            "proxy": {"model": MODEL, "tokens": 1000},
            "retrain": {"model": MODEL, "tokens": 1000},
            "tracking": tracking,
        }
    )


def make_sink(storage: Storage, run_name: str = "quickstart-1a2b3c4d", warn: Any = pytest.fail) -> MlflowSink:
    return MlflowSink(default_uri(storage), "quickstart", run_name, artifact_location(storage), warn)


class Seen:
    """What MLflow holds, read through its own client."""

    def __init__(self, uri: str, experiment: str = "quickstart") -> None:
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(uri)
        self.experiment = self.client.get_experiment_by_name(experiment)
        self.runs = list(self.client.search_runs([self.experiment.experiment_id], order_by=["start_time ASC"]))

    def run(self, name: str) -> Any:
        (run,) = [run for run in self.runs if run.info.run_name == name]
        return run

    def history(self, name: str, metric: str) -> list[tuple[int, float]]:
        run_id = self.run(name).info.run_id
        return [(point.step, point.value) for point in self.client.get_metric_history(run_id, metric)]

    def artifact(self, name: str, filename: str, folder: Path) -> bytes:
        folder.mkdir(exist_ok=True)
        return Path(self.client.download_artifacts(self.run(name).info.run_id, filename, str(folder))).read_bytes()


def seen(storage: Storage) -> Seen:
    return Seen(default_uri(storage))
