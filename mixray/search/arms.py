"""The arms of a comparison: which models are retrained, on which shares, and what they reached on held-out documents.

The arm ``mixmin`` is one model per mixture, named ``mixmin-<mixture>``; a baseline is one model for all, named as its
arm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mixray.cache import PredictionCache, compare, read_cache, read_labels
from mixray.config import RunConfig
from mixray.config.training import TreesModel
from mixray.mixture import ArmResult, HeldOutLoss, MetricResult, Mixture, SearchCompute, SourceResult
from mixray.report import SearchCost, Work, example_metrics
from mixray.report.comparison import mean_over_targets
from mixray.search.problem import baseline_shares, natural_tokens
from mixray.store import Artifact, ModelMeta, SourceLoss, Storage

Shares = dict[str, float]


@dataclass(frozen=True)
class ArmArtifacts:
    """The stored artifacts that a comparison of arms is read from.

    ``rows``: target -> its rows; ``proxies``: source -> its proxy; ``models``: name -> retrained model;
    ``held_out``: target -> model -> the model's column of the prediction cache of the held-out part; ``classes``: how
    many classes examples have, 0 where their labels are numbers, None for texts.
    """

    rows: Mapping[str, Artifact]
    proxies: Mapping[str, Artifact]
    models: Mapping[str, Artifact]
    held_out: Mapping[str, Mapping[str, Artifact]]
    classes: int | None = None


def model_names(config: RunConfig, mixture_name: str) -> dict[str, str]:
    """Return the arms that a mixture is compared with, itself among them: arm -> name of its model."""
    return {arm: f"mixmin-{mixture_name}" if arm == "mixmin" else arm for arm in config.retrain.arms}


def arm_shares(
    config: RunConfig, available_tokens: Mapping[str, int], mixtures: Mapping[str, Mixture]
) -> dict[str, Shares]:
    """Return every model to retrain: its name -> source -> share of its training tokens."""
    baselines = baseline_shares(natural_tokens(config, available_tokens))
    shares: dict[str, Shares] = {}
    for arm in config.retrain.arms:
        if arm == "mixmin":
            shares |= {f"mixmin-{name}": mixture.weights for name, mixture in mixtures.items()}
        else:
            shares[arm] = baselines[arm]
    return shares


def with_held_out_results(
    config: RunConfig, storage: Storage, mixtures: Mapping[str, Mixture], artifacts: ArmArtifacts
) -> dict[str, Mixture]:
    """Return the mixtures with what their arms' models reached, and what the search cost beside one retraining."""
    return {name: _with_results(config, storage, name, mixture, artifacts) for name, mixture in mixtures.items()}


def _with_results(config: RunConfig, storage: Storage, name: str, mixture: Mixture, artifacts: ArmArtifacts) -> Mixture:
    models = model_names(config, name)
    losses: dict[str, dict[str, HeldOutLoss]] = {arm: {} for arm in models}
    for target in mixture.targets:
        columns = {arm: artifacts.held_out[target][model] for arm, model in models.items()}
        cache, reference = read_cache(storage, artifacts.rows[target], "held_out", columns), config.retrain.arms[0]
        metrics = _metrics(config, storage, artifacts, target, cache)
        for arm, facts in compare(cache, config.mixture.weighting, reference).items():
            losses[arm][target] = HeldOutLoss.model_validate(facts | ({"metrics": metrics[arm]} if metrics else {}))
    retrain = {arm: _arm_result(config, storage, artifacts.models[model], losses[arm]) for arm, model in models.items()}
    return mixture.model_copy(update={"retrain": retrain, "compute": _compute(config, mixture, artifacts)})


def _metrics(
    config: RunConfig, storage: Storage, artifacts: ArmArtifacts, target: str, cache: PredictionCache
) -> dict[str, dict[str, MetricResult]]:
    """Return arm -> metric -> its value on the held-out examples of a target; empty for texts."""
    if artifacts.classes is None:
        return {}
    values = cache.log_probs if cache.errors is None else cache.errors
    return example_metrics(
        dict(zip(cache.models, values.T, strict=True)),
        read_labels(storage, artifacts.rows[target], "held_out"),
        classes=artifacts.classes,
        reference=config.retrain.arms[0],
        seed=config.seed,
    )


def _arm_result(config: RunConfig, storage: Storage, model: Artifact, losses: Mapping[str, HeldOutLoss]) -> ArmResult:
    """Return what an arm's model reached. ``losses``: target -> the arm's held-out loss on it."""
    joint, several = next(iter(losses.values())), len(losses) > 1
    if several and config.mixture.over == "worst":
        joint = HeldOutLoss()  # the losses that retrained models are compared with are not predicted by the proxies
    elif several:
        joint = mean_over_targets(losses, config.mixture.target_weights)
    trained = ModelMeta.from_artifact(model)
    group_weights = trained.final_group_weights
    return ArmResult.model_validate(
        {
            **joint.model_dump(),
            **({"targets": dict(losses)} if several else {}),
            "tokens": trained.tokens,
            "seconds": trained.seconds,
            "parameters": trained.parameters,
            **({"group_weights": group_weights} if group_weights else {}),
            **({"sources": _source_results(trained.source_losses)} if trained.source_losses else {}),
            "model": storage.location(next(iter(model.files.values())).path.rpartition("/")[0]),
        }
    )


def _source_results(losses: Mapping[str, SourceLoss]) -> dict[str, SourceResult]:
    results = {}
    for name, measured in losses.items():
        result = SourceResult(share=measured.share, rows=measured.rows)
        if measured.loss is not None and measured.reach is not None:
            low, high = measured.loss - measured.reach, measured.loss + measured.reach
            result = SourceResult(**result.model_dump(), nll=measured.loss, nll_low=low, nll_high=high)
        results[name] = result
    return results


def _compute(config: RunConfig, mixture: Mixture, artifacts: ArmArtifacts) -> SearchCompute | None:
    """Return what the search cost beside one retraining; None for boosted trees, whose operations are not known."""
    if any(isinstance(section.model, TreesModel) for section in (config.proxy, config.retrain)):
        return None
    retrained = ModelMeta.from_artifact(next(iter(artifacts.models.values())))
    proxies = [ModelMeta.from_artifact(proxy) for proxy in artifacts.proxies.values()]
    scored_tokens = sum(artifacts.rows[target].meta["fit"]["tokens"] for target in mixture.targets)
    return SearchCost(
        proxies=[Work(proxy.parameters, proxy.tokens) for proxy in proxies],
        scored=[Work(proxy.parameters, scored_tokens) for proxy in proxies],
        retrained=Work(retrained.parameters, retrained.tokens),
    ).compute()
