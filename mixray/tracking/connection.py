"""Where MLflow is, how a person opens it, and how its client is called.

Without ``tracking.uri`` the records go to ``mlflow.db``, a SQLite database in the storage folder, and files to
``mlflow-artifacts`` beside it. A database cannot live in object storage, and MLflow's object storage clients are not
among mixray's dependencies, so for object storage both are in ``./mixray-runs`` of the machine that drives the run. On
a cluster that folder is lost with the machine: set ``tracking.uri`` to the address of an MLflow server there.
"""

from __future__ import annotations

import fcntl
import http.client
import logging
import os
import shlex
import sqlite3
import ssl
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mixray.errors import InputError, first_line, without_credentials
from mixray.store import Storage

SERVERS = ("http", "https")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
DATABASE, FILES = "mlflow.db", "mlflow-artifacts"
ADDRESSES = (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"))
"""The tables and columns of MLflow's database that hold addresses of files."""
LOCAL_FOLDER = "mixray-runs"
LOCAL_SERVER = "http://127.0.0.1:5000"
"""Where `mlflow ui` serves its pages by default."""

PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""MLflow's settings while mixray calls it. A variable that the user has set is left as it is."""

UNAUTHORIZED = 401
NO_ENTRY = (
    "401: the user's name or password is missing or wrong; set MLFLOW_TRACKING_USERNAME and "
    "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
)
TEMPORARY_REFUSALS = (UNAUTHORIZED, 403, 408, 429)
"""HTTP codes below 500 that a person or time can lift: the record may be published later."""


SECONDS_TO_ANSWER = 10.0
"""How long a server may take to answer before a run starts without it."""


class Unreachable(Exception):
    """MLflow cannot be written to for now. The same records may be published later."""


class Refused(Exception):
    """MLflow will never take this record."""


# ----------------------------------------------------------------------------------------------------------- address


def default_uri(storage: Storage) -> str:
    """Return ``sqlite:///`` and the absolute path of ``mlflow.db``."""
    return f"sqlite:///{_home(storage) / DATABASE}"


def artifact_location(storage: Storage) -> str:
    """Return the ``file://`` URI of the folder where a database's experiments keep their files."""
    return (_home(storage) / FILES).as_uri()


def follow_storage(storage: Storage) -> str | None:
    """Where the storage folder has been copied or moved, make its database name the files that lie beside it.

    MLflow writes absolute addresses of files into its database. Return the folder that the storage was before, or None
    where the database names this one already, or is used by nobody yet. Addresses of runs without files here are those
    of another storage that uses this database, and stay.
    """
    database, home, files = _home(storage) / DATABASE, artifact_location(storage), _home(storage) / FILES
    if not database.exists():
        return None
    with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(database, timeout=SECONDS_TO_ANSWER)) as connection:
        locations = {location for (location,) in connection.execute("SELECT artifact_location FROM experiments")}
        runs = [uri.rsplit("/", 2) for (uri,) in connection.execute("SELECT artifact_uri FROM runs") if uri]
        moved = {location for location, run, _ in runs if (files / run).is_dir()}  # <location>/<run>/artifacts
        others = sorted(
            location for location in locations & moved if location.endswith(f"/{FILES}") and location != home
        )
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for other in others:
            for table, column in ADDRESSES:
                if table in names:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                        (home, len(other) + 1, other, len(other) + 1, f"{other}/"),
                    )
        connection.commit()
        if others:
            return url2pathname(urlsplit(others[0]).path).removesuffix(f"/{FILES}")
    return None


def resolve_uri(uri: str | None, storage: Storage) -> str:
    """Return the address to use. Raises InputError for one that MLflow 3 cannot write to."""
    if uri is None:
        return default_uri(storage)
    scheme, separator, rest = uri.partition("://")
    if not separator or not rest or scheme.partition("+")[0] not in (*SERVERS, *DATABASES):
        raise InputError(
            "this is not a valid address for MLflow",
            where="tracking.uri",
            got=uri,
            wanted=f"an address that starts with one of {', '.join(f'{name}://' for name in (*SERVERS, *DATABASES))}",
            remedy="leave tracking.uri out to use a database in the storage folder",
        )
    return uri


def is_server(uri: str) -> bool:
    """Return whether the address is that of an MLflow server, which keeps files itself."""
    return uri.partition("://")[0] in SERVERS


def sqlite_path(uri: str) -> Path | None:
    """Return the database file of a SQLite address, None for every other address."""
    scheme, _, rest = uri.partition(":///")
    return Path(rest.partition("?")[0]) if scheme.partition("+")[0] == "sqlite" and rest else None


def view_command(uri: str, page: str = "") -> str:
    """Return what a person pastes to see the records: a web address, and for a database first a shell command.

    ``page``: the part of a server's address behind ``#``.
    """
    if is_server(uri):
        return f"{uri.rstrip('/')}/#{page}" if page else uri
    command = shlex.join(["mlflow", "ui", "--backend-store-uri", uri])
    return f"{command}\nand then at {LOCAL_SERVER}/#{page}" if page else command


def _home(storage: Storage) -> Path:
    return Path(storage.full("")) if storage.is_local else Path(LOCAL_FOLDER).absolute()


# ------------------------------------------------------------------------------------------------------------ client


def open_client(uri: str) -> Any:
    """Return a connected MlflowClient."""
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # its errors reach us as exceptions
    database = sqlite_path(uri)
    if database is None:
        return MlflowClient(tracking_uri=uri)
    database.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that set up a new SQLite database at once spoil it.
    with database.with_name(f"{database.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return MlflowClient(tracking_uri=uri)


def require_answer(uri: str) -> None:
    """Raise Unreachable where no server answers within SECONDS_TO_ANSWER. Databases are not tried.

    MLflow's own client is heavy to import, and repeats a request before it gives up.
    """
    if not is_server(uri):
        return
    try:
        address = without_credentials(uri.rstrip("/"))
        with urllib.request.urlopen(f"{address}/health", timeout=SECONDS_TO_ANSWER):
            pass
    except urllib.error.HTTPError as error:
        error.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        # A status, or a certificate that this process does not trust, is an answer: MLflow's client judges it.
        if not isinstance(getattr(error, "reason", None), ssl.SSLError):
            raise Unreachable(first_line(error)) from error


@contextmanager
def sorted_errors() -> Iterator[None]:
    """Turn MLflow's errors into Unreachable where trying later may help, and into Refused where it cannot."""
    try:
        yield
    except _client_errors() as error:
        code = getattr(error, "get_http_status_code", lambda: 503)()
        lasting = isinstance(error, ImportError) or (code < 500 and code not in TEMPORARY_REFUSALS)
        raise (Refused if lasting else Unreachable)(NO_ENTRY if code == UNAUTHORIZED else f"{error}") from error


def _client_errors() -> tuple[type[Exception], ...]:
    """Return the classes of error that MLflow, its database and the artifact clients in use raise."""
    clients = {
        "mlflow.exceptions": ["MlflowException"],
        "sqlalchemy.exc": ["SQLAlchemyError"],
        "alembic.util": ["CommandError"],
        "boto3.exceptions": ["Boto3Error"],
        "botocore.exceptions": ["BotoCoreError", "ClientError"],
        "google.api_core.exceptions": ["GoogleAPIError"],
        "azure.core.exceptions": ["AzureError"],
    }
    loaded = [
        getattr(sys.modules[module], name) for module in clients if module in sys.modules for name in clients[module]
    ]
    return (OSError, ImportError, *loaded)


@contextmanager
def patience() -> Iterator[None]:
    """Hold PATIENCE in the environment, the only place where MLflow looks, while the block runs.

    The HTTP client's log lines about retries in this thread are dropped meanwhile: their outcome is an exception.
    """
    added = {name: value for name, value in PATIENCE.items() if name not in os.environ}
    http_log, this_thread = logging.getLogger("urllib3.connectionpool"), threading.get_ident()

    def is_from_another_thread(record: logging.LogRecord) -> bool:
        return record.thread != this_thread

    os.environ.update(added)
    http_log.addFilter(is_from_another_thread)
    try:
        yield
    finally:
        http_log.removeFilter(is_from_another_thread)
        for name in added:
            os.environ.pop(name, None)


def short_reason(error: BaseException) -> str:
    """Return an error's first line, or its two ends where it is long: HTTP clients put the cause last."""
    line = first_line(error)
    return line if len(line) <= 200 else f"{line[:60]} ... {line[-130:]}"
