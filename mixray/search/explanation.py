"""What a mixture file says beside the shares: intervals, worth, prices of limits, path to the prior, warnings.

Each function turns numbers of the convex problem into a section of ``mixray.mixture``, with the names of the sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mixray.mixture import (
    InterchangeableSources,
    LimitPrice,
    MixtureChoice,
    MixtureWarning,
    OptimalMixture,
    PathMixture,
    PredictedGain,
    RealisableShares,
    SourceWorth,
)
from mixray.search.problem import SearchProblem
from mixray.simplex import (
    Bootstrap,
    NearOptimal,
    PathPoint,
    Point,
    Realisable,
    Solution,
    gains,
    interchangeable,
    leave_one_out,
    prior_path,
    profile_intervals,
    shadow_prices,
)
from mixray.simplex.analysis.gain import REPLICATES

FEW_DOCUMENTS = 50


def share_intervals(
    search: SearchProblem, optimum: Point, shares: NDArray[np.float64]
) -> dict[str, tuple[float, float]]:
    """Return source -> 95 % interval of its share; it holds a share that was put at 0 or at the least one, too.

    ``optimum``: the mixture, as the optimum of its own problem, before shares were settled; ``shares``: after.
    """
    intervals = profile_intervals(optimum, seed=search.config.seed, replicates=_replicates(search))
    ends = zip(search.sources, intervals.tolist(), shares.tolist(), strict=True)
    return {
        source: (low, high) if share > 1.001 * search.least_share else (min(low, share), max(high, share))
        for source, (low, high), share in ends
    }


def realisable_shares(search: SearchProblem, settled: Realisable) -> RealisableShares | None:
    """Return how shares too small to train on were settled; None where there were none."""
    if not settled.dropped and not settled.raised:
        return None
    return RealisableShares(
        least_share=search.least_share,
        dropped=[search.sources[source] for source in settled.dropped],
        raised=[search.sources[source] for source in settled.raised],
        loss_rise=settled.rise,
    )


def interchangeable_sources(
    search: SearchProblem, optimum: Solution, replicates: Bootstrap
) -> list[InterchangeableSources]:
    """Return the pairs of sources whose shares the data hardly tell apart."""
    return [
        InterchangeableSources(
            sources=(search.sources[pair.first], search.sources[pair.second]), correlation=pair.correlation
        )
        for pair in interchangeable(optimum.point, replicates.replicate_shares)
    ]


def source_worth(search: SearchProblem, optimum: Solution) -> dict[str, SourceWorth | None]:
    """Return by how much the best loss rises without each source; None where the limits allow no mixture without it."""
    config = search.config
    left_out = leave_one_out(optimum, tolerance=config.mixture.tolerance, seed=config.seed)
    return {
        source: None
        if worth is None
        else SourceWorth(
            loss_rise=worth.worth,
            # One document has no standard error, and JSON has no NaN.
            interval=worth.interval if np.isfinite(worth.interval).all() else None,
            gap=worth.gap,
        )
        for source, worth in zip(search.sources, left_out, strict=True)
    }


def path_to_prior(search: SearchProblem, optimum: Solution) -> list[PathMixture]:
    """Return the mixtures from the optimum to the prior, for rising strengths of the pull."""
    points = prior_path(optimum, search.prior, tolerance=search.config.mixture.tolerance)
    return [
        PathMixture(
            strength=_finite_strength(point),
            weights=search.by_source(point.weights),
            loss=point.loss,
            loss_rise=point.rise,
            divergence=point.divergence,
            effective_sources=point.effective_sources,
        )
        for point in points
    ]


def mixture_choice(search: SearchProblem, optimum: Solution, near: NearOptimal) -> MixtureChoice:
    """Return how the mixture was chosen among the near-optimal ones."""
    rule, chosen = search.config.mixture.choose, near.chosen
    return MixtureChoice(
        rule=rule.rule,
        within=rule.within,
        allowed_rise=near.within,
        strength=_finite_strength(chosen),
        loss=chosen.loss,
        loss_rise=chosen.rise,
        divergence=chosen.divergence,
        effective_sources=chosen.effective_sources,
        divergence_gap=near.divergence_gap,
        optimum=OptimalMixture(weights=search.by_source(optimum.weights), loss=optimum.loss, gap=optimum.gap),
    )


def _finite_strength(point: PathPoint) -> float | None:
    """Return the strength of the pull; None at the prior itself, where it is infinite, which JSON cannot write."""
    return point.strength if np.isfinite(point.strength) else None


def limit_prices(search: SearchProblem, optimum: Solution) -> list[LimitPrice]:
    """Return what loosening each limit that the mixture reaches would bring, dearest first."""
    prices, feasible = shadow_prices(optimum.point), search.convex.feasible
    singles = [[source] for source in search.sources]
    groups = [[search.sources[place] for place in np.flatnonzero(members)] for members in feasible.member]
    ends: tuple[Literal["min", "max"], ...] = ("min", "max")
    named = [(sources, end) for part in (singles, groups) for end in ends for sources in part]
    limits = np.concatenate([feasible.lower, feasible.upper, feasible.group_lower, feasible.group_upper]).tolist()
    gains = np.concatenate([prices.lower, prices.upper, prices.group_lower, prices.group_upper]).tolist()
    active = [
        LimitPrice(sources=sources, limit=end, at=at, nats_per_token_per_unit_share=gain)
        for (sources, end), at, gain in zip(named, limits, gains, strict=True)
        if gain > 0
    ]
    return sorted(active, key=lambda limit: -limit.nats_per_token_per_unit_share)


def solver_warnings(search: SearchProblem, optimum: Solution) -> list[MixtureWarning]:
    """Return a warning where the solver did not reach its tolerance."""
    if optimum.status == "converged":
        return []
    reached = f"a gap of {optimum.gap:.3g} {search.config.loss_unit}, not {search.config.mixture.tolerance:g}"
    message = f"the solver stopped ({optimum.status}) at {reached}"
    return [MixtureWarning(code="not_converged", message=message, gap=optimum.gap)]


def document_warnings(search: SearchProblem) -> list[MixtureWarning]:
    """Return a warning for every target with too few documents for exact intervals, or shares where there are none."""
    rough = "shares" if search.config.mixture.covariate_shift == "reweight" else "intervals"
    warnings = []
    for target, count in search.document_counts.items():
        if count < FEW_DOCUMENTS:
            of_target = f" of {target}" if len(search.document_counts) > 1 else ""
            message = f"the fit part{of_target} has only {count} {_sampled(search)}s: {rough} are rough"
            warnings.append(MixtureWarning(code="few_documents", message=message, documents=count))
    return warnings


def _replicates(search: SearchProblem) -> int:
    """Return over how many samples of documents moments are taken."""
    return max(REPLICATES, search.config.mixture.bootstrap)


def predicted_gains(search: SearchProblem, chosen: Point) -> dict[str, PredictedGain]:
    """Return baseline -> what the mixture gains over it on documents that did not choose it.

    ``chosen``: the mixture as the optimum of its own problem.
    """
    config = search.config
    baselines = {arm: search.baselines[arm] for arm in search.baseline_losses}
    return {
        arm: PredictedGain(
            estimate=gain.estimate,
            optimism=gain.optimism,
            # One document has no standard error, and JSON has no NaN.
            interval=(gain.low, gain.high) if np.isfinite([gain.low, gain.high]).all() else None,
            more_documents=gain.more_documents,
        )
        for arm, gain in gains(chosen, baselines, seed=config.seed, replicates=_replicates(search)).items()
    }


def gain_warnings(search: SearchProblem, predicted: Mapping[str, PredictedGain]) -> list[MixtureWarning]:
    """Return a warning for every baseline over which the predicted gain may be zero."""
    tolerance = search.config.mixture.tolerance  # a gain below it may be rounding
    return [
        MixtureWarning(
            code="flat",
            message=f"the predicted gain over {arm} is not separated from zero{_more_needed(search, gain)}",
            interval=gain.interval,
            unit=search.config.loss_unit,
            documents=sum(search.document_counts.values()),
        )
        for arm, gain in predicted.items()
        if gain.interval is None or (gain.interval[0] <= tolerance and gain.interval[1] >= -tolerance)
    ]


def _more_needed(search: SearchProblem, gain: PredictedGain) -> str:
    more = gain.more_documents
    return f": about {more:,} more target {_sampled(search)}s would be needed" if more else ""


def _sampled(search: SearchProblem) -> str:
    return "document" if search.config.examples is None else "example"
