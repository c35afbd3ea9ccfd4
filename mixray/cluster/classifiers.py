"""Training the arms of classifiers, each under each seed, as work of its own on a pool of actors.

A classifier of tabular rows is too small to be spread over workers: what runs in parallel are arms and seeds. Each
keeps its state in the storage and publishes its own artifact, so a run that was cut off goes on, and one that is
finished trains nothing.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mixray.cluster.mapping import run_on_actors
from mixray.cluster.session import Session
from mixray.config.robust import RobustArm, RobustConfig
from mixray.data.tabular.grouped import GroupedTask, load_task
from mixray.report.robust.results import SeedResult
from mixray.store import Artifact, Artifacts, Draft, Storage, fingerprint
from mixray.study import FinishedArm, predict, results_of, seed_heads, train_arm
from mixray.study.intervals import Predictions
from mixray.training import StorageCheckpoint, use_resources

PREDICTIONS = "predictions.npy"
"""Which test rows the model predicted correctly; artifacts of earlier versions do not have it."""


@dataclass(frozen=True)
class ClassifierJob:
    """An arm under a seed, or, where ``arm`` is None, the exact heads of a seed's task. ``draft``: what it makes."""

    arm: RobustArm | None
    seed: int
    draft: Draft

    @property
    def label(self) -> str:
        return f"{self.arm or 'heads'}-{self.seed}"


class ClassifierWorker:
    """Does one job after another; keeps the task of the last seed."""

    def __init__(self, config: RobustConfig, rows: Artifact | None) -> None:
        use_resources(config.resources)
        self._config, self._rows = config, rows
        self._task: tuple[int, GroupedTask] | None = None

    def __call__(self, job: ClassifierJob) -> Artifact:
        task = self._task_of(job)
        if job.arm is None:
            heads = seed_heads(task, self._config.measures, job.seed)
            return job.draft.publish({}, heads.model_dump(mode="json"))
        import torch

        checkpoint = StorageCheckpoint.of(job.draft)
        trained = train_arm(task, self._config, job.arm, job.seed, checkpoint=checkpoint)
        buffer = io.BytesIO()
        torch.save(trained.model.state_dict(), buffer)
        result = results_of(trained, task, self._config, job.arm, job.seed)
        files = {"weights.pt": buffer.getvalue(), PREDICTIONS: predict(trained.model, task.test).to_bytes()}
        records = {name: job.draft.write(name, data) for name, data in files.items()}
        artifact = job.draft.publish(records, result.model_dump(mode="json"))
        checkpoint.delete()
        return artifact

    def _task_of(self, job: ClassifierJob) -> GroupedTask:
        if self._task is None or self._task[0] != job.seed:
            self._task = job.seed, load_task(self._config.data, self._rows, job.draft.storage, job.seed)
        return self._task[1]


def finished_arm(artifact: Artifact, storage: Storage) -> FinishedArm:
    record = artifact.files.get(PREDICTIONS)
    predictions = None if record is None else Predictions.from_bytes(storage.read_record(record))
    return FinishedArm(SeedResult.model_validate(artifact.meta), predictions)


def train_classifiers(
    session: Session,
    artifacts: Artifacts,
    config: RobustConfig,
    rows: Artifact | None,
) -> Iterator[tuple[ClassifierJob, Artifact]]:
    """Every job of the run with its result, those that exist first. ``rows``: None for a task that needs none."""
    jobs = list(_jobs(artifacts, config, rows))
    stored = artifacts.find_all((job.draft.kind, job.draft.id) for job in jobs)
    missing = [job for job in jobs if (job.draft.kind, job.draft.id) not in stored]
    for job in jobs:
        if (job.draft.kind, job.draft.id) in stored:
            yield job, stored[job.draft.kind, job.draft.id]
    if not missing:
        return
    session.check_shared(artifacts.storage)
    most = session.at_once(config.resources, where="resources", jobs=len(missing))
    trained = run_on_actors(session, ClassifierWorker, (config, rows), missing, config.resources, (1, most))
    yield from zip(missing, trained, strict=True)


def _jobs(artifacts: Artifacts, config: RobustConfig, rows: Artifact | None) -> Iterator[ClassifierJob]:
    for seed in config.all_seeds:
        if config.measures.l2:
            yield ClassifierJob(None, seed, artifacts.draft("heads", _heads_id(config, rows, seed)))
        for arm in config.arms:
            yield ClassifierJob(arm, seed, artifacts.draft("classifier", _arm_id(config, rows, arm, seed)))


def _arm_id(config: RobustConfig, rows: Artifact | None, arm: RobustArm, seed: int) -> str:
    """What decides an arm's model and what is measured of it."""
    left_out = {"name", "seed", "seeds", "storage", "data", "arms", "group_dro", "also", "resources", "tracking"}
    settings = config.model_dump(mode="json", exclude=left_out)
    del settings["measures"]["l2"]
    sections = {"group_dro": config.group_dro, "also": config.also}
    objective = sections[arm].model_dump(mode="json") if arm in sections else None
    facts = ["classifier", 1, _task_identity(config, rows), settings, arm, objective, seed]
    return fingerprint([*facts, *config.resources.arithmetic])


def _heads_id(config: RobustConfig, rows: Artifact | None, seed: int) -> str:
    return fingerprint(["heads", 1, _task_identity(config, rows), config.measures.l2, config.measures.rows, seed])


def _task_identity(config: RobustConfig, rows: Artifact | None) -> Sequence[Any]:
    """Where rows lie does not matter, what they are and how they are read does."""
    settings = config.data.model_dump(mode="json", exclude={"parquet", "csv"})
    return [settings, None if rows is None else rows.id]
