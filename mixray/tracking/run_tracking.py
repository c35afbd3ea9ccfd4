"""A run folder and its MLflow runs: published at the end of every stage, at the run's end, or by a later command."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from mixray.config import RunFile
from mixray.errors import InputError, canonical_uris
from mixray.mixture import Mixture
from mixray.store import Artifact, RunIndex, Status, Storage, fingerprint
from mixray.tracking.connection import (
    Unreachable,
    artifact_location,
    follow_storage,
    is_server,
    resolve_uri,
    short_reason,
)
from mixray.tracking.mlflow_runs import Destination, MlflowRuns
from mixray.tracking.projection import RunContents, records_of_run, training_points
from mixray.tracking.records import TrackedRun
from mixray.tracking.system_metrics import SystemMetrics, require_monitors
from mixray.tracking.tracker import Tracker

SUMMARY_FILE, RESULTS_FILE = "summary.md", "results.json"
DATA_KEYS = ("source/", "target/", "rows/")
"""How the keys of prepared data begin in the index of a run."""


class RunTracking:
    """Publishes a run while it works. Entering it waits for MLflow's server for at most 10 seconds, and imports nothing
    heavy.

    Raises InputError where ``tracking.uri`` is not a valid address, or where what ``tracking.system_metrics`` needs is
    missing. ``run_folder``: relative to the storage root.
    """

    def __init__(
        self, config: RunFile, storage: Storage, run_folder: str, index: RunIndex, warn: Callable[[str], None]
    ) -> None:
        if config.tracking.system_metrics:
            require_monitors()
        self._config, self._storage, self._folder, self._index = config, storage, run_folder, index
        self._warn = warn
        self._tracker = Tracker(destination_of(config, storage, run_folder), warn)
        self._live_keys: set[str] = set()
        self._system_metrics: SystemMetrics | None = None

    def __enter__(self) -> Self:
        follow(self._config, self._storage, self._folder, self._index)
        self._index.begin()
        self._tracker.require_answer()
        return self  # nothing is published before the data is known: other data makes other MLflow runs

    def publish(self) -> None:
        """Publish what the run folder holds so far. Does not wait."""
        self._tracker.send(self._records())
        if self._config.tracking.system_metrics and self._system_metrics is None:
            data = data_identity(self._storage, self._folder, self._index)
            self._system_metrics = SystemMetrics(
                lambda points: self._tracker.send([TrackedRun("", points=points, data=data)], soon=False),
                self._warn,
                self._index.started,
            )

    def publish_training(self, key: str, record: Any) -> None:
        """Publish a training record of ``proxy/python`` or ``arm/mixmin-zoo`` while it trains. Does not wait.

        A record that is lost is published with the finished model.
        """
        self._live_keys.add(key)
        data = data_identity(self._storage, self._folder, self._index)
        pools = self._index.artifact_ids.items()
        targets = {pool.removeprefix("target/"): id for pool, (_, id) in pools if pool.startswith("target/")}
        points = training_points(record, targets)
        self._tracker.send([TrackedRun(key, points=points, data=data, started=record.time)], soon=False)

    def view_command(self) -> str:
        """Return what a person pastes to see the run in MLflow."""
        return self._tracker.view_command()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the run in MLflow as FINISHED, as FAILED after an error or as KILLED after an interrupt."""
        if self._system_metrics is not None:
            self._system_metrics.close()
        status: Status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        self._index.end(status, is_published=False)
        records = self._records()
        unfinished = self._live_keys - {record.key for record in records}
        records += [TrackedRun(key, status=status, data=records[0].data) for key in sorted(unfinished)]
        if self._tracker.close(records, is_hurried=status == "KILLED"):
            self._index.end(status, is_published=True)

    def _records(self) -> list[TrackedRun]:
        return stored_records(self._config, self._storage, self._folder, self._index)


def publish_folder(config: RunFile, storage: Storage, run_folder: str, warn: Callable[[str], None]) -> None:
    """Publish what MLflow lacks of a stored run, and wait for the end. Costs one small file where it lacks nothing.

    Where MLflow cannot be reached, ``warn`` is told why and how to try again.
    """
    index = RunIndex.open(storage, run_folder)
    has_moved = follow(config, storage, run_folder, index)
    if (index.is_published and not has_moved) or not index.artifact_ids:
        return
    destination = destination_of(config, storage, run_folder)
    try:
        MlflowRuns(destination, warn).publish(stored_records(config, storage, run_folder, index))
    except (Unreachable, OSError) as error:
        warn(f"MLflow at {destination.uri} cannot be reached ({short_reason(error)}); {destination.remedy}")
        return
    if index.status != "RUNNING":  # otherwise the index may be that of a run that is working, which writes it itself
        index.end(index.status, is_published=True)


def follow(config: RunFile, storage: Storage, run_folder: str, index: RunIndex) -> bool:
    """Let MLflow's database in the storage, if that is the run's, name the files where they lie now, and the run keep
    its identity there. Return whether the run's folder is elsewhere than when it was published."""
    before = follow_storage(storage) if config.tracking.uri is None else None
    here = canonical_uris(storage.location(run_folder))
    index.home = index.home or (f"{before}/{run_folder}" if before is not None and storage.is_local else here)
    has_moved = index.place not in (None, here) or before is not None
    index.place = here
    return has_moved


def stored_records(config: RunFile, storage: Storage, run_folder: str, index: RunIndex) -> list[TrackedRun]:
    """Return what MLflow should hold of a run, from its run folder and its artifacts."""
    mixtures = {}
    for name, text in _files(storage, f"{run_folder}/mixtures", ".json").items():
        with suppress(InputError, UnicodeDecodeError):  # a damaged file is written anew by the next run
            mixtures[name.removesuffix(".json")] = Mixture.from_json(text.decode())
    report = _files(storage, f"{run_folder}/report", "")
    models = index.artifacts("proxy", "arm")
    contents = RunContents(
        location=storage.location(run_folder),
        pools={key: (artifact.id, index.counts[key]) for key, artifact in index.artifacts("source", "target").items()},
        models=models,
        model_places={key: _place(storage, model) for key, model in models.items() if model.files},
        mixtures=mixtures,
        figures={name: data for name, data in report.items() if name.endswith(".png")},
        summary=report.get(SUMMARY_FILE, b"").decode(),
        results=_files(storage, run_folder, RESULTS_FILE).get(RESULTS_FILE),
    )
    data = data_identity(storage, run_folder, index)
    run, *children = [replace(record, data=data) for record in records_of_run(config, contents)]
    return [replace(run, status=index.status, started=index.started, ended=index.ended), *children]


def data_identity(storage: Storage, run_folder: str, index: RunIndex) -> str:
    """Return 16 hex digits for a run folder, by its first place, and the prepared data that its index names."""
    data = sorted(key_and_id for key_and_id in index.artifact_ids.items() if key_and_id[0].startswith(DATA_KEYS))
    return fingerprint([index.home or canonical_uris(storage.location(run_folder)), data])[:16]


def destination_of(config: RunFile, storage: Storage, run_folder: str) -> Destination:
    """Return where a run's records go. Raises InputError where ``tracking.uri`` is not a valid address."""
    uri = resolve_uri(config.tracking.uri, storage)
    return Destination(
        uri,
        config.tracking.experiment or config.name,
        run_folder.rpartition("/")[2],
        None if is_server(uri) else artifact_location(storage),
        remedy=f"`mixray show {storage.location(run_folder)}` publishes the run once MLflow answers",
    )


def _place(storage: Storage, model: Artifact) -> str:
    """Return the folder of a model's files, as a path or URI."""
    return storage.location(next(iter(model.files.values())).path.rpartition("/")[0])


def _files(storage: Storage, folder: str, ending: str) -> dict[str, bytes]:
    """Return the files in a folder whose names end like this: name -> content."""
    return {name: storage.read(f"{folder}/{name}") for name in storage.list(folder) if name.endswith(ending)}
