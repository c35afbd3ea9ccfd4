"""Where the records go: the default address, what is refused, and how a person opens it.

Without an address the records go to ``mlflow.db``, a SQLite database in the storage folder, figures beside it in
``mlflow-artifacts``. A database cannot live in object storage, and MLflow's own object storage clients are not among
mixray's dependencies, so for object storage both are in ``./mixray-runs`` of the machine that drives the run. On a
cluster that folder goes with the machine: give ``tracking.uri`` the address of an MLflow server there.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from mixray.errors import InputError
from mixray.store import Storage

SERVERS = ("http", "https")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
LOCAL_FOLDER = "mixray-runs"


def default_uri(storage: Storage) -> str:
    """``sqlite:///`` and the absolute path of ``mlflow.db``."""
    return f"sqlite:///{_home(storage) / 'mlflow.db'}"


def artifact_location(storage: Storage) -> str:
    """Where a database's experiments keep their files, as a ``file://`` URI. A server has its own place."""
    return (_home(storage) / "mlflow-artifacts").as_uri()


def resolve_uri(uri: str | None, storage: Storage) -> str:
    """The address to use. Raises InputError for one that MLflow 3 cannot write to."""
    if uri is None:
        return default_uri(storage)
    scheme, separator, rest = uri.partition("://")
    if not separator or not rest or scheme.partition("+")[0] not in (*SERVERS, *DATABASES):
        raise InputError(
            "the MLflow address is not one that mixray can write to",
            where="tracking.uri",
            got=uri,
            wanted=f"an address that starts with one of {', '.join(f'{name}://' for name in (*SERVERS, *DATABASES))}",
            remedy="leave tracking.uri out to use a database in the storage folder",
        )
    return uri


def is_server(uri: str) -> bool:
    return uri.partition("://")[0] in SERVERS


def sqlite_path(uri: str) -> Path | None:
    """The database file of a SQLite address; None for every other address."""
    scheme, _, rest = uri.partition(":///")
    return Path(rest.partition("?")[0]) if scheme.partition("+")[0] == "sqlite" and rest else None


def view_command(uri: str, page: str = "") -> str:
    """What a person pastes to see the records: a shell command for a database, for a server the address of its page.

    ``page`` is the part of a server's address behind ``#``.
    """
    if is_server(uri):
        return f"{uri.rstrip('/')}/#{page}" if page else uri
    return shlex.join(["mlflow", "ui", "--backend-store-uri", uri])


def _home(storage: Storage) -> Path:
    return Path(storage.full("")) if storage.is_local else Path(LOCAL_FOLDER).absolute()
