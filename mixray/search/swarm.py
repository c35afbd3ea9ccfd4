"""The swarm of a run: which mixtures its cheap models are trained on, and what they reached.

A mixture of the design is named ``mixture.0``, ``mixture.1`` and so on, one of an arm as the arm's model. The model of
a further replicate has its seed in its name, as in ``mixture.0.seed1``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mixray.cache import read_cache
from mixray.config import RunConfig
from mixray.export.swarm import Swarm
from mixray.methods import swarm_mixtures, temperature
from mixray.mixture import Mixture
from mixray.search.problem import baseline_shares, feasible_set, natural_tokens, prior_shares
from mixray.simplex import FeasibleSet
from mixray.store import Artifact, Storage
from mixray.store.target_parts import PARTS, TargetPart

Floats = NDArray[np.float64]
Shares = dict[str, float]


def swarm_tokens(config: RunConfig) -> int:
    """Return the training tokens of each model of the swarm."""
    assert config.swarm is not None, "only a run with a swarm asks"
    assert config.proxy_tokens is not None, "a swarm of boosted trees is refused"
    return config.swarm.tokens or config.proxy_tokens


def swarm_seeds(config: RunConfig, mixture: str) -> dict[str, int]:
    """Return the models on one mixture: name -> seed."""
    assert config.swarm is not None, "only a run with a swarm asks"
    return config.replicate_seeds(mixture, config.swarm.replicates)


def design_mixtures(
    config: RunConfig, available_tokens: Mapping[str, int], answers: Mapping[str, Mixture]
) -> dict[str, Shares]:
    """Return the mixtures of the design: name -> source shares, within the run file's limits.

    ``available_tokens``: source -> its training tokens; ``answers``: the computed mixtures.
    """
    assert config.swarm is not None, "only a run with a swarm asks"
    sources = list(available_tokens)
    if config.swarm.design == "around_answer":
        baselines = baseline_shares(config, available_tokens)
        arrays = {name: np.array(list(shares.values())) for name, shares in baselines.items()}
        prior = prior_shares(config.mixture, sources, arrays)
    else:
        prior = random_prior(config, available_tokens)
    around = np.array([[mixture.weights[source] for source in sources] for mixture in answers.values()])
    drawn = swarm_mixtures(config.swarm.design, config.swarm.mixtures, prior, around, config.seed)
    feasible = feasible_set(config.mixture, sources, available_tokens, config.retrain_tokens(available_tokens))
    least = config.row_tokens / swarm_tokens(config)
    settled = within_limits(feasible, without_small_shares(drawn, least))
    return {
        f"mixture.{number}": dict(zip(sources, shares, strict=True)) for number, shares in enumerate(settled.tolist())
    }


def random_prior(config: RunConfig, available_tokens: Mapping[str, int]) -> Floats:
    """Return the shares that random mixtures scatter around: half way from natural to balanced."""
    return np.array(list(temperature(natural_tokens(config, available_tokens)).weights.values()))


def within_limits(feasible: FeasibleSet, mixtures: Floats) -> Floats:
    """Return for each mixture, float64 (mixtures, sources), the nearest one that satisfies the limits."""
    if not feasible.groups and not feasible.lower.any() and (feasible.upper == 1).all():
        return mixtures
    settled = [_settled(feasible, shares) for shares in mixtures]
    return np.array(settled).reshape(mixtures.shape)


def _settled(feasible: FeasibleSet, shares: Floats) -> Floats:
    repaired = feasible.repair(shares)
    # Repairing is for rounding: it would give all that is above a limit to one source.
    return repaired if np.allclose(repaired, shares, rtol=0, atol=1e-9) else feasible.projection(shares)


def without_small_shares(mixtures: Floats, least: float) -> Floats:
    """Return the mixtures without shares below that of one training window, ``least``."""
    large = np.where(mixtures < min(least, 1 / mixtures.shape[1]), 0.0, mixtures)
    return np.asarray(large / large.sum(axis=1, keepdims=True), np.float64)


@dataclass(frozen=True, eq=False)
class MeasuredSwarm:
    """What the models of a swarm reached.

    ``names``: of the mixtures; ``shares``: float64 (mixtures, sources); ``losses``: part -> target -> float64
    (mixtures, replicates), nats per token, weighted as the run file says.
    """

    names: list[str]
    sources: list[str]
    shares: Floats
    losses: dict[TargetPart, dict[str, Floats]]

    @classmethod
    def read(
        cls,
        storage: Storage,
        config: RunConfig,
        mixtures: Mapping[str, Shares],
        rows: Mapping[str, Artifact],
        columns: Mapping[TargetPart, Mapping[str, Mapping[str, Artifact]]],
    ) -> Self:
        """Read the losses from stored columns. ``rows``: by target; ``columns``: part -> target -> model -> column."""
        place = 0 if config.mixture.weighting == "document" else 1
        losses: dict[TargetPart, dict[str, Floats]] = {}
        for part in PARTS:
            losses[part] = {}
            for target, by_model in columns[part].items():
                reached = read_cache(storage, rows[target], part, by_model).losses() if by_model else {}
                models = [model for name in mixtures for model in swarm_seeds(config, name)]
                table = np.array([reached[model][place] for model in models], np.float64)
                losses[part][target] = table.reshape(len(mixtures), len(swarm_seeds(config, "")))
        shares = np.array([list(shares.values()) for shares in mixtures.values()])
        return cls(list(mixtures), list(config.sources), shares, losses)

    def fit_losses(self, targets: Sequence[str]) -> Floats:
        """Return the mean losses over the replicates on the fit parts, float64 (mixtures, targets)."""
        return np.stack([self.losses["fit"][target].mean(axis=1) for target in targets], axis=1)

    def table(self) -> Swarm:
        """Return one row for each model's mixture: mean losses over the replicates, for export and storage."""
        metrics = {
            f"{target}/{part}": losses.mean(axis=1)
            for part, by_target in self.losses.items()
            for target, losses in by_target.items()
        }
        return Swarm(self.names, self.sources, list(metrics), self.shares, np.stack(list(metrics.values()), axis=1))


@dataclass(frozen=True)
class NoiseFloor:
    """How far the seed alone changes the loss of a model of the swarm, nats per token.

    ``seed_sd``: the standard deviation of one model's loss over seeds, with its 95 % interval; ``difference_sd``: that
    of the difference of two mixtures' models under the same seed; both are from ``mixtures`` x ``replicates`` models.
    """

    seed_sd: float
    low: float
    high: float
    difference_sd: float
    mixtures: int
    replicates: int

    @property
    def degrees(self) -> int:
        """The degrees of freedom of ``difference_sd``."""
        return (self.mixtures - 1) * (self.replicates - 1)

    @classmethod
    def of(cls, losses: Floats) -> NoiseFloor | None:
        """Return the noise in ``losses``, float64 (mixtures, replicates); None where it cannot be told.

        What a seed adds to all mixtures alike is no part of a difference: the rest is that of a two-way analysis of
        variance without interaction.
        """
        from scipy.stats import chi2  # start-up is lazy: only swarms need it

        mixtures, replicates = losses.shape
        if replicates < 2 or mixtures < 2:
            return None
        variance, degrees = float(losses.var(axis=1, ddof=1).mean()), mixtures * (replicates - 1)
        low, high = (degrees * variance / chi2.ppf(quantile, degrees) for quantile in (0.975, 0.025))
        rest = losses - losses.mean(axis=1, keepdims=True) - losses.mean(axis=0, keepdims=True) + losses.mean()
        remaining = float((rest**2).sum()) / ((mixtures - 1) * (replicates - 1))
        return cls(variance**0.5, low**0.5, high**0.5, (2 * remaining) ** 0.5, mixtures, replicates)

    def sentence(self, target: str, loss_unit: str) -> str:
        """Return the noise in words, with its interval and how many models it is from."""
        number = f"n = {self.mixtures} mixtures x {self.replicates} seeds"
        return (
            f"{target}: the seed alone changes a loss of the swarm by {self.seed_sd:.4f} {loss_unit} (standard "
            f"deviation; 95 % interval {self.low:.4f} to {self.high:.4f}; {number})"
        )
