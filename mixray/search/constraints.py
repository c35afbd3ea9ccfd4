"""What the run file and the data allow a mixture to be, and the mixtures it is compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mixray.config import RunConfig
from mixray.config.mixture import MixtureConfig
from mixray.config.schema import Arm
from mixray.errors import InputError
from mixray.methods import balanced, natural
from mixray.mixture import SUM_TOLERANCE, Mixture
from mixray.simplex import FeasibleSet, Group


def feasible_set(
    config: MixtureConfig,
    sources: Sequence[str],
    available_tokens: Mapping[str, int] | None = None,
    budget: int | None = None,
) -> FeasibleSet:
    """The run file's bounds and groups and, where the sources' sizes are known, what ``max_epochs`` leaves of them.

    Raises InputError where no mixture satisfies all: it names constraints that conflict; and for sources without any
    share beside shards, which divide rows by their largest likelihood under every source.
    """
    pairs = [config.bounds.get(source, (0.0, 1.0)) for source in sources]
    lower, upper = np.array(pairs, np.float64).T.copy()
    if available_tokens is not None and budget is not None and config.max_epochs is not None:
        upper = _capped(config.max_epochs, lower, upper, available_tokens, budget)
    place = {source: number for number, source in enumerate(sources)}
    groups = [Group([place[source] for source in group.sources], group.min, group.max) for group in config.groups]
    feasible = FeasibleSet.of(len(sources), lower, upper, groups, list(sources))
    excluded = [source for source, high in zip(sources, feasible.upper, strict=True) if high == 0]
    if excluded and config.shards is not None:
        raise InputError(
            "shards are of sources that may have a share",
            where="mixture.shards",
            got=f"at most 0 for {', '.join(excluded)}",
            wanted="room for every source",
            remedy=f"leave {', '.join(excluded)} out of the run file, or the shards",
        )
    return feasible


def _capped(
    max_epochs: float,
    lower: NDArray[np.float64],
    bounds: NDArray[np.float64],
    available_tokens: Mapping[str, int],
    budget: int,
) -> NDArray[np.float64]:
    """The upper bounds under a cap on repetition. Raises InputError where they alone, or with a lower bound, leave
    nothing."""
    share_of_a_pass = np.array(list(available_tokens.values()), np.float64) / budget
    upper = np.minimum(bounds, max_epochs * share_of_a_pass)
    short = [source for source, low, high in zip(available_tokens, lower, upper, strict=True) if low > high]
    if short or upper.sum() < 1 - SUM_TOLERANCE:
        knots = np.sort(np.append(bounds / share_of_a_pass, 0.0))
        sums = np.minimum(bounds, knots[:, None] * share_of_a_pass).sum(axis=1)
        least = max(float(np.interp(1.0, sums, knots)), float((lower / share_of_a_pass).max()))
        raise InputError(
            "no mixture keeps mixture.max_epochs" + (f" and the lower bound of {', '.join(short)}" if short else ""),
            where="mixture.max_epochs",
            got=f"{max_epochs:g} passes; the largest shares that leaves sum to {upper.sum():.3g}",
            wanted=f"at least {math.ceil(1000 * least) / 1000:.10g} passes",
            remedy="raise max_epochs, add data, or lower retrain.tokens",
        )
    return upper


def natural_tokens(config: RunConfig, available_tokens: Mapping[str, int]) -> dict[str, int]:
    """What ``natural`` is in proportion to: a source's ``natural_tokens`` where stated, else the tokens there are."""
    return {name: config.sources[name].natural_tokens or tokens for name, tokens in available_tokens.items()}


def baseline_mixtures(natural_tokens: Mapping[str, int]) -> dict[Arm, Mixture]:
    """Every arm that needs no search: name -> mixture."""
    return {"balanced": balanced(list(natural_tokens)), "natural": natural(natural_tokens)}


def baseline_shares(natural_tokens: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """Return the source shares of every arm that needs no search."""
    return {arm: mixture.weights for arm, mixture in baseline_mixtures(natural_tokens).items()}


def prior_shares(config: MixtureConfig, natural_tokens: Mapping[str, int]) -> NDArray[np.float64]:
    """The prior of ``mixture.prior.shares``, in the sources' order."""
    chosen = config.prior.shares
    if isinstance(chosen, str):
        return vector(baseline_mixtures(natural_tokens)[chosen])
    return np.array([chosen[source] for source in natural_tokens], np.float64)


def vector(mixture: Mixture) -> NDArray[np.float64]:
    return np.array([mixture.weights[source] for source in mixture.sources])
