"""The arms of a comparison: which models are retrained, on which shares, and what they reached on held-out documents.

An arm on the mixture ``mixmin`` is one model per mixture, named ``<arm>-<mixture>``; another arm is one model for all,
named as the arm. The model of a further replicate has its seed in its name, as in ``balanced.seed1``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import TypeVar, cast

import numpy as np

from mixray.cache import (
    ArmLoss,
    PredictionCache,
    compare,
    mean_over_targets,
    read_cache,
    read_choices,
    read_labels,
)
from mixray.config import RunConfig, RunFile
from mixray.config.objective import ObjectiveConfig
from mixray.config.schema import ArmConfig
from mixray.config.section import shares_fault
from mixray.config.training import TreesModel
from mixray.data.tabular.assays import with_tables_read
from mixray.errors import InputError
from mixray.export import read_mixture
from mixray.mixture import ArmResult, HeldOutLoss, MetricResult, Mixture, SearchCompute, SourceResult
from mixray.numerics import Z95, SeedEstimate, interval_of_mean
from mixray.report import SearchCost, Work, choice_metrics, example_metrics
from mixray.search.problem import baseline_shares, limits_broken
from mixray.store import Artifact, HeldOutCurve, ModelMeta, SourceLoss, Storage
from mixray.store.target_parts import tokens_read

Shares = dict[str, float]
Kind = TypeVar("Kind", bound=RunFile)


@dataclass(frozen=True)
class ArmModel:
    """A model to retrain. ``source_shares``: of its training tokens; ``seed``: of its weights and its data's order."""

    source_shares: Shares
    objective: ObjectiveConfig
    seed: int


@dataclass(frozen=True)
class ArmArtifacts:
    """The stored artifacts that a comparison of arms is read from.

    ``rows``: target -> its rows; ``proxies``: source -> its proxy; ``models``: name -> retrained model;
    ``held_out``: target -> model -> the model's column of the prediction cache of the held-out part; ``classes``: how
    many classes examples have, 0 where their labels are numbers, None for texts; ``options``: as ``held_out``, of the
    options of targets of multiple-choice items.
    """

    rows: Mapping[str, Artifact]
    proxies: Mapping[str, Artifact]
    models: Mapping[str, Artifact]
    held_out: Mapping[str, Mapping[str, Artifact]]
    classes: int | None = None
    options: Mapping[str, Mapping[str, Artifact]] = field(default_factory=dict)


def with_files_read(config: Kind) -> Kind:
    """Return the config with shares in place of the files that arms and the prior name, and with the sources of tables
    by their names: what a run means then depends on no file.

    Raises InputError where a file cannot be read or does not hold a mixture of the run's sources, and those of
    ``with_tables_read``.
    """
    if not isinstance(config, RunConfig):
        return config
    search = with_tables_read(config)
    arms: list[object] = []
    for number, arm in enumerate(search.retrain.arms):
        if isinstance(arm, ArmConfig) and arm.file is not None:
            shares = _shares_in(arm.file, f"retrain.arms.{number}.file", search)
            arm = arm.model_copy(update={"shares": shares, "file": None})
        arms.append(arm)
    updates: dict[str, object] = {"retrain": search.retrain.model_copy(update={"arms": arms})}
    if (prior := search.mixture.prior).file is not None:
        shares = _shares_in(prior.file, "mixture.prior.file", search)
        if excluded := [source for source, share in shares.items() if share == 0]:
            raise InputError(
                "the prior excludes sources, from which no mixture with them has a divergence",
                where="mixture.prior.file",
                got=f"{prior.file}: a share of 0 for {', '.join(excluded)}",
                wanted="shares > 0",
                remedy="give these sources a small share in the file, and exclude them by mixture.bounds",
            )
        prior = prior.model_copy(update={"shares": shares, "file": None})
        updates["mixture"] = search.mixture.model_copy(update={"prior": prior})
    return cast("Kind", search.model_copy(update=updates))


def _shares_in(file: str, key: str, config: RunConfig) -> Shares:
    """Return the shares in a file that a key of the run file names. Raises InputError."""
    mixture, warnings = read_mixture(str(Path(file).expanduser()))
    if fault := shares_fault(mixture.weights, config.sources) or next(iter(warnings), None):
        raise InputError(
            "the mixture in this file does not fit the run file",
            where=key,
            got=f"{file}: shares of {', '.join(mixture.weights)}",
            wanted=fault,
        )
    return mixture.weights


def arm_models(
    config: RunConfig, available_tokens: Mapping[str, int], mixtures: Mapping[str, Mixture]
) -> dict[str, ArmModel]:
    """Return every model to retrain, by name. Replicates of all arms have the same seeds."""
    baselines = {
        mixture: baseline_shares(config, {source: available_tokens[source] for source in config.sources_for(mixture)})
        for mixture in mixtures
    }
    models: dict[str, ArmModel] = {}
    for name, arm in config.retrain.named_arms.items():
        assert arm.objective is not None, "named arms have their objective"
        for mixture, model in arm.models(mixtures, apart=config.leaves_out).items():
            rivals = mixtures[mixture].rivals
            if arm.mixture == "mixmin":
                shares = mixtures[mixture].weights
            elif arm.mixture in rivals:
                shares = rivals[arm.mixture].weights
            else:
                shares = baselines[mixture][arm.mixture or name]
            seeds = config.replicate_seeds(model)
            models |= {each: ArmModel(shares, arm.objective, seed) for each, seed in seeds.items()}
    return models


def held_out_curves(
    config: RunConfig, targets: Mapping[str, Artifact], mixtures: Mapping[str, Mixture], models: Mapping[str, Artifact]
) -> dict[str, dict[str, dict[str, HeldOutCurve]]]:
    """Return mixture -> target -> arm -> the losses on a sample of the target while the arm trained, means over its
    replicates; without those arms and targets that have none.

    ``targets``: the rows, by name; ``models``: by name of the retrained model.
    """
    curves: dict[str, dict[str, dict[str, HeldOutCurve]]] = {}
    for name, mixture in mixtures.items():
        for arm, settings in config.retrain.named_arms.items():
            model = settings.models([name], apart=config.leaves_out)[name]
            metas = [ModelMeta.from_artifact(models[each]) for each in config.replicate_seeds(model) if each in models]
            for target in mixture.targets:
                id = targets[target].id
                of_seeds = [(meta.held_out_curves or {}).get(id) for meta in metas]
                measured = [each for each in of_seeds if each is not None and each.curve]
                if measured and len(measured) == len(metas):
                    curves.setdefault(name, {}).setdefault(target, {})[arm] = _mean_curve(measured)
    return curves


def _mean_curve(by_seed: Sequence[HeldOutCurve]) -> HeldOutCurve:
    """Return the mean at the points that every seed has."""
    losses = [dict(each.curve) for each in by_seed]
    points = [
        (tokens, mean(loss[tokens] for loss in losses))
        for tokens in losses[0]
        if all(tokens in loss for loss in losses)
    ]
    return HeldOutCurve(by_seed[0].rows, by_seed[0].tokens, points)


def with_held_out_results(
    config: RunConfig,
    storage: Storage,
    mixtures: Mapping[str, Mixture],
    artifacts: ArmArtifacts,
    available_tokens: Mapping[str, int],
) -> dict[str, Mixture]:
    """Return the mixtures with what their arms' models reached, and what the search cost beside one retraining.

    ``available_tokens``: source -> its training tokens.
    """
    models = arm_models(config, available_tokens, mixtures)
    broken = {
        name: limits_broken(
            config, {source: available_tokens[source] for source in model.source_shares}, model.source_shares
        )
        for name, model in models.items()
    }
    return {
        name: _with_results(config, storage, name, mixture, artifacts, broken) for name, mixture in mixtures.items()
    }


def _with_results(
    config: RunConfig,
    storage: Storage,
    name: str,
    mixture: Mixture,
    artifacts: ArmArtifacts,
    broken: Mapping[str, list[str]],
) -> Mixture:
    """Return one mixture with its arms. ``broken``: model -> the limits that its shares do not keep."""
    arms = config.retrain.named_arms
    names_of = {arm: settings.models([name], apart=config.leaves_out)[name] for arm, settings in arms.items()}
    models = {arm: list(config.replicate_seeds(model)) for arm, model in names_of.items()}
    losses: dict[str, dict[str, ArmLoss]] = {arm: {} for arm in arms}
    records: dict[str, dict[str, HeldOutLoss]] = {arm: {} for arm in arms}
    for target in mixture.targets:
        columns = {model: artifacts.held_out[target][model] for names in models.values() for model in names}
        cache = read_cache(storage, artifacts.rows[target], "held_out", columns)
        first = {arm: names[0] for arm, names in models.items()}
        metrics = _metrics(config, storage, artifacts, target, cache, first)
        for arm, loss in compare(cache, config.mixture.weighting, models, next(iter(arms))).items():
            losses[arm][target] = loss
            records[arm][target] = loss.record(metrics.get(arm))
    is_plain = not any(isinstance(arm, ArmConfig) for arm in config.retrain.arms)
    retrain = {}
    for arm, settings in arms.items():
        facts: dict[str, object] = {}
        if not is_plain and settings.objective is not None:
            facts |= {"mixture": settings.mixture or "shares", "objective": settings.objective.kind}
        if broken[models[arm][0]]:
            facts["outside"] = broken[models[arm][0]]
        trained = [artifacts.models[model] for model in models[arm]]
        facts |= _held_out_facts(config, losses[arm], records[arm]) | _training_facts(storage, trained)
        retrain[arm] = ArmResult.model_validate(facts)
    return mixture.model_copy(update={"retrain": retrain, "compute": _compute(config, mixture, artifacts)})


def _metrics(
    config: RunConfig,
    storage: Storage,
    artifacts: ArmArtifacts,
    target: str,
    cache: PredictionCache,
    models: Mapping[str, str],
) -> dict[str, dict[str, MetricResult]]:
    """Return arm -> metric -> its value on the held-out examples or multiple-choice items of a target; empty for other
    texts. ``models``: by arm."""
    if target in artifacts.options:
        columns = {arm: artifacts.options[target][model] for arm, model in models.items()}
        finds = read_choices(storage, artifacts.rows[target], columns)
        by_arm = {name: dict(zip(columns, found.T, strict=True)) for name, found in finds.items()}
        return choice_metrics(by_arm, next(iter(models)))
    if artifacts.classes is None:
        return {}
    values = cache.log_probs if cache.errors is None else cache.errors
    return example_metrics(
        {arm: values[:, cache.models.index(model)] for arm, model in models.items()},
        read_labels(storage, artifacts.rows[target], "held_out"),
        classes=artifacts.classes,
        reference=next(iter(models)),
        seed=config.seed,
    )


def _held_out_facts(
    config: RunConfig, losses: Mapping[str, ArmLoss], records: Mapping[str, HeldOutLoss]
) -> dict[str, object]:
    """Return what an arm reached on held-out documents. ``losses``, ``records``: target -> the arm's loss on it."""
    if len(records) == 1:
        (record,) = records.values()
        return record.model_dump()
    # The losses that retrained models are compared with in a worst case are not predicted by the proxies.
    is_worst = config.mixture.over == "worst"
    joint = {} if is_worst else mean_over_targets(losses, config.mixture.target_weights).record().model_dump()
    return {**joint, "targets": dict(records)}


def _training_facts(storage: Storage, models: Sequence[Artifact]) -> dict[str, object]:
    """Return what the training of an arm's models took, and their losses on the sources: means over the models."""
    trained = [ModelMeta.from_artifact(model) for model in models]
    group_weights = {
        group: mean(meta.final_group_weights[group] for meta in trained) for group in trained[0].final_group_weights
    }
    source_losses = [meta.source_losses for meta in trained if meta.source_losses]
    sources = {
        name: _source_result([losses[name] for losses in source_losses])
        for name in (source_losses[0] if len(source_losses) == len(trained) else {})
    }
    return {
        "tokens": trained[0].tokens,
        "seconds": mean(meta.seconds for meta in trained),
        "parameters": trained[0].parameters,
        **({"group_weights": group_weights} if group_weights else {}),
        **({"sources": sources} if sources else {}),
        "model": storage.location(next(iter(models[0].files.values())).path.rpartition("/")[0]),
    }


def _source_result(by_seed: Sequence[SourceLoss]) -> SourceResult:
    """Return an arm on one source. Every seed leaves other rows unread, so that their errors are independent."""
    result = SourceResult(share=mean(each.share for each in by_seed), rows=sum(each.rows for each in by_seed))
    estimates = [
        SeedEstimate(each.loss, np.array([seed]), np.array([each.reach / Z95]))
        for seed, each in enumerate(by_seed)
        if each.loss is not None and each.reach is not None
    ]
    if len(estimates) < len(by_seed):
        return result
    low, high = interval_of_mean(estimates)
    loss = mean(each.value for each in estimates)
    return SourceResult(**result.model_dump(), nll=loss, nll_low=low, nll_high=high)


def _compute(config: RunConfig, mixture: Mixture, artifacts: ArmArtifacts) -> SearchCompute | None:
    """Return what the search cost beside one retraining; None for boosted trees, whose operations are not known."""
    if any(isinstance(section.model, TreesModel) for section in (config.proxy, config.retrain)):
        return None
    retrained = ModelMeta.from_artifact(next(iter(artifacts.models.values())))
    proxies = [ModelMeta.from_artifact(proxy) for proxy in artifacts.proxies.values()]
    scored_tokens = sum(tokens_read(artifacts.rows[target], "fit") for target in mixture.targets)
    return SearchCost(
        proxies=[Work(proxy.parameters, proxy.tokens, proxy.trained_parameters) for proxy in proxies],
        scored=[Work(proxy.parameters, scored_tokens) for proxy in proxies],
        retrained=Work(retrained.parameters, retrained.tokens, retrained.trained_parameters),
    ).compute()
