"""MLflow's client and its ways: how long it tries, what its errors mean, how a new database is opened."""

from __future__ import annotations

import fcntl
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mixray.tracking.address import sqlite_path
from mixray.tracking.sink import Unreachable

PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""How MLflow behaves while mixray calls it, where the user's environment says nothing else."""

ANSWER_LATER = (401, 403, 408, 429)
"""Refusals below 500 that a person or time can lift: the records are kept."""


class Refused(Exception):
    """MLflow will never take this record."""


@contextmanager
def outages() -> Iterator[None]:
    """Sort MLflow's errors: Unreachable for what may pass, Refused for what will not."""
    try:
        yield
    except _errors() as error:
        code = getattr(error, "get_http_status_code", lambda: 503)()
        lasting = isinstance(error, ImportError) or (code < 500 and code not in ANSWER_LATER)
        raise (Refused if lasting else Unreachable)(f"{error}") from error


def _errors() -> tuple[type[Exception], ...]:
    """What talking to MLflow raises: its own errors, its database's and those of the artifact clients in use."""
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
    """PATIENCE in the environment, the only place where MLflow looks, for as long as the block lasts.

    The HTTP client's remarks about retries in this thread are held back for as long: their outcome reaches us.
    """
    added = {name: value for name, value in PATIENCE.items() if name not in os.environ}
    remarks, mine = logging.getLogger("urllib3.connectionpool"), threading.get_ident()

    def from_elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != mine

    os.environ.update(added)
    remarks.addFilter(from_elsewhere)
    try:
        yield
    finally:
        remarks.removeFilter(from_elsewhere)
        for name in added:
            os.environ.pop(name, None)


def open_client(uri: str) -> Any:
    """A connected MlflowClient. A new SQLite database is set up by one process at a time: two at once spoil it."""
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # its errors reach us as exceptions
    database = sqlite_path(uri)
    if database is None:
        return MlflowClient(tracking_uri=uri)
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(f"{database.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return MlflowClient(tracking_uri=uri)
