"""The order of the stages, and nothing else.

    run file -> config -> data (tokens) -> proxies -> prediction cache -> simplex (mixture) -> retrain (arms) -> report

Each stage takes what the stages before it left in the storage and leaves artifacts of its own there. What exists is not
made again: so a second run trains nothing, and a run that was cut off goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mixray.cache import read_cache
from mixray.cluster import Session
from mixray.cluster.mapping import run_tasks
from mixray.cluster.proxies import train_proxies
from mixray.cluster.retraining import retrain
from mixray.cluster.scoring import score
from mixray.cluster.target_shards import on_shards
from mixray.cluster.watching import News
from mixray.config import load_config
from mixray.config.loading import Overrides
from mixray.config.schema import Stage
from mixray.data import prepare
from mixray.forecast import forecast
from mixray.progress import Progress, SilentProgress
from mixray.progress import Stage as ProgressStage
from mixray.report import curves_figure, mixture_figures, summary_lines
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
from mixray.store import Artifact, RunIndex
from mixray.tracking import SUMMARY_FILE, RunTracking
from mixray.training import Progress as TrainingRecord


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
    index = RunIndex.open(folder.storage, folder.path)
    with (
        Session(address, config) as session,
        RunTracking(config, folder.storage, folder.path, index, progress.warn) as tracking,
    ):
        result = _run(folder, session, index, tracking, progress, until, rebuild)
    return replace(result, view_command=tracking.view_command())


def _run(
    folder: RunFolder,
    session: Session,
    index: RunIndex,
    tracking: RunTracking,
    progress: Progress,
    until: Stage,
    rebuild: bool,
) -> Result:
    config, storage, artifacts = folder.config, folder.storage, folder.artifacts(rebuild=rebuild)

    with progress.stage("data") as stage:
        data = prepare(config, artifacts, partial(run_tasks, session, progress=stage.update), stage.note)
        for warning in data.warnings:
            progress.warn(warning["message"])
        index.add_pools(data.sources, data.targets, data.counts)
        tracking.publish()
    result = Result(folder.location, config, data)
    # Refuses what no mixture can satisfy before the dear stages.
    feasible_set(config.mixture, list(config.sources), result.available_tokens, config.retrain.tokens)
    if until == "data":
        return result

    training: dict[str, Any] = {"inputs": data.inputs, "seed": config.seed}
    with progress.stage("proxies", len(data.sources)) as stage:
        news = _training_news(tracking, stage, "proxy")
        tokens = config.proxy_tokens
        proxies = train_proxies(session, artifacts, config.proxy, data.sources, tokens=tokens, news=news, **training)
        _finish_training(folder, index, stage, "proxy", proxies)
        tracking.publish()
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
            mixture = found[name].mixture
            leaders = sorted(mixture.weights.items(), key=lambda item: -item[1])[:3]
            shares = ", ".join(f"{source} {share:.1%}" for source, share in leaders)
            stage.update(name, 1, 1, gap=mixture.gap or 0.0, shares=shares)
        tracking.publish()
    result = replace(result, mixtures={name: answer.mixture for name, answer in found.items()})
    if until == "mixture":
        return result

    arms = arm_shares(config, result.available_tokens, result.mixtures)
    with progress.stage("retrain", len(arms)) as stage:
        news = _training_news(tracking, stage, "arm")
        models = retrain(session, artifacts, config.retrain, arms, data.sources, proxies=proxies, news=news, **training)
        _finish_training(folder, index, stage, "arm", models)
        tracking.publish()
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
        baselines: dict[str, Mapping[str, float]] = {arm: arms[arm] for arm in config.retrain.arms if arm in arms}
        for name, mixture in mixtures.items():
            trace, tolerance = found[name].trace, config.mixture.tolerance
            for filename, png in mixture_figures(name, mixture, trace, tolerance, baselines).items():
                folder.save_report(filename, png)
        lines = [line for mixture in mixtures.values() for line in summary_lines(mixture)]
        folder.save_report(SUMMARY_FILE, "\n\n".join(lines).encode())
    return result


def _training_news(tracking: RunTracking, stage: ProgressStage, kind: str) -> News:
    """Return what to do with a training record that a worker has posted: show it, and publish it."""

    def news(name: str, record: TrainingRecord) -> None:
        stage.update(name, record.step, record.steps, loss=record.loss, tokens_per_second=record.tokens_per_second)
        tracking.publish_training(f"{kind}/{name}", record)

    return news


def _finish_training(
    folder: RunFolder, index: RunIndex, stage: ProgressStage, kind: str, models: Mapping[str, Artifact]
) -> None:
    index.add({f"{kind}/{name}": model for name, model in models.items()})
    for name, model in models.items():
        stage.update(name, 1, 1, loss=model.meta["curve"][-1][1])
    title = "Training loss of the proxies" if kind == "proxy" else "Training loss of the arms"
    curves = {name: [(tokens, loss) for tokens, loss in model.meta["curve"]] for name, model in models.items()}
    folder.save_report(f"{kind}_curves.png", curves_figure(curves, title=title))
