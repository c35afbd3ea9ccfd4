"""The arms of a comparison: which models are retrained, on which shares, and what a target's mixture learns from them.

``mixmin`` is one model per mixture, ``mixmin-<its name>``; a baseline is one model for all, named as its arm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mixray.config import RunConfig
from mixray.mixture import Mixture
from mixray.report import SearchCost, Work
from mixray.search.constraints import baseline_mixtures, natural_tokens
from mixray.store import Artifact, Storage

Shares = dict[str, float]


def arms_of(config: RunConfig, mixture: str) -> dict[str, str]:
    """The arms that a mixture, by its name, is compared with, itself among them: arm -> the name of its model."""
    return {arm: f"mixmin-{mixture}" if arm == "mixmin" else arm for arm in config.retrain.arms}


def arm_shares(
    config: RunConfig, available_tokens: Mapping[str, int], mixtures: Mapping[str, Mixture]
) -> dict[str, Shares]:
    """Every model to retrain: its name -> source -> share of its training tokens."""
    baselines = baseline_mixtures(natural_tokens(config, available_tokens))
    found: dict[str, Shares] = {}
    for arm in config.retrain.arms:
        if arm == "mixmin":
            found |= {f"mixmin-{name}": mixture.weights for name, mixture in mixtures.items()}
        else:
            found[arm] = baselines[arm].weights
    return found


def with_results(
    config: RunConfig,
    storage: Storage,
    name: str,
    mixture: Mixture,
    rows: Mapping[str, Artifact],
    proxies: Mapping[str, Artifact],
    models: Mapping[str, Artifact],
    realised: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> Mixture:
    """The mixture with what its arms' models reached, and what the search cost beside one retraining.

    ``realised``: target -> arm -> facts about it on the target's held-out part.
    """
    retrain = {
        arm: {
            **_over_targets({target: realised[target][arm] for target in mixture.targets}, config),
            "tokens": models[model].meta["tokens"],
            "seconds": models[model].meta["seconds"],
            "parameters": models[model].meta["parameters"],
            **_final_weights(models[model].meta),
            "model": storage.location(next(iter(models[model].files.values())).path.rpartition("/")[0]),
        }
        for arm, model in arms_of(config, name).items()
    }
    trained = next(iter(models.values())).meta
    scored = sum(rows[target].meta["fit"]["tokens"] for target in mixture.targets)
    cost = SearchCost(
        proxies=[Work(proxy.meta["parameters"], proxy.meta["tokens"]) for proxy in proxies.values()],
        scored=[Work(proxy.meta["parameters"], scored) for proxy in proxies.values()],
        retrained=Work(trained["parameters"], trained["tokens"]),
    )
    return mixture.model_copy(update={"retrain": retrain, "compute": cost.fields()})


def _final_weights(meta: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """How a robust objective weighed an arm's sources in the end."""
    curves = meta.get("group_weights", {})
    return {"group_weights": {source: curve[-1][1] for source, curve in curves.items()}} if curves else {}


def _over_targets(facts: Mapping[str, Mapping[str, float]], config: RunConfig) -> dict[str, Any]:
    """One target's facts as they are; of several their mean, by ``mixture.target_weights``, with each in ``targets``.

    Targets are different documents, so the squared errors of their differences add. For the worst case there is no
    mean: what the retrained models' losses are to be compared with, the proxies do not say.
    """
    if len(facts) == 1:
        return dict(next(iter(facts.values())))
    each = {"targets": {target: dict(own) for target, own in facts.items()}}
    if config.mixture.over == "worst":
        return each
    wanted = {target: config.mixture.target_weights.get(target, 1.0) for target in facts}
    weights = {target: weight / sum(wanted.values()) for target, weight in wanted.items()}
    joint: dict[str, Any] = {"documents": sum(int(own["documents"]) for own in facts.values())}
    for key in ("nll", "nll_document", "nll_token", "difference"):
        if all(key in own for own in facts.values()):
            joint[key] = sum(weights[target] * own[key] for target, own in facts.items())
    if all("difference_high" in own for own in facts.values()):
        halves = [weights[target] * (own["difference_high"] - own["difference"]) for target, own in facts.items()]
        half = math.hypot(*halves)
        joint |= {"difference_low": joint["difference"] - half, "difference_high": joint["difference"] + half}
    return joint | each
