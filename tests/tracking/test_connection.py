import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow import fs as pafs

from mixray.errors import InputError
from mixray.store import Storage
from mixray.tracking import default_uri, view_command
from mixray.tracking.connection import artifact_location, resolve_uri, sqlite_path


def test_the_default_is_a_database_in_the_storage_folder(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "my runs"))
    assert resolve_uri(None, storage) == default_uri(storage) == f"sqlite:///{tmp_path}/my runs/mlflow.db"
    assert sqlite_path(default_uri(storage)) == tmp_path / "my runs" / "mlflow.db"
    assert artifact_location(storage) == f"file://{tmp_path}/my%20runs/mlflow-artifacts"


def test_a_relative_storage_has_an_absolute_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_uri(Storage("./mixray-runs")) == f"sqlite:///{tmp_path}/mixray-runs/mlflow.db"


def test_object_storage_has_its_database_on_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = Storage("mock:///bucket/prefix")
    assert not isinstance(storage.filesystem, pafs.LocalFileSystem)
    assert default_uri(storage) == f"sqlite:///{tmp_path}/mixray-runs/mlflow.db"
    assert artifact_location(storage) == f"file://{tmp_path}/mixray-runs/mlflow-artifacts"


@pytest.mark.parametrize("uri", ["http://tracking:5000", "https://t.example/mlflow", "postgresql+psycopg2://u:p@h/db"])
def test_addresses_of_servers_and_databases_are_taken(uri: str, storage: Storage) -> None:
    assert resolve_uri(uri, storage) == uri


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns", "localhost:5000", "ftp://host/x", "http://", ""])
def test_other_addresses_are_refused(uri: str, storage: Storage) -> None:
    with pytest.raises(InputError, match=r"(?s)not a valid address for MLflow.*tracking\.uri.*wanted: .*http://"):
        resolve_uri(uri, storage)


def test_the_command_for_a_database_is_quoted_for_the_shell() -> None:
    command = view_command("sqlite:////tmp/my runs/mlflow.db")
    assert command == "mlflow ui --backend-store-uri 'sqlite:////tmp/my runs/mlflow.db'"
    assert view_command("sqlite:////tmp/mlflow.db", "/experiments/1").splitlines() == [
        "mlflow ui --backend-store-uri sqlite:////tmp/mlflow.db",
        "and then at http://127.0.0.1:5000/#/experiments/1",
    ]


def test_a_server_is_opened_at_the_page_of_the_run() -> None:
    page = "/experiments/1/runs/ab"
    assert view_command("http://tracking:5000/", page) == "http://tracking:5000/#/experiments/1/runs/ab"
    assert view_command("http://tracking:5000") == "http://tracking:5000"


def test_importing_tracking_and_report_is_cheap() -> None:
    code = (
        "import sys, mixray.tracking, mixray.report; print({'mlflow', 'matplotlib', 'torch', 'ray'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"
