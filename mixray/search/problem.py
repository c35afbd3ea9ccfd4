"""The convex problem of a run: rows from the prediction caches; limits, goal and prior from the run file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mixray.cache import PredictionCache
from mixray.cache.table import join_segments, require_segments
from mixray.config import RunConfig
from mixray.config.mixture import MixtureConfig, segment_tokens
from mixray.config.section import PRIOR_ROUNDING
from mixray.errors import InputError
from mixray.methods import balanced, natural, temperature, unimax
from mixray.methods.baselines import MOST_EPOCHS
from mixray.mixture import SUM_TOLERANCE, Mixture
from mixray.report import ProblemToVary
from mixray.simplex import (
    BestMixture,
    BestSingle,
    CrossEntropy,
    FeasibleSet,
    Goal,
    Group,
    Mean,
    Prior,
    Problem,
    SquaredError,
    Worst,
    row_weights,
    sum_by_document,
)

Floats = NDArray[np.float64]
Objectives = tuple[CrossEntropy | SquaredError, ...]

UNNOTICED = 1e-16
"""Below it a share changes no sum of shares."""


@dataclass(frozen=True)
class UnitRows:
    """A prediction cache at the unit that the likelihood is taken over.

    ``log_probs``: float64 (rows, sources), nats; ``row_weights``: float64 (rows,), such that the loss is in nats per
    token; ``parents``: int64 (rows,), the parent of every row's document; ``token_counts``: int64 (rows,). ``errors``:
    float64 (rows, sources), where numbers are predicted.
    """

    log_probs: Floats
    row_weights: Floats
    parents: NDArray[np.int64]
    token_counts: NDArray[np.int64]
    errors: Floats | None = None

    @classmethod
    def of(cls, cache: PredictionCache, config: MixtureConfig) -> Self:
        """Sum or expand a cache to the unit. Raises InputError where the cache does not hold the unit's segments."""
        if cache.errors is not None:  # a row is an example, whatever the unit
            weights = np.full(len(cache.errors), 1 / len(cache.errors))
            return cls(cache.log_probs, weights, cache.parents()[cache.documents], cache.counts, cache.errors)
        length = segment_tokens(config.unit)
        if config.unit == "document":
            log_probs, counts, documents = sum_by_document(cache.log_probs, cache.documents, cache.counts)
        elif length is None:
            log_probs, counts, documents = cache.log_probs, cache.counts, cache.documents
        else:
            stored = require_segments(cache.segment, length)
            assert cache.segments is not None, "segments are stored, for their length is"
            log_probs, counts, rows = join_segments(cache.segments, cache.counts, stored, length)
            documents = cache.documents[rows]
        weights = row_weights(counts, documents, config.weighting)
        return cls(np.asarray(log_probs, np.float64), weights, cache.parents()[documents], counts)

    def objective(self, allowed: NDArray[np.bool_]) -> CrossEntropy | SquaredError:
        """Return the loss of a mixture on these rows. ``allowed``: bool (sources,), those that may have a share."""
        if self.errors is not None:
            truth = np.zeros(len(self.errors))  # errors are predictions of 0
            return SquaredError.from_predictions(self.errors, truth, self.row_weights, document_ids=self.parents)
        return CrossEntropy.from_log_probs(
            self.log_probs,
            self.row_weights,
            allowed,
            document_ids=self.parents,
            token_counts=self.token_counts,
        )


@dataclass(frozen=True)
class SearchProblem:
    """The convex problem of one mixture, with what its answer is described by.

    ``budget``: training tokens (or examples) of a retrained model;
    ``document_counts``: target -> how many documents were read for it, those that were cut counting once;
    ``baselines``: arm -> source shares, float64 (sources,); ``prior``: those of ``mixture.prior``, float64 (sources,).
    """

    config: RunConfig
    sources: list[str]
    convex: Problem
    budget: int
    document_counts: dict[str, int]
    baselines: dict[str, Floats]
    prior: Floats

    @classmethod
    def of(
        cls,
        predictions: Mapping[str, PredictionCache | CrossEntropy],
        config: RunConfig,
        available_tokens: Mapping[str, int],
    ) -> Self:
        """Build the problem from what the proxies predict for every target. See ``find_mixture`` for the arguments."""
        settings, sources = config.mixture, list(available_tokens)
        budget = config.retrain_tokens(available_tokens)
        feasible = feasible_set(settings, sources, available_tokens, budget)
        rows = {
            target: UnitRows.of(prediction, settings) if isinstance(prediction, PredictionCache) else prediction
            for target, prediction in predictions.items()
        }
        baselines = {
            arm: np.array(list(shares.values()), np.float64)
            for arm, shares in baseline_shares(config, available_tokens).items()
        }
        prior = prior_shares(settings, sources, baselines)
        return cls(
            config=config,
            sources=sources,
            convex=_convex_problem(rows, settings, feasible, prior),
            budget=budget,
            document_counts={
                target: int(prediction.parents().max()) + 1
                if isinstance(prediction, PredictionCache)
                else prediction.documents
                for target, prediction in predictions.items()
            },
            baselines=baselines,
            prior=prior,
        )

    @property
    def least_share(self) -> float:
        """The share of one training window of the retraining budget, or of one example; smaller ones are 0."""
        return min(1.0, self.config.row_tokens / self.budget)

    @cached_property
    def baseline_losses(self) -> dict[str, float]:
        """Arm -> predicted loss of its shares, nats per token.

        Left out is a mixture without the only source that explains a row, where rows are on shards elsewhere: there,
        the likelihoods of the others are lost beside that source's.
        """
        losses = {}
        for arm, shares in self.baselines.items():
            with suppress(InputError):
                rows = self.convex.objectives
                if not shares.all():
                    rows = tuple(objective.restricted_to(shares > 0) for objective in rows)
                losses[arm] = self.convex.goal.value(np.array([objective.loss(shares) for objective in rows]))
        return losses

    def by_source(self, shares: Floats) -> dict[str, float]:
        """Return source -> share; shares that the sum of all does not notice are 0. ``shares``: float64 (sources,)."""
        return dict(zip(self.sources, np.where(shares < UNNOTICED, 0.0, shares).tolist(), strict=True))


def problem_to_vary(
    cache: PredictionCache, config: RunConfig, available_tokens: Mapping[str, int]
) -> ProblemToVary | None:
    """Return the problem of one target for a page that solves it again.

    None where groups, a pull or the sources' inputs shape it too, and where numbers are predicted: the page minimises a
    cross entropy.
    """
    settings = config.mixture
    is_reweighted = settings.covariate_shift == "reweight"
    if settings.groups or settings.prior.strength or is_reweighted or cache.errors is not None:
        return None
    limits = feasible_set(settings, list(available_tokens), available_tokens, config.retrain_tokens(available_tokens))
    pairs = zip(limits.lower.tolist(), limits.upper.tolist(), strict=True)
    rows = UnitRows.of(cache, settings)
    return ProblemToVary(rows.log_probs, rows.row_weights, dict(zip(available_tokens, pairs, strict=True)))


def feasible_set(
    config: MixtureConfig,
    sources: Sequence[str],
    available_tokens: Mapping[str, int] | None = None,
    budget: int | None = None,
) -> FeasibleSet:
    """Return the mixtures within the run file's bounds and groups and, where sizes are known, within ``max_epochs``.

    ``available_tokens``: source -> its training tokens; ``budget``: tokens of the retraining. Raises InputError where
    no mixture satisfies all limits, naming those that conflict, and where shards are asked for although a source may
    have no share: shards divide every row by its largest likelihood under any source.
    """
    pairs = [config.bounds.get(source, (0.0, 1.0)) for source in sources]
    lower, upper = np.array(pairs, np.float64).T.copy()
    if available_tokens is not None and budget is not None and config.max_epochs is not None:
        upper = _limited_by_epochs(config.max_epochs, lower, upper, available_tokens, budget)
    place = {source: number for number, source in enumerate(sources)}
    groups = [Group([place[source] for source in group.sources], group.min, group.max) for group in config.groups]
    feasible = FeasibleSet.of(len(sources), lower, upper, groups, list(sources))
    excluded = [source for source, high in zip(sources, feasible.upper, strict=True) if high == 0]
    if excluded and config.shards is not None:
        raise InputError(
            "every source on shards needs room for a share",
            where="mixture.shards",
            got=f"at most 0 for {', '.join(excluded)}",
            wanted="room for every source",
            remedy=f"leave {', '.join(excluded)} out of the run file, or the shards",
        )
    return feasible


def require_mixtures(config: RunConfig, available_tokens: Mapping[str, int] | None = None) -> None:
    """Raise InputError where the limits allow no mixture of the sources of some target.

    ``available_tokens``: source -> its training tokens, where sizes are known.
    """
    checked = set()
    for name in config.mixture_names:
        sources = tuple(config.sources_for(name))
        if sources in checked:
            continue
        checked.add(sources)
        available = None if available_tokens is None else {source: available_tokens[source] for source in sources}
        budget = None if available is None else config.retrain_tokens(available)
        try:
            feasible_set(config.mixture, sources, available, budget)
        except InputError as error:
            if len(sources) < len(config.sources):
                what = f"{error.what}, for the target {name}, which leaves out {config.targets[name].leave_out}"
                raise InputError(
                    what, where=error.where, got=error.got, wanted=error.wanted, remedy=error.remedy
                ) from None
            raise


def _limited_by_epochs(
    max_epochs: float,
    lower: Floats,
    upper: Floats,
    available_tokens: Mapping[str, int],
    budget: int,
) -> Floats:
    """Return the upper bounds under a limit on repetition.

    Raises InputError where they sum to less than 1 or fall below a lower bound; it names the smallest limit that works.
    """
    share_of_a_pass = np.array(list(available_tokens.values()), np.float64) / budget
    limited = np.minimum(upper, max_epochs * share_of_a_pass)
    short = [source for source, low, high in zip(available_tokens, lower, limited, strict=True) if low > high]
    if short or limited.sum() < 1 - SUM_TOLERANCE:
        # The sum of the limited bounds is piecewise linear in max_epochs, with a knot where a bound is reached.
        knots = np.sort(np.append(upper / share_of_a_pass, 0.0))
        sums = np.minimum(upper, knots[:, None] * share_of_a_pass).sum(axis=1)
        least = max(float(np.interp(1.0, sums, knots)), float((lower / share_of_a_pass).max()))
        raise InputError(
            "no mixture keeps mixture.max_epochs" + (f" and the lower bound of {', '.join(short)}" if short else ""),
            where="mixture.max_epochs",
            got=f"{max_epochs:g} passes; the largest shares that leaves sum to {limited.sum():.3g}",
            wanted=f"at least {math.ceil(1000 * least) / 1000:.10g} passes",
            remedy="raise max_epochs, add data, or lower retrain.tokens",
        )
    return limited


def natural_tokens(config: RunConfig, available_tokens: Mapping[str, int]) -> dict[str, int]:
    """Return what ``natural`` is proportional to: a source's stated ``natural_tokens``, else its available tokens."""
    return {name: config.sources[name].natural_tokens or tokens for name, tokens in available_tokens.items()}


def baseline_shares(config: RunConfig, available_tokens: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """Return the source shares of every mixture that needs no search: balanced, natural, and those of other arms.

    ``available_tokens``: source -> its training tokens.
    """
    sizes = natural_tokens(config, available_tokens)
    shares = {"balanced": balanced(list(sizes)).weights, "natural": natural(sizes).weights}
    return shares | _shares_by_size(config, available_tokens) | stated_shares(config)


def baselines_of(
    config: RunConfig, available_tokens: Mapping[str, int], mixtures: Mapping[str, Mixture]
) -> dict[str, dict[str, dict[str, float]]]:
    """Return ``baseline_shares`` by the name of each mixture: a target may leave a source out."""
    return {
        name: baseline_shares(config, {source: available_tokens[source] for source in mixture.sources})
        for name, mixture in mixtures.items()
    }


def optional_shares(config: RunConfig, available_tokens: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """Return those of ``baseline_shares`` that only a run whose arms name them has."""
    return _shares_by_size(config, available_tokens) | stated_shares(config)


def _shares_by_size(config: RunConfig, available_tokens: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """Return the shares of the arms that follow from the sources' sizes in other ways than balanced and natural do."""
    methods = {arm.mixture for arm in config.retrain.named_arms.values()}
    shares = {}
    if "temperature" in methods:
        shares["temperature"] = temperature(natural_tokens(config, available_tokens)).weights
    if "unimax" in methods:
        budget, epochs = config.retrain_tokens(available_tokens), config.mixture.max_epochs or MOST_EPOCHS
        shares["unimax"] = unimax(available_tokens, budget, epochs).weights
    return shares


def stated_shares(config: RunConfig) -> dict[str, dict[str, float]]:
    """Return the source shares of every arm that states them, in the order of the sources, scaled to sum to 1."""
    shares = {}
    for name, arm in config.retrain.named_arms.items():
        if arm.mixture is None:
            assert arm.shares is not None, "a run begins with reading the files of its arms"
            total = math.fsum(arm.shares.values())
            shares[name] = {source: arm.shares[source] / total for source in config.sources}
    return shares


def limits_broken(config: RunConfig, available_tokens: Mapping[str, int], shares: Mapping[str, float]) -> list[str]:
    """Return in words the limits of the run file that the shares of a mixture do not keep, beyond rounding."""
    settings, budget = config.mixture, config.retrain_tokens(available_tokens)
    limits = [([source], *bounds) for source, bounds in settings.bounds.items()]
    limits += [(group.sources, group.min, group.max) for group in settings.groups]
    broken = []
    for sources, low, high in limits:
        if not shares.keys() >= set(sources):
            continue  # the bound of a source that is left out
        total, names = math.fsum(shares[source] for source in sources), " + ".join(sources)
        if total < low - PRIOR_ROUNDING or total > high + PRIOR_ROUNDING:
            limit = f"at least {low:g}" if total < low else f"at most {high:g}"
            broken.append(f"{names} {limit} (has {total:.3g})")
    for source, tokens in available_tokens.items():
        passes, most = shares[source] * budget / tokens, settings.max_epochs or math.inf
        if passes > most * (1 + PRIOR_ROUNDING):
            broken.append(f"{source} at most {most:g} epochs (has {passes:.3g})")
    return broken


def prior_shares(config: MixtureConfig, sources: Sequence[str], baselines: Mapping[str, Floats]) -> Floats:
    """Return the shares of ``mixture.prior``, float64 (sources,). ``baselines``: balanced and natural."""
    shares = config.prior.shares
    return baselines[shares] if isinstance(shares, str) else np.array([shares[source] for source in sources])


def _convex_problem(
    rows: Mapping[str, UnitRows | CrossEntropy],
    config: MixtureConfig,
    feasible: FeasibleSet,
    prior: Floats,
) -> Problem:
    pull = Prior.of(prior, config.prior.strength, len(prior))
    allowed = (feasible.upper > 0) & ((prior > 0) if pull else True)
    objectives = tuple(each.objective(allowed) if isinstance(each, UnitRows) else each for each in rows.values())
    return Problem(objectives, feasible, _goal(list(rows), objectives, config, feasible), pull)


def _goal(targets: list[str], objectives: Objectives, config: MixtureConfig, feasible: FeasibleSet) -> Goal:
    """Return how the losses on several targets are combined."""
    if config.over != "worst":
        weights = np.array([config.target_weights.get(target, 1.0) for target in targets])
        return Mean.of(weights / weights.sum(), len(targets))
    settings = config.worst
    target_prior = None
    if settings.prior is not None:
        target_prior = np.array([settings.prior[target] for target in targets])
        target_prior = target_prior / target_prior.sum()
    rule = _offset_rule(objectives, config, feasible)
    goal = Worst.of(len(targets), None if rule is None else rule.full(), target_prior, settings.tau)
    return replace(goal, rule=rule)


def _offset_rule(
    objectives: Objectives, config: MixtureConfig, feasible: FeasibleSet
) -> BestSingle | BestMixture | None:
    """Return what each target's loss is compared with: nothing, its best single source, or its own best mixture."""
    if config.worst.offsets == "none":
        return None
    return BestSingle(objectives) if config.worst.offsets == "best_single" else BestMixture(objectives, feasible)
