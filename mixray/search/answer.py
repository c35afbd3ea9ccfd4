"""The answer: the certified mixture of one or several targets, how sure it is, what each source and limit is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixray.cache import PredictionCache
from mixray.config import RunConfig
from mixray.config.mixture import MixtureConfig
from mixray.mixture import TRAINING_TOKENS, Mixture
from mixray.search.constraints import baseline_mixtures, feasible_set, natural_tokens, prior_shares, vector
from mixray.search.rows import Rows, rows_of
from mixray.search.targets import problem_of
from mixray.simplex import (
    Bootstrap,
    CrossEntropy,
    FeasibleSet,
    NearOptimal,
    PathPoint,
    Solution,
    bootstrap,
    effective_number,
    interchangeable,
    leave_one_out,
    nearest_to_prior,
    prior_path,
    shadow_prices,
    solve_problem,
)

FEW_DOCUMENTS = 50
MOST_EXPLAINED = 100
"""Sources up to which each one's worth and the path to the prior are worked out: a solve each."""


@dataclass(frozen=True)
class Found:
    """A mixture and how it was found. ``trace``: float64 (rounds + 1, 2), loss and gap of every round."""

    mixture: Mixture
    trace: NDArray[np.float64]


def find_mixture(
    predictions: Mapping[str, PredictionCache | CrossEntropy],
    config: RunConfig,
    *,
    available_tokens: Mapping[str, int],
    sizes: Mapping[str, int] | None = None,
    run: str | None = None,
) -> Found:
    """The certified mixture of some targets, with intervals, the baselines' predicted losses and warnings.

    ``predictions``: target -> its cache or, where that is larger than memory, an objective whose rows are elsewhere:
    then what each source is worth is left out. ``available_tokens``: source -> training tokens there are, in the
    cache's order; ``sizes``: what the natural baseline is in proportion to, if that is something else. Raises
    InputError for constraints that no mixture satisfies.
    """
    settings, sources, budget = config.mixture, list(available_tokens), config.retrain.tokens
    sizes = sizes or natural_tokens(config, available_tokens)
    feasible = feasible_set(settings, sources, available_tokens, budget)
    rows = {
        target: rows_of(own, settings) if isinstance(own, PredictionCache) else own
        for target, own in predictions.items()
    }
    prior = prior_shares(settings, sizes)
    problem = problem_of(rows, settings, feasible, prior)

    optimum = solve_problem(
        problem, solver=settings.solver, tolerance=settings.tolerance, max_rounds=settings.max_rounds
    )
    near = _near_optimal(optimum, settings, prior)
    shares = optimum.weights if near is None else near.weights
    chosen = optimum.point if near is None else problem.at(shares)
    rivals: dict[str, NDArray[np.float64]] = {arm: vector(mixture) for arm, mixture in baseline_mixtures(sizes).items()}
    losses = {"mixmin": chosen.loss} | {arm: problem.loss(rival) for arm, rival in rivals.items()}

    fields: dict[str, Any] = {}
    warnings = _warnings(optimum, settings, predictions)
    if settings.bootstrap:
        spread = bootstrap(
            problem,
            optimum.weights,
            judged=shares,
            baselines=rivals,
            replicates=settings.bootstrap,
            seed=config.seed,
        )
        warnings += _flat(spread, settings.tolerance)
        fields |= _sureness(spread, optimum, sources, with_interval=near is None)
    # With a pull to the prior they would be of the loss and the pull together.
    pulled = settings.prior.strength > 0
    if len(sources) <= MOST_EXPLAINED and not pulled:
        if not all(isinstance(own, Rows) for own in rows.values()):
            message = "what each source is worth is not worked out where rows lie with shards"
            warnings.append({"code": "no_worth", "message": message})
        else:
            fields["worth"] = _worth(optimum, sources, settings.tolerance)
        fields["path"] = [
            _path_point(point, sources) for point in prior_path(optimum, prior, tolerance=settings.tolerance)
        ]
    if len(rows) > 1:
        fields["target_loss"] = dict(zip(rows, chosen.losses.tolist(), strict=True))
        fields["target_weights"] = dict(zip(rows, optimum.target_weights.tolist(), strict=True))
    if near is not None:
        fields["choice"] = _choice(near, optimum, settings, sources)
    weights = _by_source(sources, shares)
    mixture = Mixture.from_weights(
        weights,
        run=run,
        targets=list(rows),
        over=None if settings.over == "each" else settings.over,
        unit=settings.unit,
        share_of=TRAINING_TOKENS if config.examples is None else "training examples",
        loss=losses,
        gap=max(0.0, optimum.gap + (near.chosen.rise if near else 0.0)),
        rounds=optimum.rounds,
        solver=optimum.solver,
        solver_why=optimum.why or None,
        tolerance=settings.tolerance,
        status=optimum.status,
        epochs={name: share * budget / available_tokens[name] for name, share in weights.items()},
        effective_sources=effective_number(shares),
        prices=[] if pulled else _prices(optimum, sources, feasible),
        warnings=warnings,
        **fields,
    )
    return Found(mixture, optimum.trace)


def _by_source(sources: Sequence[str], shares: NDArray[np.float64]) -> dict[str, float]:
    return dict(zip(sources, shares.tolist(), strict=True))


def _near_optimal(optimum: Solution, config: MixtureConfig, prior: NDArray[np.float64]) -> NearOptimal | None:
    """The chosen one of the near-optimal mixtures, unless the optimum itself is wanted."""
    if config.choose.rule == "optimum":
        return None
    loss = float(optimum.target_weights @ optimum.losses)
    within = None if config.choose.within == "one_se" else config.choose.within * abs(loss)
    return nearest_to_prior(optimum, prior, within=within, tolerance=config.tolerance)


def _sureness(spread: Bootstrap, optimum: Solution, sources: Sequence[str], *, with_interval: bool) -> dict[str, Any]:
    pairs = interchangeable(optimum.point, spread.replicate_shares)
    interval = dict(zip(sources, (tuple(ends) for ends in spread.interval.tolist()), strict=True))
    return {
        "interval": interval if with_interval else {},
        "interchangeable": [
            {"sources": [sources[pair.first], sources[pair.second]], "correlation": pair.correlation} for pair in pairs
        ],
    }


def _flat(spread: Bootstrap, tolerance: float) -> list[dict[str, object]]:
    return [
        {
            "code": "flat",
            "message": f"the predicted gain over {arm} is not separated from zero",
            "interval": [float(low), float(high)],
            "unit": "nats per token",
            "documents": spread.documents,
        }
        for arm, (low, high) in spread.gain.items()
        if low <= tolerance and high >= -tolerance  # below it a gain may be rounding
    ]


def _worth(optimum: Solution, sources: Sequence[str], tolerance: float) -> dict[str, dict[str, Any] | None]:
    """Source -> by how much the loss rises without it; None where the constraints need it."""
    left_out = leave_one_out(optimum, tolerance=tolerance)
    return {
        source: None
        if worth is None
        else {"loss_rise": worth.worth, "interval": _finite(worth.interval), "gap": worth.gap}
        for source, worth in zip(sources, left_out, strict=True)
    }


def _finite(interval: tuple[float, float]) -> list[float] | None:
    return list(interval) if np.isfinite(interval).all() else None


def _path_point(point: PathPoint, sources: Sequence[str]) -> dict[str, Any]:
    """JSON knows no infinity: at the prior itself the strength is null."""
    return {
        "strength": point.strength if np.isfinite(point.strength) else None,
        "weights": _by_source(sources, point.weights),
        "loss": point.loss,
        "loss_rise": point.rise,
        "divergence": point.divergence,
        "effective_sources": point.effective_sources,
    }


def _choice(near: NearOptimal, optimum: Solution, config: MixtureConfig, sources: Sequence[str]) -> dict[str, Any]:
    return {
        "rule": config.choose.rule,
        "within": config.choose.within,
        "allowed_rise": near.within,
        **{key: value for key, value in _path_point(near.chosen, sources).items() if key != "weights"},
        "divergence_gap": near.divergence_gap,
        "optimum": {"weights": _by_source(sources, optimum.weights), "loss": optimum.loss, "gap": optimum.gap},
    }


def _prices(optimum: Solution, sources: Sequence[str], feasible: FeasibleSet) -> list[dict[str, Any]]:
    """What loosening each active limit would bring, dearest first."""
    prices = shadow_prices(optimum.point)
    found: list[tuple[list[str], str, float, float]] = []
    for number, source in enumerate(sources):
        found.append(([source], "min", float(feasible.lower[number]), float(prices.lower[number])))
        found.append(([source], "max", float(feasible.upper[number]), float(prices.upper[number])))
    for number, members in enumerate(feasible.member):
        names = [sources[place] for place in np.flatnonzero(members).tolist()]
        found.append((names, "min", float(feasible.group_lower[number]), float(prices.group_lower[number])))
        found.append((names, "max", float(feasible.group_upper[number]), float(prices.group_upper[number])))
    active = sorted((limit for limit in found if limit[3] > 0), key=lambda limit: -limit[3])
    return [
        {"sources": names, "limit": kind, "at": limit, "nats_per_token_per_unit_share": price}
        for names, kind, limit, price in active
    ]


def _warnings(
    optimum: Solution, config: MixtureConfig, predictions: Mapping[str, PredictionCache | CrossEntropy]
) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    if optimum.status != "converged":
        reached = f"a gap of {optimum.gap:.3g} nats per token, not {config.tolerance:g}"
        message = f"the solver stopped ({optimum.status}) at {reached}"
        found.append({"code": "not_converged", "message": message, "gap": optimum.gap})
    for target, own in predictions.items():
        count = len(own.document_ids) if isinstance(own, PredictionCache) else own.documents
        if count < FEW_DOCUMENTS:
            of_target = f" of {target}" if len(predictions) > 1 else ""
            message = f"the fit part{of_target} has only {count} documents: intervals are rough"
            found.append({"code": "few_documents", "message": message, "documents": count})
    return found
