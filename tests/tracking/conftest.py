"""A migrated MLflow database, created once and copied for every test; MLflow's own view of what was written."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mixray.config import RunConfig
from mixray.store import Storage
from mixray.tracking.connection import artifact_location, default_uri
from mixray.tracking.mlflow_runs import Destination, MlflowRuns


@pytest.fixture(scope="session", autouse=True)
def _quiet_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    MlflowRuns(Destination(f"sqlite:///{path}", "template", "none", None, ""), warn=pytest.fail)
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


@pytest.fixture
def make_config() -> Callable[..., RunConfig]:
    """A run file's content, with its section ``tracking``."""

    def make(**tracking: str | bool) -> RunConfig:
        sections: dict[str, Any] = {
            "tokenizer": {"train": {}},
            "sources": {"python": {"files": "*.py"}},
            "targets": {"sklearn": {"files": "*.txt"}},
            "proxy": {"model": {"architecture": "gpt_neox"}, "tokens": 1000},
            "retrain": {"model": {"architecture": "gpt_neox"}, "tokens": 1000},
        }
        return RunConfig.model_validate({"name": "quickstart", "window": 8, **sections, "tracking": tracking})

    return make


class View:
    """What MLflow holds, read through its own client."""

    def __init__(self, uri: str, experiment: str = "quickstart") -> None:
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(uri)
        self.experiment = self.client.get_experiment_by_name(experiment)
        # Before the first run is published there is no experiment.
        experiments = [] if self.experiment is None else [self.experiment.experiment_id]
        self.runs = list(self.client.search_runs(experiments, order_by=["start_time ASC"])) if experiments else []

    def run(self, name: str) -> Any:
        (run,) = [run for run in self.runs if run.info.run_name == name]
        return run

    def points(self, name: str, metric: str) -> list[Any]:
        """Return every stored value of a metric, steps rising."""
        points = self.client.get_metric_history(self.run(name).info.run_id, metric)
        return sorted(points, key=lambda point: point.step)

    def history(self, name: str, metric: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.points(name, metric)]

    def file(self, name: str, path: str, folder: Path) -> bytes:
        folder.mkdir(exist_ok=True)
        return Path(self.client.download_artifacts(self.run(name).info.run_id, path, str(folder))).read_bytes()


@pytest.fixture
def destination(tracked_storage: Storage) -> Destination:
    """The storage's database."""
    uri, files = default_uri(tracked_storage), artifact_location(tracked_storage)
    return Destination(uri, "quickstart", "quickstart-1a2b3c4d", files, "`mixray show` publishes it later")


@pytest.fixture
def connect(destination: Destination) -> Callable[..., MlflowRuns]:
    """A connection to the storage's database, as a new process would open it."""
    return lambda run_name=destination.run_name, warn=pytest.fail: MlflowRuns(
        replace(destination, run_name=run_name), warn
    )


@pytest.fixture
def view(storage: Storage) -> Callable[..., View]:
    """MLflow's view, of the storage's database by default."""
    return lambda uri=None: View(uri or default_uri(storage))
