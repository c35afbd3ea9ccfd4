"""The mixtures of other methods than mixmin: chosen from a swarm, and judged by the same prediction cache.

Each is described in the mixture file, ``rivals``: its shares, what the method expects of them and what it cost.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mixray.config import RunConfig
from mixray.config.mixture import SWARM_METHODS
from mixray.methods import (
    Choice,
    best_expected,
    best_of_swarm,
    boosted_trees,
    gaussian_process,
    mixing_law,
    random_mixtures,
    ridge,
)
from mixray.methods.designs import mixtures_around
from mixray.methods.surrogates import Fit, Predict
from mixray.mixture import Mixture, RivalMixture
from mixray.report import Work
from mixray.search.problem import SearchProblem, natural_tokens
from mixray.search.solving import OpenPredictions, SolvedMixture, StoredCaches
from mixray.search.swarm import MeasuredSwarm, random_prior, within_limits, without_small_shares
from mixray.store import Artifact, Artifacts, ModelMeta, Storage, fingerprint
from mixray.store.target_parts import tokens_read

Floats = NDArray[np.float64]

CANDIDATES = 20_000
"""Random mixtures that a method chooses from."""
NEAR, MEAN_OF_NEAR = 1000, 16
"""Where every candidate costs a pass over the prediction cache: so many near the computed mixture and as many random
ones, and the mean of so many of the best."""
FITS: dict[str, Fit] = {
    "ridge": ridge,
    "regmix": boosted_trees,
    "mixing_law": mixing_law,
    "gaussian_process": gaussian_process,
}


def swarm_methods(config: RunConfig) -> list[str]:
    """Return the methods that learn from the swarm and that an arm names, in the order of the arms."""
    named = dict.fromkeys(arm.mixture for arm in config.retrain.named_arms.values())
    return [method for method in named if method is not None and method in SWARM_METHODS]


def with_rivals(
    artifacts: Artifacts,
    config: RunConfig,
    open_predictions: OpenPredictions,
    solved: SolvedMixture,
    *,
    targets: StoredCaches,
    swarm: MeasuredSwarm,
    models: Mapping[str, Artifact],
    available_tokens: Mapping[str, int],
) -> SolvedMixture:
    """Return a mixture with what every method that an arm names chooses for the same targets.

    A choice that is stored is not made again, so that a run that continues on another processor trains the same arms.

    Args:
        artifacts: where choices are stored.
        config: the run file.
        open_predictions: makes the prediction caches available.
        solved: the mixture.
        targets: the caches of its targets.
        swarm: the mixtures of the design, without those of arms.
        models: the swarm's models on them.
        available_tokens: source -> its training tokens.
    """
    methods = swarm_methods(config)
    if not methods:
        return solved
    columns = [[column.id for column in by_source.values()] for _, by_source in targets.values()]
    limits = config.mixture.model_dump(mode="json", exclude={"shards"})
    budget = config.retrain_tokens(available_tokens)
    sizes = [list(available_tokens.items()), list(natural_tokens(config, available_tokens).items())]
    facts = [methods, [model.id for model in models.values()], columns, limits, budget, solved.mixture.weights]
    draft = artifacts.draft("rivals", fingerprint(["rivals", 2, *facts, *sizes, config.seed]))
    stored = artifacts.find(draft.kind, draft.id)
    if stored is None:
        with open_predictions(artifacts.storage, targets) as predictions:
            search = SearchProblem.of(predictions, config, available_tokens)
            content = _described(search, choices_from(search, solved.mixture, methods, swarm, available_tokens))
        record = draft.write("rivals.json", json.dumps(content).encode())
        stored = draft.publish({"rivals.json": record}, {"methods": methods})
    described = json.loads(artifacts.storage.read_record(stored.files["rivals.json"]))
    cost = swarm_flops(models, sum(tokens_read(rows, "fit") for rows, _ in targets.values()))
    rivals = {
        method: RivalMixture.model_validate(facts | {"search_flops": cost, "models": len(models)})
        for method, facts in described["rivals"].items()
    }
    losses = solved.mixture.loss | described["loss"]
    mixture = solved.mixture.model_copy(update={"rivals": solved.mixture.rivals | rivals, "loss": losses})
    return SolvedMixture(mixture, solved.trace)


def with_doremi(
    config: RunConfig,
    storage: Storage,
    open_predictions: OpenPredictions,
    mixture: Mixture,
    *,
    targets: StoredCaches,
    proxy: Artifact,
    available_tokens: Mapping[str, int],
) -> Mixture:
    """Return a mixture with what DoReMi chooses, which is the same for all targets.

    ``targets``: the caches of the mixture's targets, which say what the proxies of mixmin expect of it; ``proxy``: that
    of DoReMi; ``available_tokens``: source -> its training tokens.
    """
    meta = ModelMeta.from_artifact(proxy)
    assert meta.mean_group_weights is not None, "the model is not DoReMi's proxy"
    chosen = np.array([[meta.mean_group_weights[source] for source in mixture.sources]])
    with open_predictions(storage, targets) as predictions:
        search = SearchProblem.of(predictions, config, available_tokens)
        shares = within_limits(search.convex.feasible, without_small_shares(chosen, search.least_share))[0]
        losses = replace(search, baselines={"doremi": shares}).baseline_losses
    rival = RivalMixture(
        weights=search.by_source(shares),
        expected=losses.get("doremi", search.convex.loss(shares)),
        rank_correlation=None,
        models=2,
        search_flops=doremi_flops(Work(meta.parameters, meta.tokens, meta.trained_parameters)),
    )
    rivals = mixture.rivals | {"doremi": rival}
    return mixture.model_copy(update={"rivals": rivals, "loss": mixture.loss | losses})


def doremi_flops(proxy: Work) -> float:
    """Return the operations of DoReMi: training the reference model and the proxy on as many tokens, and scoring these
    with the reference model."""
    return 2 * proxy.training_flops + proxy.scoring_flops


def swarm_flops(models: Mapping[str, Artifact], scored_tokens: int) -> float:
    """Return the operations of training a swarm and of scoring so many tokens with each of its models."""
    metas = [ModelMeta.from_artifact(model) for model in models.values()]
    trained = sum(Work(meta.parameters, meta.tokens, meta.trained_parameters).training_flops for meta in metas)
    return trained + sum(Work(meta.parameters, scored_tokens).scoring_flops for meta in metas)


def choices_from(
    search: SearchProblem,
    answer: Mixture,
    methods: Sequence[str],
    swarm: MeasuredSwarm,
    available_tokens: Mapping[str, int],
) -> dict[str, Choice]:
    """Return what each method chooses from the swarm."""
    config, targets = search.config, answer.targets
    weights = np.array([config.mixture.target_weights.get(target, 1.0) for target in targets])
    weights = weights / weights.sum()

    def combined(losses: Floats) -> Floats:
        return np.asarray(losses @ weights, np.float64)

    feasible = search.convex.feasible
    prior = random_prior(config, available_tokens)
    shares = np.array([answer.weights[source] for source in search.sources])
    losses = swarm.fit_losses(targets)
    candidates = within_limits(feasible, random_mixtures(CANDIDATES, prior, config.seed))
    near = within_limits(feasible, mixtures_around(NEAR, shares[None], prior, config.seed))
    choices = {}
    for method in methods:
        if method == "random_search":
            choice = best_of_swarm(swarm.shares, losses, combined)
        elif method == "mixmin_with_swarm":
            means = [_prediction(search, target) for target in range(len(targets))]
            fits = [partial(gaussian_process, prior_mean=mean) for mean in means]
            mixtures = np.concatenate([near, candidates[:NEAR]])
            choice = best_expected(fits, swarm.shares, losses, mixtures, combined, mean_of=MEAN_OF_NEAR)
        else:
            choice = best_expected([FITS[method]] * len(targets), swarm.shares, losses, candidates, combined)
        choices[method] = choice
    return choices


def _prediction(search: SearchProblem, target: int) -> Predict:
    """Return the loss of mixtures on a target as the proxies predict it."""
    objective = search.convex.objectives[target]

    def predict(mixtures: Floats) -> Floats:
        # A source that alone explains a row must keep a share: its loss would be infinite.
        inside = 0.999 * mixtures + 0.001 * search.convex.feasible.centre
        return np.array([objective.loss(shares) for shares in inside])

    return predict


def _described(search: SearchProblem, choices: Mapping[str, Choice]) -> dict[str, dict[str, object]]:
    """Return the sections of the mixture file that the choices add to, as JSON values."""
    settled = {
        method: within_limits(
            search.convex.feasible, without_small_shares(choice.source_shares[None], search.least_share)
        )[0]
        for method, choice in choices.items()
    }
    return {
        "rivals": {
            method: {
                "weights": search.by_source(settled[method]),
                "expected": choice.predicted,
                "rank_correlation": choice.rank_correlation,
            }
            for method, choice in choices.items()
        },
        "loss": dict(replace(search, baselines=settled).baseline_losses),
    }
