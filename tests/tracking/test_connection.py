import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from pyarrow import fs as pafs

from mixray.errors import InputError
from mixray.store import Storage
from mixray.tracking import default_uri, view_command
from mixray.tracking.connection import artifact_location, follow_storage, resolve_uri, sqlite_path


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


def test_a_database_that_was_moved_names_the_files_beside_it_and_no_others(tmp_path: Path) -> None:
    """Of a version of MLflow without logged models; the experiment Default has its files elsewhere, and so has another
    storage, whose ``tracking.uri`` is this database."""
    before, after, neighbour = tmp_path / "before", tmp_path / "after", tmp_path / "neighbour" / "mlflow-artifacts"
    (before / "mlflow-artifacts" / "1").mkdir(parents=True)
    (neighbour / "7").mkdir(parents=True)
    files, others = (before / "mlflow-artifacts").as_uri(), neighbour.as_uri()
    with closing(sqlite3.connect(before / "mlflow.db")) as database:
        database.execute("CREATE TABLE experiments (artifact_location TEXT)")
        database.execute("CREATE TABLE runs (artifact_uri TEXT)")
        rows = [(files,), (f"file://{tmp_path}/mlruns/0",), (None,), (others,)]
        database.executemany("INSERT INTO experiments VALUES (?)", rows)
        runs = [(f"{files}/1/artifacts",), (f"{files}-2/1/artifacts",), (f"{others}/7/artifacts",)]
        database.executemany("INSERT INTO runs VALUES (?)", runs)
        database.commit()
    assert follow_storage(Storage(str(before))) is None
    before.rename(after)
    assert follow_storage(Storage(str(after))) == str(before)
    assert follow_storage(Storage(str(after))) is None
    moved = (after / "mlflow-artifacts").as_uri()
    with closing(sqlite3.connect(after / "mlflow.db")) as database:
        assert database.execute("SELECT * FROM experiments").fetchall() == [(moved,), *rows[1:]]
        assert database.execute("SELECT * FROM runs").fetchall() == [(f"{moved}/1/artifacts",), *runs[1:]]


@pytest.mark.parametrize("content", [None, b"", b"no database at all" * 100])
def test_a_storage_without_a_database_that_can_be_read_has_not_moved(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "mlflow.db").write_bytes(content)
    assert follow_storage(Storage(str(tmp_path))) is None
