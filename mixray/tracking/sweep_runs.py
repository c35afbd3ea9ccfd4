"""A sweep in MLflow: a run that holds its table and figures, above the runs of its combinations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mixray.config import RunFile
from mixray.store import Storage, fingerprint
from mixray.store.index import now_ms
from mixray.tracking.connection import Unreachable, short_reason
from mixray.tracking.mlflow_runs import MlflowRuns
from mixray.tracking.records import TrackedRun
from mixray.tracking.run_tracking import destination_of


def publish_sweep(
    config: RunFile,
    storage: Storage,
    folder: str,
    run_names: Sequence[str],
    files: Mapping[str, bytes],
    warn: Callable[[str], None],
) -> None:
    """Publish a sweep and put its runs below it. Where MLflow cannot be reached, ``warn`` is told.

    ``folder``: the sweep's, relative to the storage root; ``run_names``: the names of its runs' folders.
    """
    destination = destination_of(config, storage, folder)
    now = now_ms()
    record = TrackedRun(
        "",
        tags={"role": "sweep"},
        files=files,
        status="FINISHED",
        started=now,
        ended=now,
        data=fingerprint([folder])[:16],
    )
    try:
        runs = MlflowRuns(destination, warn)
        runs.publish([record])
        runs.adopt(record.data, run_names)
    except (Unreachable, OSError) as error:
        reason = short_reason(error)
        warn(f"MLflow at {destination.uri} cannot be reached ({reason}); the same mixray sweep publishes it later")
