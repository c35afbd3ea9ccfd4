"""The order of the robust job: run file -> rows -> task per seed -> arms and exact heads -> results, tables, MLflow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mixray.cluster import Session
from mixray.cluster.classifiers import train_classifiers
from mixray.config import dump_config, load_config
from mixray.config.loading import Overrides
from mixray.config.robust import RobustConfig
from mixray.data.tabular.task import Task
from mixray.data.tabular.tasks import keep_rows, task_of
from mixray.errors import without_credentials
from mixray.progress import Progress, SilentProgress
from mixray.robust_result import RESULTS, RobustResult
from mixray.runs import created
from mixray.store import Artifacts
from mixray.study.summary import claims, spread, summary_of_arm
from mixray.tracking import Tracker, numbered_name, open_tracker

SCHEMA = "mixray.robust/1"
Told = dict[str, Any]


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
        rows = keep_rows(config.data, artifacts)
        task = task_of(config.data, rows, storage, config.seed)
        stage.note(f"{len(task.train):,} training rows, {len(task.group_names)} groups")
    with Session(address) as session, open_tracker(config, storage, path, progress.warn) as tracker:
        settings = config.model_dump(mode="json", exclude={"storage", "tracking"})
        tracker.start("", params=settings, tags={"mixray.folder": storage.location(path)})
        tracker.artifact("", "config.yaml", without_credentials(dump_config(config)).encode())
        arms: dict[str, list[Mapping[str, Any]]] = {arm: [] for arm in config.arms}
        heads = []
        total = config.seeds * (len(config.arms) + bool(config.measures.l2))
        with progress.stage("arms", total) as stage:
            for job, made in train_classifiers(session, artifacts, config, rows):
                if job.arm is None:
                    heads.append(made.meta)
                    stage.update(job.label, 1, 1)
                else:
                    arms[job.arm].append(made.meta)
                    stage.update(job.label, 1, 1, validation=made.meta["selected"]["score"])
                    _tell_arm(tracker, f"arm/{job.label}", made.meta, made.id)
        ordered = {arm: sorted(found, key=lambda one: int(one["seed"])) for arm, found in arms.items()}
        results = _results(config, path, task, ordered, sorted(heads, key=lambda one: int(one["seed"])))
        text = json.dumps(results, indent=1, allow_nan=False).encode()
        storage.write(f"{path}/{RESULTS}", text)
        tracker.artifact("", RESULTS, text)
        tracker.metrics("", list(_headline(results)))
        return RobustResult(storage.location(path), results, tracker.view_command())


def _results(
    config: RobustConfig,
    path: str,
    task: Task,
    arms: Mapping[str, list[Mapping[str, Any]]],
    heads: list[Mapping[str, Any]],
) -> Told:
    first = next(iter(arms.values()))[0]
    warnings = {json.dumps(entry): entry for found in arms.values() for one in found for entry in one["warnings"]}
    return {
        "schema": SCHEMA,
        "run": path.rpartition("/")[2],
        "seeds": config.all_seeds,
        "select_by": config.select_by,
        "steps": first["steps"],
        "batch": config.batch,
        "l2": config.l2,
        "group_names": list(task.group_names),
        "counts": {
            name: dict(
                zip(
                    task.group_names,
                    np.bincount(part.group_ids, minlength=len(task.group_names)).tolist(),
                    strict=True,
                )
            )
            for name, part in task.parts()
        },
        "completeness": first["measures"]["completeness"],
        "arms": {
            arm: {"summary": summary_of_arm(found, task.group_names), "seeds": found} for arm, found in arms.items()
        },
        "heads": [_heads_at([one["heads"][place] for one in heads]) for place in range(len(config.measures.l2))],
        "claims": claims(arms, heads),
        "warnings": list(warnings.values()),
    }


def _heads_at(seeds: list[Mapping[str, Any]]) -> Told:
    """The exact heads at one strength of L2, over seeds."""

    def both(key: str) -> Told | None:
        if seeds[0][key] is None:
            return None
        return {name: spread([one[key][name] for one in seeds]) for name in ("erm", "group_dro")}

    return {
        "l2": seeds[0]["l2"],
        "spurious": both("spurious"),
        "oracle": both("oracle"),
        "worst_loss": both("worst_loss"),
        "worst_test_accuracy": both("worst_test_accuracy"),
        "gap": spread([one["bound"]["gap"] for one in seeds]),
        "distance": spread([one["bound"]["distance"] for one in seeds]),
        "slack": spread([one["bound"]["slack"] for one in seeds]),
        "holds": sum(one["bound"]["holds"] for one in seeds),
        "of": len(seeds),
    }


def _tell_arm(tracker: Tracker, key: str, told: Mapping[str, Any], artifact: str) -> None:
    """One arm under one seed as a child run: curves of every group over the steps, group weights, the test part."""
    names = [numbered_name(group, name) for group, name in enumerate(told["group_names"])]
    keys = dict(zip(told["group_names"], names, strict=True))
    tracker.start(key, params={"arm": told["arm"], "seed": told["seed"]}, tags={"artifact": artifact})
    points: list[tuple[str, float, int]] = []
    for record in told["training_curve"]:
        points.append(("loss", record["loss"], record["step"]))
        for kind in ("group_losses", "group_weights"):
            label = kind.removesuffix("es" if kind == "group_losses" else "s")
            points += [(f"{label}/{keys[name]}", value, record["step"]) for name, value in (record[kind] or {}).items()]
    for step, accuracies in told["validation_curve"]:
        points += [
            (f"validation_accuracy/{name}", value, step)
            for name, value in zip(names, accuracies, strict=True)
            if value is not None
        ]
    tracker.metrics(key, points)
    test, selected = told["test"], told["selected"]["step"]
    final = {"worst": test["worst"], "average_test": test["average_test"]}
    final |= {f"accuracy/{name}": value for name, value in zip(names, test["accuracy"], strict=True)}
    tracker.metrics(key, [(f"test/{name}", value, selected) for name, value in final.items() if value is not None])
    tracker.finish(key)


def _headline(results: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    for arm, told in results["arms"].items():
        for name in ("worst", "average_test", "average_training_share"):
            found = told["summary"][name]
            if found is not None:
                yield f"{name}/{arm}", found["mean"], 0
