"""The order of the stages, and nothing else.

    run file -> config -> data (tokens) -> proxies -> prediction cache -> simplex (mixture) -> retrain (arms) -> report

Each stage takes what the stages before it left in the storage and leaves artifacts of its own there. What exists is not
made again: so a second run trains nothing, and a run that was cut off goes on.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mixray import narration
from mixray.cache import read_cache
from mixray.cluster import Session
from mixray.cluster.mapping import run_tasks
from mixray.cluster.proxies import train_proxies
from mixray.cluster.retraining import retrain
from mixray.cluster.scoring import score
from mixray.cluster.target_shards import on_shards
from mixray.config import load_config
from mixray.config.loading import Overrides
from mixray.config.schema import Stage
from mixray.data import prepare
from mixray.forecast import forecast
from mixray.progress import Progress, SilentProgress
from mixray.result import Result
from mixray.runs import RunFolder, is_finished
from mixray.search import (
    ArmArtifacts,
    arm_shares,
    feasible_set,
    in_memory,
    mixture_targets,
    solve_once,
    with_held_out_results,
)
from mixray.tracking import Tracker, open_tracker


def run(
    run_file: str | Path,
    overrides: Overrides = (),
    *,
    address: str | None = None,
    until: Stage = "report",
    rebuild: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Run a run file as far as the stage ``until``.

    ``overrides``: ``["seed=1"]`` or ``{"seed": 1}``; ``address``: of a Ray cluster, none for a local one; ``rebuild``:
    make corrupted artifacts anew. Raises InputError for what the user can mend, StageError for work that failed.
    """
    config = load_config(run_file, overrides)
    if not is_finished(config):
        forecast(config)  # finds what can be wrong before anything is done
    folder = RunFolder.create(config)
    progress = progress or SilentProgress()
    with (
        Session(address, config) as session,
        open_tracker(config, folder.storage, folder.path, progress.warn) as tracker,
    ):
        narration.begin(tracker, folder)
        result = _run(folder, session, tracker, progress, until, rebuild)
    return replace(result, view_command=tracker.view_command())


def _run(
    folder: RunFolder, session: Session, tracker: Tracker, progress: Progress, until: Stage, rebuild: bool
) -> Result:
    config, storage, artifacts = folder.config, folder.storage, folder.artifacts(rebuild=rebuild)

    with progress.stage("data") as stage:
        data = prepare(config, artifacts, partial(run_tasks, session, progress=stage.update), stage.note)
        narration.data(tracker, progress, config, data)
    result = Result(folder.location, config, data)
    # Refuses what no mixture can satisfy before the dear stages.
    feasible_set(config.mixture, list(config.sources), result.available_tokens, config.retrain.tokens)
    if until == "data":
        return result

    training: dict[str, Any] = {"inputs": data.inputs, "seed": config.seed}
    with progress.stage("proxies", len(data.sources)) as stage:
        news = narration.training(tracker, stage, "proxy")
        tokens = config.proxy_tokens
        proxies = train_proxies(session, artifacts, config.proxy, data.sources, tokens=tokens, news=news, **training)
        narration.trained(tracker, stage, "proxy", proxies)
    result = replace(result, proxies=proxies)
    if until == "proxies":
        return result

    with progress.stage("cache") as stage:
        columns = score(session, artifacts, config.cache, config.proxy, proxies, data.targets, "fit", stage.update)
        folder.save_cache(data.targets, columns, result.available_tokens)
    if until == "cache":
        caches = {target: read_cache(storage, rows, "fit", columns[target]) for target, rows in data.targets.items()}
        return replace(result, caches=caches)

    wanted = mixture_targets(config)
    with progress.stage("mixture", len(wanted)) as stage:
        on_actors = partial(on_shards, session, config.mixture, stage.update)
        opening = in_memory if config.mixture.shards is None else on_actors
        found = {}
        for name, targets in wanted.items():
            cached = {target: (data.targets[target], columns[target]) for target in targets}
            found[name] = solve_once(
                artifacts, config, opening, targets=cached, available_tokens=result.available_tokens, run=folder.name
            )
            folder.save_mixture(name, found[name].mixture, keep_results=True)
            narration.mixture(tracker, stage, name, found[name])
    result = replace(result, mixtures={name: answer.mixture for name, answer in found.items()})
    if until == "mixture":
        return result

    arms = arm_shares(config, result.available_tokens, result.mixtures)
    with progress.stage("retrain", len(arms)) as stage:
        news = narration.training(tracker, stage, "arm")
        models = retrain(session, artifacts, config.retrain, arms, data.sources, proxies=proxies, news=news, **training)
        narration.trained(tracker, stage, "arm", models)
    with progress.stage("held-out") as stage:
        judged = score(session, artifacts, config.cache, config.retrain, models, data.targets, "held_out", stage.update)
    results = ArmArtifacts(data.targets, proxies, models, judged)
    mixtures = with_held_out_results(config, storage, result.mixtures, results)
    for name, mixture in mixtures.items():
        folder.save_mixture(name, mixture)
    result = replace(result, mixtures=mixtures)
    if until == "retrain":
        return result

    with progress.stage("report"):
        narration.report(tracker, folder, mixtures, found, arms)
    return result
