"""The order of the robust job: run file -> rows -> task per seed -> arms and exact heads -> results, tables, MLflow."""

from __future__ import annotations

from pathlib import Path

from mixray.cluster import Session
from mixray.cluster.classifiers import finished_arm, train_classifiers
from mixray.config import load_config
from mixray.config.loading import Overrides
from mixray.config.robust import RobustConfig
from mixray.data.tabular.grouped import load_task, store_rows
from mixray.progress import Progress, SilentProgress
from mixray.report.robust_results import SeedHeads
from mixray.robust_result import RobustResult
from mixray.runs import created
from mixray.store import Artifacts, RunIndex
from mixray.study import FinishedArm, compare
from mixray.tracking import RESULTS_FILE, RunTracking


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
    index = RunIndex.open(storage, path)
    with Session(address) as session, RunTracking(config, storage, path, index, progress.warn) as tracking:
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
                    index.add({f"arm/{job.label}": made})
                    tracking.publish()
        results = compare(config, path.rpartition("/")[2], task, arms, heads)
        storage.write(f"{path}/{RESULTS_FILE}", results.to_json().encode())
    return RobustResult(storage.location(path), results, tracking.view_command())
