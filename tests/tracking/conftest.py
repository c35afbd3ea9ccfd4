"""A migrated MLflow database, made once and copied for every test; MLflow's own view of what was written."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mixray.config import RunConfig
from mixray.store import Storage
from mixray.tracking.address import artifact_location, default_uri
from mixray.tracking.mlflow_sink import MlflowSink


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


@pytest.fixture
def make_config() -> Callable[..., RunConfig]:
    """A run file's content, with its section ``tracking``."""

    def make(**tracking: str) -> RunConfig:
        sections: dict[str, Any] = {
            "tokenizer": {"train": {}},
            "sources": {"python": {"files": "*.py"}},
            "targets": {"sklearn": {"files": "*.txt"}},
            "proxy": {"model": {"architecture": "gpt_neox"}, "tokens": 1000},
            "retrain": {"model": {"architecture": "gpt_neox"}, "tokens": 1000},
        }
        return RunConfig.model_validate({"name": "quickstart", "window": 8, **sections, "tracking": tracking})

    return make


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


@pytest.fixture
def open_sink(tracked_storage: Storage) -> Callable[..., MlflowSink]:
    """A sink on the storage's database, as a new process would open it."""

    def open_one(run_name: str = "quickstart-1a2b3c4d", warn: Callable[[str], None] = pytest.fail) -> MlflowSink:
        uri, place = default_uri(tracked_storage), artifact_location(tracked_storage)
        return MlflowSink(uri, "quickstart", run_name, place, warn)

    return open_one


@pytest.fixture
def look(storage: Storage) -> Callable[..., Seen]:
    """MLflow's view, of the storage's database by default."""
    return lambda uri=None: Seen(uri or default_uri(storage))
