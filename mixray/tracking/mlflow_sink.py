"""Records as MLflow runs. mlflow is imported when the sink connects, not before.

A run key is an MLflow run, found again by the tags ``mixray.run`` and ``mixray.key`` or else created; the empty key is
the parent of the others. What a run already holds is read once, and only what is new is written: a parameter once and
never with another value, a metric only at steps beyond its last one, a figure only when its bytes have changed, a
status only when it differs. Telling everything again, after a crash or from the cache, costs and changes nothing.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixray.tracking.mlflow_client import Refused, open_client, outages, patience
from mixray.tracking.records import Artifact, Dataset, Finish, Metrics, Point, Record, Start, now
from mixray.tracking.sink import Unreachable

RUN_TAG, KEY_TAG, ARTIFACTS_TAG = "mixray.run", "mixray.key", "mixray.artifacts"
METRICS_PER_BATCH, PARAMS_PER_BATCH, PARAM_CHARS, DIGEST_CHARS = 1000, 100, 6000, 36  # MLflow's limits


@dataclass
class _Run:
    """An MLflow run and what it is known to hold. ``last_step``: None for a metric whose history is not read yet."""

    id: str
    status: str
    params: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)
    last_step: dict[str, int | None] = field(default_factory=dict)
    datasets: set[tuple[str, str]] = field(default_factory=set)
    artifacts: dict[str, str] = field(default_factory=dict)


class MlflowSink:
    """The runs of one run folder in one experiment. Connects on creation; raises Unreachable where that fails.

    ``run_name`` is the run folder's name. ``warn`` is called with what MLflow refused for good, once for each cause.
    """

    def __init__(
        self, uri: str, experiment: str, run_name: str, artifact_location: str | None, warn: Callable[[str], None]
    ) -> None:
        self._run_name, self._warn, self._refused = run_name, warn, set[str]()
        try:
            with patience(), outages():
                self._client = open_client(uri)
                self._experiment = self._find_experiment(experiment, artifact_location)
                self._runs = self._find_runs()
        except Refused as refusal:  # a server that is no MLflow, a missing driver: the user can mend it
            raise Unreachable(f"{refusal}") from refusal

    def page(self) -> str:
        parent = self._runs.get("")
        return f"/experiments/{self._experiment}/runs/{parent.id}" if parent else ""

    def send(self, records: Sequence[Record]) -> None:
        """Write the records, metrics gathered into batches by run; every run's records keep their order."""
        points: dict[str, list[Point]] = {}
        with patience():
            for record in records:
                if isinstance(record, Metrics):
                    points.setdefault(record.key, []).extend(record.points)
                else:
                    self._attempt(self._log_points, record.key, points.pop(record.key, []))
                    self._attempt(self._write, record)
            for key, rest in points.items():
                self._attempt(self._log_points, key, rest)

    def _attempt(self, write: Callable[..., None], *arguments: Any) -> None:
        """Refused records are reported and dropped: sent again they would be refused again, and block all others."""
        try:
            with outages():
                write(*arguments)
        except Refused as refusal:
            cause = str(refusal).partition("\n")[0][:300]
            if cause not in self._refused:
                self._refused.add(cause)
                self._warn(f"MLflow refused a record of {self._run_name}: {cause}")

    # ------------------------------------------------------------------------------------------------ one record

    def _write(self, record: Start | Artifact | Dataset | Finish) -> None:
        match record:
            case Start():
                self._start(record)
            case Artifact():
                self._log_artifact(record)
            case Dataset():
                self._log_dataset(record)
            case Finish():
                self._finish(record)

    def _start(self, record: Start) -> None:
        from mlflow.entities import Param, RunTag

        run = self._run(record.key, record.time)
        params = [Param(key, value[:PARAM_CHARS]) for key, value in record.params.items() if key not in run.params]
        tags = [RunTag(key, value) for key, value in record.tags.items() if run.tags.get(key) != value]
        if params or tags:
            self._reopen(run)
        for first in range(0, len(params), PARAMS_PER_BATCH):
            self._client.log_batch(run.id, params=params[first : first + PARAMS_PER_BATCH])
        for first in range(0, len(tags), PARAMS_PER_BATCH):
            self._client.log_batch(run.id, tags=tags[first : first + PARAMS_PER_BATCH])
        run.params.update(record.params)
        run.tags.update(record.tags)

    def _log_points(self, key: str, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        if not points:
            return
        run = self._run(key, points[0].time)
        new = [Metric(p.metric, p.value, p.time, p.step) for p in points if self._is_new(run, p)]
        if new:
            self._reopen(run)
        for first in range(0, len(new), METRICS_PER_BATCH):
            self._client.log_batch(run.id, metrics=new[first : first + METRICS_PER_BATCH])

    def _is_new(self, run: _Run, point: Point) -> bool:
        """Whether the step lies beyond the metric's last one, which it then becomes."""
        last = run.last_step.get(point.metric, -1)
        if last is None:
            last = max(metric.step for metric in self._client.get_metric_history(run.id, point.metric))
        run.last_step[point.metric] = max(last, point.step)
        return point.step > last

    def _log_artifact(self, record: Artifact) -> None:
        digest = hashlib.sha256(record.data).hexdigest()[:16]
        run = self._run(record.key, now())
        if run.artifacts.get(record.filename) == digest:
            return
        self._reopen(run)
        folder, _, name = record.filename.rpartition("/")
        with tempfile.TemporaryDirectory(prefix="mixray-") as aside:
            path = Path(aside) / name
            path.write_bytes(record.data)
            self._client.log_artifact(run.id, str(path), folder or None)
        run.artifacts[record.filename] = digest
        self._client.set_tag(run.id, ARTIFACTS_TAG, json.dumps(run.artifacts))

    def _log_dataset(self, record: Dataset) -> None:
        from mlflow.entities import Dataset as DatasetEntity
        from mlflow.entities import DatasetInput, InputTag

        run, digest = self._run(record.key, now()), record.digest[:DIGEST_CHARS]
        if (record.name, digest) in run.datasets:
            return
        self._reopen(run)
        kind, source = _dataset_source(record.source)
        profile = json.dumps({"sha256": record.digest, **record.profile})
        entity = DatasetEntity(record.name, digest, kind, json.dumps(source), profile=profile)
        self._client.log_inputs(run.id, [DatasetInput(entity, [InputTag("mlflow.data.context", record.context)])])
        run.datasets.add((record.name, digest))

    def _finish(self, record: Finish) -> None:
        run = self._run(record.key, record.time)
        if run.status != record.status:
            self._client.set_terminated(run.id, record.status, record.time)
            run.status = record.status

    # ------------------------------------------------------------------------------------------ runs, experiment

    def _run(self, key: str, start_time: int) -> _Run:
        """The MLflow run of a key, created where there is none; a child's parent first."""
        if key not in self._runs:
            tags = {RUN_TAG: self._run_name, KEY_TAG: key, "mlflow.user": _user()}
            if key:
                tags["mlflow.parentRunId"] = self._run("", start_time).id
            run = self._client.create_run(self._experiment, start_time, tags, run_name=key or self._run_name)
            self._runs[key] = _Run(run.info.run_id, run.info.status, tags=tags)
        return self._runs[key]

    def _reopen(self, run: _Run) -> None:
        """A run that had ended is running again once something new is written to it."""
        if run.status != "RUNNING":
            self._client.update_run(run.id, status="RUNNING")
            run.status = "RUNNING"

    def _find_experiment(self, name: str, artifact_location: str | None) -> str:
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return str(self._client.create_experiment(name, artifact_location))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = self._client.get_experiment_by_name(name)  # another run made it just now
        return str(experiment.experiment_id)

    def _find_runs(self) -> dict[str, _Run]:
        """All runs of this run folder by key; of two with one key (made in a race) the older."""
        runs: dict[str, _Run] = {}
        token = None
        while True:
            found = self._client.search_runs(
                [self._experiment],
                f"tags.`{RUN_TAG}` = '{self._run_name}'",
                order_by=["start_time ASC"],
                page_token=token,
            )
            for run in found:
                runs.setdefault(run.data.tags.get(KEY_TAG, ""), _known(run))
            token = found.token
            if not token:
                return runs


def _known(run: Any) -> _Run:
    tags = dict(run.data.tags)
    return _Run(
        run.info.run_id,
        run.info.status,
        params=set(run.data.params),
        tags=tags,
        last_step=dict.fromkeys(run.data.metrics),
        datasets={(entry.dataset.name, entry.dataset.digest) for entry in run.inputs.dataset_inputs},
        artifacts=json.loads(tags.get(ARTIFACTS_TAG, "{}")),
    )


def _dataset_source(uri: str) -> tuple[str, Mapping[str, str]]:
    """MLflow's source type and its description, which decides what the data set links to in the interface."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return "local", {"uri": uri}
    if scheme in ("http", "https"):
        return "http", {"url": uri}
    if scheme == "hf":
        return "hugging_face", {"path": rest}
    return scheme, {"uri": uri}


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without a user database
        return "unknown"
