"""The order of the stages, one call per stage. Read this first.

    run file -> config -> data -> proxies -> prediction cache -> mixtures -> (swarm) -> retrained arms -> report
    run file -> config -> data -> arms -> comparison                  (of robust training)

Every stage takes what the stages before it left in the storage, and leaves artifacts there. What exists is not made
again: a second run of the same file trains nothing, and a run that was cut off continues.
"""

from __future__ import annotations

from pathlib import Path

from mixray.cluster import Session, count_gpus
from mixray.cluster.classifiers import finished_arm, train_classifiers
from mixray.config import RobustConfig, RunConfig, RunFile, load_config
from mixray.config.loading import Overrides
from mixray.config.schema import Stage
from mixray.data import InputWarning
from mixray.data.tabular.grouped import load_task, store_rows
from mixray.errors import InputError
from mixray.forecast import input_warnings
from mixray.progress import Progress, open_progress
from mixray.report.robust.results import SeedHeads
from mixray.result import Result
from mixray.runs import MixtureRun, RobustRun, create_run, is_finished
from mixray.search import with_files_read
from mixray.simplex.objectives.passes import processors
from mixray.stages import (
    choose_by_doremi,
    judge_arms,
    measure_swarm,
    prepare_data,
    retrain_arms,
    score_targets,
    solve_mixtures,
    train_on_sources,
    write_report,
)
from mixray.study import FinishedArm, compare


def run(
    run_file: str | Path,
    overrides: Overrides = (),
    *,
    address: str | None = None,
    until: Stage = "report",
    rebuild: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Run a run file of either kind; one that searches for mixtures as far as the stage ``until``.

    ``overrides``: ``["seed=1"]`` or ``{"seed": 1}``; ``address``: of a Ray cluster, a local one by default;
    ``rebuild``: make corrupted artifacts anew; ``progress``: where progress is shown, by default bars on a terminal and
    lines elsewhere, on stderr. Raises InputError for what the user can mend, before work starts where it shows then;
    StageError for work that failed; Interrupted, which names the stage, after Ctrl-C.
    """
    config = with_files_read(load_config(run_file, overrides, kind=RunFile))
    if isinstance(config, RobustConfig) and until != "report":
        raise InputError(
            "a comparison of robust training is always run to its end", where="--until", got=until, wanted="report"
        )
    progress = progress or open_progress()
    searched = config if isinstance(config, RunConfig) else None
    with Session(address, searched, note=progress.note) as session:
        return run_config(config, session, address, progress, until=until, rebuild=rebuild)


def run_config(
    config: RunFile,
    session: Session,
    address: str | None,
    progress: Progress,
    *,
    until: Stage = "report",
    rebuild: bool = False,
) -> Result:
    """Run what a run file says, on the cluster of a session at ``address``; see ``run``."""
    warnings: list[InputWarning] = []
    if not is_finished(config):
        session.require_answer()
        warnings = input_warnings(config)
    work = create_run(config, progress, rebuild=rebuild)
    work.progress.note(header(work, address))
    for warning in warnings:
        work.progress.warn(warning.message)
    with work:
        if isinstance(work, MixtureRun):
            search_mixtures(work, session, until)
        else:
            compare_robust_training(work, session)
    return Result(work, until)


def header(run: MixtureRun | RobustRun, address: str | None) -> str:
    """Return the lines that a person sees before Ray starts: what runs where, and what is left to do."""
    stages = run.stages()
    done = ", ".join(name for name, is_done in stages.items() if is_done)
    left = ", ".join(name for name, is_done in stages.items() if not is_done)
    place = f"the Ray cluster at {address}" if address else f"this machine, {processors()} cores, {count_gpus()} GPUs"
    return "\n".join(
        [
            f"{run.kind}: {run.location}",
            f"on {place}",
            f"results exist of: {done or 'no stage'}; to do: {left or 'nothing'}",
        ]
    )


def search_mixtures(run: MixtureRun, session: Session, until: Stage) -> None:
    """Find the mixture for every target and, unless the run ends before, retrain on it beside the baselines."""
    data = prepare_data(run, session)
    if until == "data":
        return
    proxies = train_on_sources(run, session, data)
    if until == "proxies":
        return
    columns = score_targets(run, session, data, proxies)
    if until == "cache":
        return
    solutions = solve_mixtures(run, session, data, proxies, columns)
    if until == "mixture":
        return
    solutions = choose_by_doremi(run, session, data, columns, solutions)
    solutions = measure_swarm(run, session, data, columns, solutions)
    if until == "swarm":
        return
    models = retrain_arms(run, session, data, proxies, solutions)
    judge_arms(run, session, data, proxies, models, solutions)
    if until == "retrain":
        return
    write_report(run, data, columns, solutions)


def compare_robust_training(run: RobustRun, session: Session) -> None:
    """Train every arm under every seed, and compare them."""
    config = run.config
    with run.stage("data") as stage:
        rows = store_rows(config.data, run.artifacts)
        if rows is not None:
            run.index.add({"rows/data": rows})
        task = load_task(config.data, rows, run.storage, config.seed)
        stage.note(f"{len(task.train):,} training rows, {len(task.group_names)} groups")
    arms: dict[str, list[FinishedArm]] = {arm: [] for arm in config.arms}
    heads: list[SeedHeads] = []
    with run.stage("arms", config.seeds * (len(config.arms) + bool(config.measures.l2))) as stage:
        for job, artifact in train_classifiers(session, run.artifacts, config, rows):
            if job.arm is None:
                heads.append(SeedHeads.model_validate(artifact.meta))
                stage.update(job.label, 1, 1)
            else:
                finished = finished_arm(artifact, run.storage)
                arms[job.arm].append(finished)
                run.add_artifacts({f"arm/{job.label}": artifact})
                stage.update(job.label, 1, 1, validation=finished.result.selected.score)
    run.save_results(compare(config, run.name, task, arms, heads))
