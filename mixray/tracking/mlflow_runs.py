"""The MLflow runs of one run folder: read once, compared with what they should hold, and completed.

An MLflow run is recognised by the tags ``mixray.run``, ``mixray.data`` and ``mixray.key``. Only what is missing is
written: a parameter once and never with another value, a metric at the steps that it lacks, a file when its bytes have
changed, a status when it differs. So publishing the same run again changes nothing, and an interrupted publication can
be repeated.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixray.errors import first_line
from mixray.store.index import now_ms
from mixray.tracking.connection import Refused, Unreachable, open_client, patience, sorted_errors
from mixray.tracking.records import Point, TrackedDataset, TrackedModel, TrackedRun

RUN_TAG, DATA_TAG, KEY_TAG = "mixray.run", "mixray.data", "mixray.key"
PARENT_TAG, LOCATION_TAG = "mlflow.parentRunId", "location"
FILE_TAG = "mixray.file."
"""Begins the tag that holds the digest of a file; its path follows. Tags are short, so each file has its own."""
TABLES_TAG, KIND_TAG, TRAINING_KIND = "mlflow.loggedArtifacts", "mlflow.experimentKind", "custom_model_development"
"""Tags that MLflow's pages read: which files are tables, and which of its views an experiment opens in."""
TRAINING_VIEW = "workflowType=machine_learning"
"""In an address: MLflow shows its pages for training, not those for agents, which it opens by default."""
METRICS_PER_BATCH, PARAMS_PER_BATCH, PARAM_CHARS, DIGEST_CHARS = 1000, 100, 6000, 36  # MLflow's limits


@dataclass(frozen=True)
class Destination:
    """Where the records of one run go.

    ``run_name``: the run folder's name. ``artifact_location``: where a new experiment keeps its files; None leaves it
    to the server. ``remedy``: what the user can do where MLflow cannot be reached.
    """

    uri: str
    experiment: str
    run_name: str
    artifact_location: str | None
    remedy: str


@dataclass
class _StoredRun:
    """What an MLflow run holds. ``steps``: metric -> its steps; None for a metric whose history is not read yet.
    ``model``: the id of its logged model; ``model_location``: where that says that its files are, if it was read."""

    id: str
    status: str
    params: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)
    steps: dict[str, set[int] | None] = field(default_factory=dict)
    datasets: set[tuple[str, str]] = field(default_factory=set)
    files: dict[str, str] = field(default_factory=dict)
    model: str | None = None
    model_location: str | None = None


class MlflowRuns:
    """The MLflow runs of one run folder, in one experiment.

    ``warn``: called with what MLflow refuses for good, once for each cause. Connects when it is created and raises
    Unreachable where that fails.
    """

    def __init__(self, destination: Destination, warn: Callable[[str], None]) -> None:
        self._run_name, self._warn, self._refusals = destination.run_name, warn, set[str]()
        try:
            with patience(), sorted_errors():
                self._client = open_client(destination.uri)
                self._experiment = self._experiment_id(destination.experiment, destination.artifact_location)
                self._runs = self._stored_runs(self._run_name)
        except Refused as refusal:  # a server that is not MLflow, a missing driver: the user can mend it
            raise Unreachable(f"{refusal}") from refusal

    def page(self) -> str:
        """Return the run's own page, as the part of a server's address behind ``#``; empty before there is one."""
        parent = next((run for (key, _), run in reversed(self._runs.items()) if not key), None)
        return f"/experiments/{self._experiment}/runs/{parent.id}?{TRAINING_VIEW}" if parent else ""

    def publish(self, runs: Iterable[TrackedRun]) -> None:
        """Write what MLflow lacks of these runs. Raises Unreachable, after which a part may have been written."""
        with patience():
            for run in runs:
                self._publish(run)

    def adopt(self, data: str, run_names: Iterable[str]) -> None:
        """Put the runs of other run folders below this one's for ``data``. Raises Unreachable."""
        with patience():
            self._attempt(TrackedRun("", data=data), self._log_children, tuple(run_names))

    def _log_children(self, parent: _StoredRun, run_names: tuple[str, ...]) -> bool:
        children = [run for name in run_names for (key, _), run in self._stored_runs(name).items() if not key]
        new = [child for child in children if child.tags.get(PARENT_TAG) != parent.id]
        for child in new:
            self._client.set_tag(child.id, PARENT_TAG, parent.id)
        return bool(new)

    def _publish(self, run: TrackedRun) -> None:
        parts: list[tuple[Callable[[_StoredRun, Any], bool], Any]] = [
            (self._log_params, run.params),
            (self._log_tags, run.tags),
            (self._log_points, run.points),
            *((self._log_dataset, dataset) for dataset in run.datasets),
            *((self._log_file, file) for file in run.files.items()),
            (self._log_tables, run.tables),
            (self._log_model, run.model),
        ]
        has_changed = [self._attempt(run, log, content) for log, content in parts]
        # A run that has ended is running again only once something new is written to it.
        if run.status != "RUNNING" or any(has_changed):
            self._attempt(run, self._set_status, run)

    def _attempt(self, run: TrackedRun, log: Callable[[_StoredRun, Any], bool], content: Any) -> bool:
        """Return whether anything was written. What MLflow refuses is reported and dropped: it must not block the
        rest."""
        try:
            with sorted_errors():
                return log(self._stored_run(run.key, run.data, run.started), content)
        except Refused as refusal:
            cause = first_line(refusal)[:300]
            if cause not in self._refusals:
                self._refusals.add(cause)
                self._warn(f"MLflow refused a record of {self._run_name}: {cause}")
            return False

    # ------------------------------------------------------------------------------------------------ one kind each

    def _log_params(self, stored: _StoredRun, params: Mapping[str, str]) -> bool:
        from mlflow.entities import Param

        new = [Param(name, value[:PARAM_CHARS]) for name, value in params.items() if name not in stored.params]
        for first in range(0, len(new), PARAMS_PER_BATCH):
            self._client.log_batch(stored.id, params=new[first : first + PARAMS_PER_BATCH])
        stored.params.update(params)
        return bool(new)

    def _log_tags(self, stored: _StoredRun, tags: Mapping[str, str]) -> bool:
        from mlflow.entities import RunTag

        new = [RunTag(name, value) for name, value in tags.items() if stored.tags.get(name) != value]
        for first in range(0, len(new), PARAMS_PER_BATCH):
            self._client.log_batch(stored.id, tags=new[first : first + PARAMS_PER_BATCH])
        stored.tags.update(tags)
        return bool(new)

    def _log_points(self, stored: _StoredRun, points: Iterable[Point]) -> bool:
        from mlflow.entities import Metric

        now, new = now_ms(), dict[tuple[str, int], Metric]()
        for point in points:
            if point.step not in self._steps(stored, point.metric):
                moment = now if point.time is None else point.time
                new[point.metric, point.step] = Metric(point.metric, point.value, moment, point.step)
        metrics = list(new.values())
        for first in range(0, len(metrics), METRICS_PER_BATCH):
            batch = metrics[first : first + METRICS_PER_BATCH]
            self._client.log_batch(stored.id, metrics=batch)
            for metric in batch:
                self._steps(stored, metric.key).add(metric.step)
        return bool(metrics)

    def _steps(self, stored: _StoredRun, metric: str) -> set[int]:
        steps = stored.steps.setdefault(metric, set())
        if steps is None:
            steps = {value.step for value in self._client.get_metric_history(stored.id, metric)}
            stored.steps[metric] = steps
        return steps

    def _log_file(self, stored: _StoredRun, file: tuple[str, bytes]) -> bool:
        path, data = file
        digest = hashlib.sha256(data).hexdigest()[:16]
        if stored.files.get(path) == digest:
            return False
        folder, _, name = path.rpartition("/")
        with tempfile.TemporaryDirectory(prefix="mixray-") as aside:
            local = Path(aside) / name
            local.write_bytes(data)
            self._client.log_artifact(stored.id, str(local), folder or None)
        stored.files[path] = digest
        self._client.set_tag(stored.id, f"{FILE_TAG}{path}", digest)
        return True

    def _log_tables(self, stored: _StoredRun, paths: tuple[str, ...]) -> bool:
        """Mark files as tables, which MLflow's pages compare across runs."""
        tables = [{"path": path, "type": "table"} for path in paths]
        return bool(tables) and self._log_tags(stored, {TABLES_TAG: json.dumps(tables)})

    def _log_model(self, stored: _StoredRun, model: TrackedModel | None) -> bool:
        """List a model among the experiment's logged models. Its weights stay where they are."""
        from mlflow.entities import LoggedModelOutput

        if model is None:
            return False
        if stored.model is not None:
            return self._move_model(stored, model.location)
        tags = {RUN_TAG: self._run_name, LOCATION_TAG: model.location}
        # One that an interrupted publication has created, and not yet named as the run's, is taken.
        created = self._client.search_logged_models(
            [self._experiment], f"source_run_id = '{stored.id}' AND name = '{model.name}'", max_results=1
        )
        logged = (
            created[0]
            if created
            else self._client.create_logged_model(self._experiment, model.name, stored.id, tags, model_type="mixray")
        )
        self._client.finalize_logged_model(logged.model_id, "READY")
        self._client.log_outputs(stored.id, [LoggedModelOutput(logged.model_id, 0)])
        stored.model, stored.model_location = logged.model_id, model.location
        return True

    def _move_model(self, stored: _StoredRun, location: str) -> bool:
        """Tell a logged model where its files are now; return False, because the run's own record stays as it is."""
        if stored.model_location is None:
            stored.model_location = self._client.get_logged_model(stored.model).tags.get(LOCATION_TAG)
        if stored.model_location != location:
            self._client.set_logged_model_tags(stored.model, {LOCATION_TAG: location})
            stored.model_location = location
        return False

    def _log_dataset(self, stored: _StoredRun, dataset: TrackedDataset) -> bool:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        digest = dataset.digest[:DIGEST_CHARS]
        if (dataset.name, digest) in stored.datasets:
            return False
        kind, source = _dataset_source(dataset.source)
        profile = json.dumps({"sha256": dataset.digest, **dataset.profile})
        entity = Dataset(dataset.name, digest, kind, json.dumps(source), profile=profile)
        self._client.log_inputs(stored.id, [DatasetInput(entity, [InputTag("mlflow.data.context", dataset.context)])])
        stored.datasets.add((dataset.name, digest))
        return True

    def _set_status(self, stored: _StoredRun, run: TrackedRun) -> bool:
        if stored.status == run.status:
            return False
        if run.status == "RUNNING":
            self._client.update_run(stored.id, status="RUNNING")
        else:
            self._client.set_terminated(stored.id, run.status, now_ms() if run.ended is None else run.ended)
        stored.status = run.status
        return True

    # ------------------------------------------------------------------------------------------ runs, experiment

    def _stored_run(self, key: str, data: str, started: int | None) -> _StoredRun:
        """Return the MLflow run of a key and its data, created where there is none; a child's parent first."""
        if (key, data) not in self._runs:
            tags = {RUN_TAG: self._run_name, DATA_TAG: data, "mlflow.user": _user()}
            if key:
                tags |= {KEY_TAG: key, PARENT_TAG: self._stored_run("", data, started).id}
            moment = now_ms() if started is None else started
            run = self._client.create_run(self._experiment, moment, tags, run_name=key or self._run_name)
            self._runs[key, data] = _StoredRun(run.info.run_id, run.info.status, tags=tags)
        return self._runs[key, data]

    def _experiment_id(self, name: str, artifact_location: str | None) -> str:
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return str(self._client.create_experiment(name, artifact_location, {KIND_TAG: TRAINING_KIND}))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = self._client.get_experiment_by_name(name)  # another run has just created it
        if KIND_TAG not in experiment.tags and experiment.lifecycle_stage == "active":
            self._client.set_experiment_tag(experiment.experiment_id, KIND_TAG, TRAINING_KIND)
        return str(experiment.experiment_id)

    def _stored_runs(self, run_name: str) -> dict[tuple[str, str], _StoredRun]:
        """Return all MLflow runs of a run folder's name by key and data; of two alike (created in a race) the older."""
        runs: dict[tuple[str, str], _StoredRun] = {}
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment],
                f"tags.`{RUN_TAG}` = '{run_name}'",
                order_by=["start_time ASC"],
                page_token=token,
            )
            for run in page:
                tags = run.data.tags
                runs.setdefault((tags.get(KEY_TAG, ""), tags.get(DATA_TAG, "")), _stored(run))
            token = page.token
            if not token:
                return runs


def _stored(run: Any) -> _StoredRun:
    tags = dict(run.data.tags)
    return _StoredRun(
        run.info.run_id,
        run.info.status,
        params=set(run.data.params),
        tags=tags,
        steps=dict.fromkeys(run.data.metrics),
        datasets={(entry.dataset.name, entry.dataset.digest) for entry in run.inputs.dataset_inputs},
        files={name.removeprefix(FILE_TAG): digest for name, digest in tags.items() if name.startswith(FILE_TAG)},
        model=next((output.model_id for output in run.outputs.model_outputs), None) if run.outputs else None,
    )


def _dataset_source(uri: str) -> tuple[str, Mapping[str, str]]:
    """Return MLflow's type of source and its description, which decides what MLflow's page links to."""
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
