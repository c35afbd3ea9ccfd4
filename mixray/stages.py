"""The stages of a search for mixtures: each is one function of a run, its Ray session and what earlier stages made.

``mixray.pipeline`` has their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from mixray.cluster import Session
from mixray.cluster.mapping import run_tasks
from mixray.cluster.proxies import train_proxies, train_swarm, train_trees
from mixray.cluster.retraining import retrain
from mixray.cluster.scoring import score
from mixray.cluster.shards import on_shards
from mixray.cluster.watching import News
from mixray.config import RunConfig, dump_config
from mixray.data import ExampleInputs, Prepared, TextInputs, prepare
from mixray.diagnose import retraining_against_prediction
from mixray.errors import without_credentials
from mixray.mixture import Mixture
from mixray.models import (
    ARM,
    PROXY,
    TrainingData,
    TrainingJob,
    arm_jobs,
    doremi_job,
    missing_jobs,
    proxy_jobs,
    swarm_jobs,
    tree_jobs,
)
from mixray.progress import Stage
from mixray.report import (
    PAGE_FILE,
    ProblemToVary,
    curves_figure,
    forecast_lines,
    gains_over_targets,
    held_out_figure,
    mixture_figures,
    report_page,
    summary_lines,
)
from mixray.runs import MixtureRun
from mixray.search import (
    ArmArtifacts,
    MeasuredSwarm,
    MixtureProblems,
    NoiseFloor,
    SolvedMixture,
    arm_models,
    baseline_shares,
    design_mixtures,
    example_signs_once,
    held_out_curves,
    in_memory,
    mixture_targets,
    problem_to_vary,
    rehearsed_mixtures,
    require_mixtures,
    signs_once,
    swarm_seeds,
    swarm_tokens,
    with_doremi,
    with_forecast,
    with_held_out_results,
    with_rivals,
)
from mixray.store import Artifact, ModelMeta
from mixray.store.target_parts import OPTIONS, PARTS, TargetPart, part_files
from mixray.tracking import SUMMARY_FILE
from mixray.training import Progress as TrainingRecord

MOST_FIGURES = 24
"""Mixtures up to which each has figures of its own."""
Models = Mapping[str, Artifact]
"""Name of a source or of an arm -> its trained model."""
Columns = Mapping[str, Mapping[str, Artifact]]
"""Target -> source -> the column of the prediction cache."""


def prepare_data(run: MixtureRun, session: Session) -> Prepared:
    """Read, deduplicate and tokenize (or encode) the sources and targets."""
    with run.stage("data") as stage:
        data = prepare(run.config, run.artifacts, partial(run_tasks, session, progress=stage.update), stage.note)
        for warning in data.warnings:
            run.progress.warn(warning["message"])
        run.index.add_pools(data.sources, data.targets, data.counts)
    # Limits that no mixture satisfies are refused before anything is trained.
    require_mixtures(run.config, data.available_tokens)
    return data


def train_on_sources(run: MixtureRun, session: Session, data: Prepared) -> Models:
    """Train one proxy on every source."""
    config = run.config
    with run.stage("proxies", len(data.sources)) as stage:
        training = TrainingData(data.sources, data.inputs, config.seed)
        if config.proxy_tokens is None:
            alone = {source: {source: 1.0} for source in data.sources}
            trees = tree_jobs(run.artifacts, PROXY, config.proxy, training, alone)
            stage.expect(1)  # all of them together; then each has a line of its own
            resources = config.proxy.resources
            proxies = train_trees(session, run.artifacts, resources, trees, stage.update, where="proxy.resources")
            stage.expect(1 + len(data.sources))
        else:
            jobs = proxy_jobs(run.artifacts, config.proxy, training, tokens=config.proxy_tokens)
            stage.expect(len(missing_jobs(run.artifacts, jobs)))
            proxies = train_proxies(session, run.artifacts, config.proxy, jobs, _training_news(run, stage, "proxy"))
        _keep_models(run, stage, "proxy", proxies)
    return proxies


def score_targets(run: MixtureRun, session: Session, data: Prepared, proxies: Models) -> Columns:
    """Fill the prediction cache: every proxy's log-probabilities on the fit part of every target."""
    config = run.config
    with run.stage("cache") as stage:
        columns = score(session, run.artifacts, config.cache, config.proxy, proxies, data.targets, "fit", stage.update)
        run.save_cache(data.targets, columns, data.available_tokens)
    return columns


def solve_mixtures(
    run: MixtureRun, session: Session, data: Prepared, proxies: Models, columns: Columns
) -> dict[str, SolvedMixture]:
    """Solve the convex problem of every mixture, and look for signs that the answer should not be trusted."""
    config, solutions = run.config, {}
    names = list(mixture_targets(config))
    with run.stage("mixture", len(names)) as stage:
        on_actors = partial(on_shards, session, config.mixture, stage.update)
        problems = MixtureProblems(
            run.artifacts,
            config,
            data.targets,
            columns,
            data.available_tokens,
            run.source_sizes(),
            run.name,
            data.sources,
        )
        if config.leaves_out:  # hundreds of problems: workers store the answers, which are read here one by one
            stage.expect(1)
            for _ in run_tasks(session, problems.store, names, "solved", progress=stage.update):
                pass
            stage.expect(1 + len(names))
        for name in names:
            solved = problems.solve(name, in_memory if config.mixture.shards is None else on_actors)
            mixture = solved.mixture
            if isinstance(data.inputs, TextInputs):
                caches = problems.caches(name)
                signs = signs_once(
                    run.artifacts, config, data.inputs, mixture, sources=data.sources, proxies=proxies, caches=caches
                )
            else:
                signs = example_signs_once(
                    run.artifacts,
                    config,
                    sources={source: data.sources[source] for source in mixture.sources},
                    targets={target: data.targets[target] for target in mixture.targets},
                )
            if signs:
                mixture = mixture.model_copy(update={"warnings": [*mixture.warnings, *signs]})
            solutions[name] = SolvedMixture(mixture, solved.trace)
            run.save_mixture(name, mixture, keep_results=True)
            leaders = sorted(mixture.weights.items(), key=lambda item: -item[1])[:3]
            shares = ", ".join(f"{source} {share:.1%}" for source, share in leaders)
            certificate = {} if mixture.gap is None else {"gap": mixture.gap}
            stage.update(name, 1, 1, **certificate, shares=shares)
    return solutions


def choose_by_doremi(
    run: MixtureRun, session: Session, data: Prepared, columns: Columns, solutions: Mapping[str, SolvedMixture]
) -> dict[str, SolvedMixture]:
    """Train the two models of DoReMi where an arm names it. Return the mixtures with the one that it chooses."""
    config = run.config
    if not config.has_doremi:
        return dict(solutions)
    with run.stage("doremi", 2) as stage:
        training = TrainingData(data.sources, data.inputs, config.seed)
        shares = {"reference": baseline_shares(config, data.available_tokens)[config.doremi.reference]}
        tokens = config.doremi_tokens

        def trained(jobs: Mapping[str, TrainingJob]) -> dict[str, Artifact]:
            return train_swarm(session, run.artifacts, config.proxy, jobs, lambda name: stage.update(name, 1, 1))

        reference = trained(swarm_jobs(run.artifacts, config.proxy, training, shares, tokens=tokens))["reference"]
        job = doremi_job(run.artifacts, config.proxy, training, config.doremi, reference, tokens=tokens)
        proxy = trained({"proxy": job})["proxy"]
        run.index.add({"doremi/reference": reference, "doremi/proxy": proxy})
        on_actors = partial(on_shards, session, config.mixture, stage.update)
        chosen = {
            name: replace(
                solved,
                mixture=with_doremi(
                    config,
                    run.storage,
                    in_memory if config.mixture.shards is None else on_actors,
                    solved.mixture,
                    targets={target: (data.targets[target], columns[target]) for target in solved.mixture.targets},
                    proxy=proxy,
                    available_tokens=data.available_tokens,
                ),
            )
            for name, solved in solutions.items()
        }
        for name, solved in chosen.items():
            run.save_mixture(name, solved.mixture, keep_results=True)
    return chosen


def measure_swarm(
    run: MixtureRun, session: Session, data: Prepared, columns: Columns, solutions: Mapping[str, SolvedMixture]
) -> dict[str, SolvedMixture]:
    """Train cheap models on mixtures and score them. Return the mixtures with what other methods learn from them."""
    config = run.config
    if config.swarm is None:
        return dict(solutions)
    with run.stage("swarm") as stage:
        answers = {name: solved.mixture for name, solved in solutions.items()}
        design = design_mixtures(config, data.available_tokens, answers)
        models = _train_members(run, session, data, stage, design)
        columns_of = partial(_member_columns, run, session, data)
        parts: dict[TargetPart, Columns] = {part: columns_of(models, part) for part in PARTS}
        swarm = MeasuredSwarm.read(run.storage, config, design, data.targets, parts)
        on_actors = partial(on_shards, session, config.mixture, stage.update)
        chosen = {
            name: with_rivals(
                run.artifacts,
                config,
                in_memory if config.mixture.shards is None else on_actors,
                solved,
                targets={target: (data.targets[target], columns[target]) for target in solved.mixture.targets},
                swarm=swarm,
                models=models,
                available_tokens=data.available_tokens,
            )
            for name, solved in solutions.items()
        }
        for target, losses in swarm.losses["held_out"].items():
            if (noise := NoiseFloor.of(losses)) is not None:
                stage.note(noise.sentence(target, config.loss_unit))
    if config.swarm.forecast:
        with run.stage("forecast") as stage:
            chosen = _with_forecasts(run, session, data, stage, chosen, swarm)
            for line in (line for solved in chosen.values() for line in forecast_lines(solved.mixture)):
                stage.note(line)
    for name, solved in chosen.items():
        run.save_mixture(name, solved.mixture, keep_results=True)
    run.save_swarm(swarm.table())
    return chosen


def _with_forecasts(
    run: MixtureRun,
    session: Session,
    data: Prepared,
    stage: Stage,
    solutions: Mapping[str, SolvedMixture],
    swarm: MeasuredSwarm,
) -> dict[str, SolvedMixture]:
    """Train cheap models on the mixture of every arm, and return the mixtures with what they let expect of the arms."""
    mixtures = {name: solved.mixture for name, solved in solutions.items()}
    rehearsed = rehearsed_mixtures(run.config, data.available_tokens, mixtures)
    if not rehearsed:
        stage.note("no forecast: it needs swarm.replicates >= 2, a first arm with objective erm, and no over: worst")
        return dict(solutions)
    held_out = _member_columns(run, session, data, _train_members(run, session, data, stage, rehearsed), "held_out")
    return {
        name: replace(
            solved,
            mixture=with_forecast(
                run.config,
                run.storage,
                name,
                solved.mixture,
                available_tokens=data.available_tokens,
                rows=data.targets,
                held_out=held_out,
                swarm=swarm,
            ),
        )
        for name, solved in solutions.items()
    }


def _train_members(
    run: MixtureRun, session: Session, data: Prepared, stage: Stage, mixtures: Mapping[str, Mapping[str, float]]
) -> Models:
    """Train the models of a swarm on these mixtures."""
    config = run.config
    jobs: dict[str, TrainingJob] = {}
    for name, shares in mixtures.items():
        for model, seed in swarm_seeds(config, name).items():
            training = TrainingData(data.sources, data.inputs, seed)
            jobs |= swarm_jobs(run.artifacts, config.proxy, training, {model: shares}, tokens=swarm_tokens(config))
    stage.expect(len(missing_jobs(run.artifacts, jobs)))
    models = train_swarm(session, run.artifacts, config.proxy, jobs, lambda name: stage.update(name, 1, 1))
    run.index.add({f"swarm/{name}": model for name, model in models.items()})
    return models


def _member_columns(
    run: MixtureRun, session: Session, data: Prepared, models: Models, part: TargetPart
) -> dict[str, dict[str, Artifact]]:
    """Score a part of every target with the models of a swarm."""
    config = run.config
    return score(session, run.artifacts, config.cache, config.proxy, models, data.targets, part, lambda *_: None)


def retrain_arms(
    run: MixtureRun, session: Session, data: Prepared, proxies: Models, solutions: Mapping[str, SolvedMixture]
) -> Models:
    """Train the models of every arm, one for each replicate."""
    config = run.config
    arms = arm_models(config, data.available_tokens, _retrained(config, solutions))
    with run.stage("retrain", len(arms)) as stage:
        if config.retrain.tokens is None:
            training = TrainingData(data.sources, data.inputs, config.seed)
            shares = {name: arm.source_shares for name, arm in arms.items()}
            trees = tree_jobs(run.artifacts, ARM, config.retrain, training, shares)
            resources = config.retrain.resources_per_worker
            stage.expect(1)
            key = "retrain.resources_per_worker"
            models = train_trees(session, run.artifacts, resources, trees, stage.update, where=key)
            stage.expect(1 + len(arms))
        else:
            jobs: dict[str, TrainingJob] = {}
            targets = {name: rows for name, rows in data.targets.items() if config.targets[name].is_retrained}
            for name, arm in arms.items():
                settings = config.retrain.model_copy(update={"objective": arm.objective})
                training = TrainingData(data.sources, data.inputs, arm.seed)
                jobs |= arm_jobs(run.artifacts, settings, training, {name: arm.source_shares}, proxies, targets)
            stage.expect(len(missing_jobs(run.artifacts, jobs)))
            models = retrain(session, run.artifacts, config.retrain, jobs, _training_news(run, stage, "arm"))
        _keep_models(run, stage, "arm", models)
        curves = held_out_curves(config, data.targets, _retrained(config, solutions), models)
        panels = {target: arms for by_target in curves.values() for target, arms in by_target.items()}
        if panels:  # in place of the losses on the arms' own training data, which do not compare
            run.save_report(
                "arm_curves.png", held_out_figure(panels, unit=config.loss_unit, trained_on=config.share_of)
            )
    return models


def _retrained(config: RunConfig, solutions: Mapping[str, SolvedMixture]) -> dict[str, Mixture]:
    """Return the mixtures that models are retrained on."""
    return {name: solutions[name].mixture for name in config.retrained_mixtures}


def judge_arms(
    run: MixtureRun,
    session: Session,
    data: Prepared,
    proxies: Models,
    models: Models,
    solutions: Mapping[str, SolvedMixture],
) -> None:
    """Score the arms on the held-out parts, and add their losses to the mixture files."""
    config = run.config
    with run.stage("held-out") as stage:
        targets = {name: rows for name, rows in data.targets.items() if config.targets[name].is_retrained}
        columns = score(session, run.artifacts, config.cache, config.retrain, models, targets, "held_out", stage.update)
        with_options = {name: rows for name, rows in targets.items() if part_files(rows, OPTIONS)}
        options = score(
            session, run.artifacts, config.cache, config.retrain, models, with_options, OPTIONS, stage.update
        )
        classes = len(data.inputs.label_names) if isinstance(data.inputs, ExampleInputs) else None
        results = ArmArtifacts(data.targets, proxies, models, columns, classes, options)
        mixtures = _retrained(config, solutions)
        for name, mixture in with_held_out_results(
            config, run.storage, mixtures, results, data.available_tokens
        ).items():
            signs = retraining_against_prediction(mixture)
            run.save_mixture(name, mixture.model_copy(update={"warnings": [*mixture.warnings, *signs]}))


def write_report(run: MixtureRun, data: Prepared, columns: Columns, solutions: Mapping[str, SolvedMixture]) -> None:
    """Draw the figures of every mixture, and write the answer in words and as a page."""
    with run.stage("report", len(solutions)) as stage:
        mixtures = run.mixtures()
        shares = baseline_shares(run.config, data.available_tokens)
        trained_on = [arm.mixture or name for name, arm in run.config.retrain.named_arms.items()]
        # Where targets leave sources out, no baseline is the same for all of them.
        baselines = {name: shares[name] for name in trained_on if name in shares and not run.config.leaves_out}
        lines = gains_over_targets(mixtures)
        for name, solution in solutions.items():
            if len(solutions) <= MOST_FIGURES:
                tolerance, mixture = run.config.mixture.tolerance, mixtures[name]
                for filename, png in mixture_figures(name, mixture, solution.trace, tolerance, baselines).items():
                    run.save_report(filename, png)
            stage.update(name, 1, 1)
            lines += summary_lines(mixtures[name])
        run.save_report(SUMMARY_FILE, "\n\n".join(lines).encode())
        problems = _problems_to_vary(run, data, columns)
        run_file = without_credentials(dump_config(run.config))
        models = {key.removeprefix("arm/"): model for key, model in run.index.artifacts("arm").items()}
        curves = held_out_curves(run.config, data.targets, _retrained(run.config, solutions), models)
        run.save_report(PAGE_FILE, report_page(run.name, mixtures, baselines, problems, run_file, curves))


def _problems_to_vary(run: MixtureRun, data: Prepared, columns: Columns) -> dict[str, ProblemToVary]:
    """Return the problems of one target each that fit into memory, by the name of the mixture."""
    config = run.config
    if config.mixture.shards is not None or config.mixture.over != "each" or config.leaves_out:
        return {}
    caches = in_memory(run.storage, {target: (data.targets[target], columns[target]) for target in columns})
    with caches as predictions:
        problems = {
            target: problem_to_vary(cache, config, data.available_tokens) for target, cache in predictions.items()
        }
    return {target: problem for target, problem in problems.items() if problem is not None}


def _training_news(run: MixtureRun, stage: Stage, kind: str) -> News:
    """Return what to do with a training record that a worker has posted: show it, and publish it."""

    def news(name: str, record: TrainingRecord) -> None:
        stage.update(name, record.step, record.steps, loss=record.loss, tokens_per_second=record.tokens_per_second)
        run.publish_training(f"{kind}/{name}", record)

    return news


def _keep_models(run: MixtureRun, stage: Stage, kind: str, models: Models) -> None:
    """Add trained models to the run's index, and draw their curves of the loss."""
    run.index.add({f"{kind}/{name}": model for name, model in models.items()})
    curves = {name: ModelMeta.from_artifact(model).curve for name, model in models.items()}
    for name, curve in curves.items():
        stage.update(name, 1, 1, loss=curve[-1][1])
    title = "Training loss of the proxies" if kind == "proxy" else "Training loss of the arms"
    drawn = curves_figure(curves, title=title, unit=run.config.loss_unit, trained_on=run.config.share_of)
    run.save_report(f"{kind}_curves.png", drawn)
