"""What retraining will bring, measured before it: every arm's mixture trained as models of the swarm, and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mixray.cache import ArmLoss, compare, mean_over_targets, read_cache
from mixray.config import RunConfig
from mixray.config.objective import ErmConfig
from mixray.methods import MeasuredDifference, outlook
from mixray.mixture import ArmForecast, Mixture
from mixray.numerics import SeedEstimate
from mixray.search.arms import arm_models
from mixray.search.swarm import MeasuredSwarm, NoiseFloor, Shares, swarm_seeds, swarm_tokens
from mixray.store import Artifact, Storage

Floats = NDArray[np.float64]


def rehearsed_mixtures(
    config: RunConfig, available_tokens: Mapping[str, int], mixtures: Mapping[str, Mixture]
) -> dict[str, Shares]:
    """Return the mixtures to train cheap models on so that arms can be compared before they are retrained, by model.

    Arms with a robust objective are left out, for the swarm is trained on the mean loss. There are none where nothing
    can be forecast; see ``with_forecast``.
    """
    assert config.swarm is not None, "only a run with a swarm forecasts"
    if not _can_forecast(config) or config.swarm.replicates < 2:
        return {}
    models = arm_models(config, available_tokens, mixtures)
    names = [model for arm in _plain_arms(config) for model in config.retrain.named_arms[arm].models(mixtures).values()]
    return {name: models[name].source_shares for name in dict.fromkeys(names)}


def with_forecast(
    config: RunConfig,
    storage: Storage,
    name: str,
    mixture: Mixture,
    *,
    available_tokens: Mapping[str, int],
    rows: Mapping[str, Artifact],
    held_out: Mapping[str, Mapping[str, Artifact]],
    swarm: MeasuredSwarm,
) -> Mixture:
    """Return a mixture with the forecast of every arm's difference to the first arm.

    There is none where one of the two has a robust objective, for a worst case over targets, where the held-out part is
    a single document, and where nothing tells how far seeds differ: of fewer than two replicates or mixtures.

    Args:
        config: the run file.
        storage: where the columns are.
        name: of the mixture.
        mixture: with the choices of other methods.
        available_tokens: source -> its training tokens.
        rows: target -> its rows.
        held_out: target -> model of the swarm on an arm's mixture -> its column on the held-out part.
        swarm: the mixtures of the design, which show the noise of seeds, too.
    """
    reference, arms = next(iter(config.retrain.named_arms)), _plain_arms(config)
    if not _can_forecast(config):
        return mixture
    models = {arm: list(swarm_seeds(config, config.retrain.named_arms[arm].models([name])[name])) for arm in arms}
    by_target = {}
    for target in mixture.targets:
        columns = {model: held_out[target][model] for each in models.values() for model in each}
        cache = read_cache(storage, rows[target], "held_out", columns)
        by_target[target] = compare(cache, config.mixture.weighting, models, reference)
    losses = {
        arm: mean_over_targets({target: each[arm] for target, each in by_target.items()}, config.mixture.target_weights)
        for arm in arms
    }
    by_mixture = _losses_by_seed(config, mixture.targets, losses, swarm)
    noise = NoiseFloor.of(by_mixture)
    if noise is None:
        return mixture
    spread = float(by_mixture.mean(axis=1).std(ddof=1))
    token_ratio = config.retrain_tokens(available_tokens) / swarm_tokens(config)
    forecasts = {}
    for arm in arms:
        measured = measured_difference(losses[arm].differences, noise, spread)
        if arm != reference and measured is not None:
            expected = outlook(
                measured, token_ratio=token_ratio, replicates=config.retrain.replicates, seed=config.seed
            )
            forecasts[arm] = ArmForecast(
                reference=reference,
                measured=measured.value,
                measured_interval=measured.interval,
                documents=losses[arm].documents,
                seeds=measured.replicates,
                tokens=swarm_tokens(config),
                expected=expected.expected,
                interval=(expected.low, expected.high),
                probability=expected.probability,
            )
    return mixture.model_copy(update={"forecast": forecasts})


def _can_forecast(config: RunConfig) -> bool:
    """Return whether the first arm is trained on the mean loss, for targets whose losses are averaged."""
    return next(iter(config.retrain.named_arms)) in _plain_arms(config) and config.mixture.over != "worst"


def _plain_arms(config: RunConfig) -> list[str]:
    """Return the arms whose training minimises the mean loss."""
    return [name for name, arm in config.retrain.named_arms.items() if isinstance(arm.objective, ErmConfig)]


def _losses_by_seed(
    config: RunConfig, targets: Sequence[str], arms: Mapping[str, ArmLoss], swarm: MeasuredSwarm
) -> Floats:
    """Return the held-out losses of all different mixtures, float64 (mixtures, seeds), as means over the targets."""
    counts = np.array([config.mixture.target_weights.get(target, 1.0) for target in targets])
    design = sum(
        share * swarm.losses["held_out"][target] for share, target in zip(counts / counts.sum(), targets, strict=True)
    )
    return np.unique(np.vstack([np.asarray(design), *(loss.nll for loss in arms.values())]), axis=0)


def measured_difference(seeds: Sequence[SeedEstimate], noise: NoiseFloor, spread: float) -> MeasuredDifference | None:
    """Return the mean difference over seeds; None where the documents do not tell its standard error.

    ``spread``: the standard deviation of the losses over mixtures, nats per token.
    """
    if not seeds:
        return None
    influences = np.mean([each.influences for each in seeds], axis=0)
    document_se = float(np.sqrt(influences @ influences))
    if not np.isfinite(document_se):
        return None
    value = float(np.mean([each.value for each in seeds]))
    return MeasuredDifference(value, document_se, noise.difference_sd, noise.degrees, len(seeds), spread)
