"""The order of the robust job: run file -> rows -> task per seed -> arms and exact heads -> results, tables, MLflow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mixray.cluster import Session
from mixray.cluster.classifiers import finished_arm, train_classifiers
from mixray.config import dump_config, load_config
from mixray.config.loading import Overrides
from mixray.config.robust import RobustConfig
from mixray.data.tabular.grouped import load_task, store_rows
from mixray.errors import without_credentials
from mixray.progress import Progress, SilentProgress
from mixray.report.robust_results import RobustResults, SeedHeads, SeedResult
from mixray.robust_result import RESULTS, RobustResult
from mixray.runs import created
from mixray.store import Artifacts
from mixray.study import FinishedArm, compare
from mixray.tracking import Tracker, numbered_name, open_tracker


def train_robust(
    run_file: str | Path, overrides: Overrides = (), *, address: str | None = None, progress: Progress | None = None
) -> RobustResult:
    """Train every arm under every seed, and compare them. What an earlier run left is not done again.

    ``address``: of a Ray cluster, none for a local one. Raises InputError for what the user can mend, before work
    starts where it shows then; StageError for work that failed.
    """
    config = load_config(run_file, overrides, kind=RobustConfig)
    progress = progress or SilentProgress()
    storage, path = created(config)
    artifacts = Artifacts(storage, path.rpartition("/")[2])
    with progress.stage("data") as stage:
        rows = store_rows(config.data, artifacts)
        task = load_task(config.data, rows, storage, config.seed)
        stage.note(f"{len(task.train):,} training rows, {len(task.group_names)} groups")
    with Session(address) as session, open_tracker(config, storage, path, progress.warn) as tracker:
        settings = config.model_dump(mode="json", exclude={"storage", "tracking"})
        tracker.start("", params=settings, tags={"mixray.folder": storage.location(path)})
        tracker.artifact("", "config.yaml", without_credentials(dump_config(config)).encode())
        arms: dict[str, list[FinishedArm]] = {arm: [] for arm in config.arms}
        heads: list[SeedHeads] = []
        total = config.seeds * (len(config.arms) + bool(config.measures.l2))
        with progress.stage("arms", total) as stage:
            for job, made in train_classifiers(session, artifacts, config, rows):
                if job.arm is None:
                    heads.append(SeedHeads.model_validate(made.meta))
                    stage.update(job.label, 1, 1)
                else:
                    finished = finished_arm(made, storage)
                    arms[job.arm].append(finished)
                    stage.update(job.label, 1, 1, validation=finished.result.selected.score)
                    _publish_arm(tracker, f"arm/{job.label}", finished.result, made.id)
        results = compare(config, path.rpartition("/")[2], task, arms, heads)
        text = results.to_json().encode()
        storage.write(f"{path}/{RESULTS}", text)
        tracker.artifact("", RESULTS, text)
        tracker.metrics("", list(_headline(results)))
        return RobustResult(storage.location(path), results, tracker.view_command())


def _publish_arm(tracker: Tracker, key: str, result: SeedResult, artifact: str) -> None:
    """Publish one arm under one seed as a child run: curves of groups and their weights, accuracy on the test part."""
    names = [numbered_name(group, name) for group, name in enumerate(result.group_names)]
    keys = dict(zip(result.group_names, names, strict=True))
    tracker.start(key, params={"arm": result.arm, "seed": result.seed}, tags={"artifact": artifact})
    points: list[tuple[str, float, int]] = []
    for point in result.training_curve:
        points.append(("loss", point.loss, point.step))
        for kind, values in (("group_loss", point.group_losses), ("group_weight", point.group_weights)):
            points += [(f"{kind}/{keys[name]}", value, point.step) for name, value in (values or {}).items()]
    for step, accuracies in result.validation_curve:
        points += [
            (f"validation_accuracy/{name}", value, step)
            for name, value in zip(names, accuracies, strict=True)
            if value is not None
        ]
    tracker.metrics(key, points)
    test = {"worst": result.test.worst, "average_test": result.test.average_test}
    test |= {
        f"accuracy/{name}": value for name, value in zip(names, result.test.accuracy, strict=True) if value is not None
    }
    tracker.metrics(key, [(f"test/{name}", value, result.selected.step) for name, value in test.items()])
    tracker.finish(key)


def _headline(results: RobustResults) -> Iterator[tuple[str, float, int]]:
    for arm, compared in results.arms.items():
        summary = compared.summary
        yield f"worst/{arm}", summary.worst.mean, 0
        yield f"average_test/{arm}", summary.average_test.mean, 0
        if summary.average_training_share is not None:
            yield f"average_training_share/{arm}", summary.average_training_share.mean, 0
