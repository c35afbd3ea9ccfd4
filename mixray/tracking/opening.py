"""From a run file to its tracker: the address, the experiment, the runs and what earlier commands left undelivered."""

from __future__ import annotations

from collections.abc import Callable

from mixray.config.section import RunFile
from mixray.store import Storage
from mixray.tracking.address import artifact_location, is_server, resolve_uri
from mixray.tracking.delivery import MlflowTracker, Warn, reason, send_spool
from mixray.tracking.mlflow_sink import MlflowSink
from mixray.tracking.sink import Sink, Unreachable
from mixray.tracking.spool import Spool


def open_tracker(config: RunFile, storage: Storage, run_folder: str, warn: Warn) -> MlflowTracker:
    """The tracker of a run. ``run_folder`` is relative to the storage root, e.g. ``runs/quickstart-1a2b3c4d``.

    Imports nothing heavy and does not wait. Raises InputError where ``tracking.uri`` is no address for MLflow.
    """
    connect, uri = _connector(config, storage, run_folder, warn)
    return MlflowTracker(connect, Spool(storage, run_folder), uri, warn)


def replay(config: RunFile, storage: Storage, run_folder: str, warn: Warn) -> int:
    """Deliver what earlier commands could not; the number of records. Costs one listing where there are none."""
    spool = Spool(storage, run_folder)
    if not spool.segments():
        return 0
    connect, uri = _connector(config, storage, run_folder, warn)
    try:
        return send_spool(spool, connect(), warn)
    except Unreachable as error:
        warn(f"MLflow at {uri} cannot be reached ({reason(error)}); records stay in {spool.location()}")
        return 0


def _connector(config: RunFile, storage: Storage, run_folder: str, warn: Warn) -> tuple[Callable[[], Sink], str]:
    uri = resolve_uri(config.tracking.uri, storage)
    location = None if is_server(uri) else artifact_location(storage)
    experiment, run_name = config.tracking.experiment or config.name, run_folder.rpartition("/")[2]
    return lambda: MlflowSink(uri, experiment, run_name, location, warn), uri
