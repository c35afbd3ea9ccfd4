"""The arms of a comparison: which models are retrained, on which shares, and what a target's mixture learns from them.

``mixmin`` is one model per target, ``mixmin-<target>``; a baseline is one model for all targets, named as its arm.
"""

from __future__ import annotations

from collections.abc import Mapping

from mixray.config import RunConfig
from mixray.mixture import Mixture
from mixray.report import SearchCost, Work
from mixray.search import baseline_mixtures, natural_tokens
from mixray.store import Artifact, Storage

Shares = dict[str, float]


def arms_of(config: RunConfig, target: str) -> dict[str, str]:
    """The arms compared on a target: arm -> the name of its model."""
    return {arm: f"mixmin-{target}" if arm == "mixmin" else arm for arm in config.retrain.arms}


def arm_shares(
    config: RunConfig, available_tokens: Mapping[str, int], mixtures: Mapping[str, Mixture]
) -> dict[str, Shares]:
    """Every model to retrain: its name -> source -> share of its training tokens."""
    baselines = baseline_mixtures(natural_tokens(config, available_tokens))
    found: dict[str, Shares] = {}
    for arm in config.retrain.arms:
        if arm == "mixmin":
            found |= {f"mixmin-{target}": mixture.weights for target, mixture in mixtures.items()}
        else:
            found[arm] = baselines[arm].weights
    return found


def with_results(
    config: RunConfig,
    storage: Storage,
    mixture: Mixture,
    rows: Artifact,
    proxies: Mapping[str, Artifact],
    models: Mapping[str, Artifact],
    realised: Mapping[str, Mapping[str, float]],
) -> Mixture:
    """The target's mixture with what its arms' models reached, and what the search cost beside one retraining."""
    retrain = {
        arm: {
            **realised[arm],
            "tokens": models[name].meta["tokens"],
            "seconds": models[name].meta["seconds"],
            "parameters": models[name].meta["parameters"],
            "model": storage.location(next(iter(models[name].files.values())).path.rpartition("/")[0]),
        }
        for arm, name in arms_of(config, mixture.targets[0]).items()
    }
    trained = next(iter(models.values())).meta
    cost = SearchCost(
        proxies=[Work(proxy.meta["parameters"], proxy.meta["tokens"]) for proxy in proxies.values()],
        scored=[Work(proxy.meta["parameters"], rows.meta["fit"]["tokens"]) for proxy in proxies.values()],
        retrained=Work(trained["parameters"], trained["tokens"]),
    )
    return mixture.model_copy(update={"retrain": retrain, "compute": cost.fields()})
