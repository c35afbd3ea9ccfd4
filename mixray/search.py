"""From a prediction cache to a mixture: bounds, the convex problem, error bars, what the baselines would give.

Numbers only: it runs the same inside ``mixray run`` and, later and without a cluster, for ``mixray solve``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixray.baselines import balanced, natural
from mixray.cache import PredictionCache, read_cache
from mixray.config import dump_config, parse_config
from mixray.config.loading import Overrides, overridden_keys
from mixray.config.schema import Arm, MixtureConfig, RunConfig
from mixray.errors import InputError
from mixray.mixture import SUM_TOLERANCE, Mixture
from mixray.run_folder import RunFolder
from mixray.simplex import (
    CrossEntropy,
    Documents,
    FeasibleSet,
    Problem,
    bootstrap,
    mixture_loss,
    row_weights,
    solve_problem,
    sum_by_document,
)
from mixray.store import Artifact, Artifacts, fingerprint


@dataclass(frozen=True)
class Rows:
    """The rows of the convex problem: ``log_probs`` float64 (rows, sources) in nats, ``row_weights`` float64 (rows,)
    so that the loss is in nats per token, ``documents`` and ``token_counts`` int64 (rows,): which document a row is
    part of and how many tokens it has."""

    log_probs: NDArray[np.float64]
    row_weights: NDArray[np.float64]
    documents: NDArray[np.int64]
    token_counts: NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """A mixture and how it was found. ``trace``: float64 (rounds + 1, 2), loss and gap of every round."""

    mixture: Mixture
    trace: NDArray[np.float64]


def solve_once(
    artifacts: Artifacts,
    config: RunConfig,
    *,
    target: str,
    rows: Artifact,
    columns: Mapping[str, Artifact],
    available_tokens: Mapping[str, int],
    natural_tokens: Mapping[str, int],
    run: str,
) -> Found:
    """``find_mixture`` from a target's cache, kept as an artifact.

    So a run that goes on elsewhere has the same shares to the last bit, whatever the processor, and trained arms fit.
    """
    settings = config.mixture.model_dump(mode="json")
    sizes = [list(available_tokens.items()), list(natural_tokens.items()), config.retrain.tokens]
    cache_ids = [(source, column.id) for source, column in columns.items()]
    draft = artifacts.draft("solution", fingerprint(["solution", 1, settings, cache_ids, sizes, config.seed]))
    stored = artifacts.find(draft.kind, draft.id)
    if stored is None:
        cache = read_cache(artifacts.storage, rows, "fit", columns)
        found = find_mixture(
            cache, config, target=target, available_tokens=available_tokens, natural_tokens=natural_tokens
        )
        files = {
            "mixture.json": draft.write("mixture.json", found.mixture.to_json().encode()),
            "trace.json": draft.write("trace.json", json.dumps(found.trace.tolist()).encode()),
        }
        stored = draft.publish(files, {"rounds": found.mixture.rounds})
    text, trace = (artifacts.storage.read(stored.files[name].path) for name in ("mixture.json", "trace.json"))
    mixture = Mixture.from_json(text.decode()).model_copy(update={"run": run, "targets": [target]})
    return Found(mixture, np.array(json.loads(trace)))


def rows_of(cache: PredictionCache, config: MixtureConfig) -> Rows:
    """The cache's rows at the unit that the likelihood is taken over."""
    if config.unit == "document":
        log_probs, counts, documents = sum_by_document(cache.log_probs, cache.documents, cache.counts)
    elif config.unit == "window":
        log_probs, counts, documents = cache.log_probs, cache.counts, cache.documents
    else:
        if cache.token_log_probs is None:
            raise InputError(
                "the prediction cache keeps no per-token values",
                where="mixture.unit",
                got="token",
                wanted="document or window",
                remedy="run again with cache.token_log_probs=true",
            )
        log_probs, documents = cache.token_log_probs, np.repeat(cache.documents, cache.counts)
        counts = np.ones(len(documents), np.int64)
    weights = row_weights(counts, documents, config.weighting)
    return Rows(np.asarray(log_probs, np.float64), weights, np.asarray(documents, np.int64), counts)


def share_bounds(
    config: MixtureConfig, available_tokens: Mapping[str, int], budget: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper bound of every source's share: the run file's, and what ``max_epochs`` leaves of them.

    Raises InputError where the repetition cap leaves no mixture, or contradicts a lower bound.
    """
    pairs = [config.bounds.get(source, (0.0, 1.0)) for source in available_tokens]
    lower, upper = np.array(pairs, np.float64).T.copy()
    if config.max_epochs is None:
        return lower, upper
    share_of_a_pass = np.array(list(available_tokens.values()), np.float64) / budget
    bounds, upper = upper, np.minimum(upper, config.max_epochs * share_of_a_pass)
    short = [source for source, low, high in zip(available_tokens, lower, upper, strict=True) if low > high]
    if short or upper.sum() < 1 - SUM_TOLERANCE:
        knots = np.sort(np.append(bounds / share_of_a_pass, 0.0))
        sums = np.minimum(bounds, knots[:, None] * share_of_a_pass).sum(axis=1)
        least = max(float(np.interp(1.0, sums, knots)), float((lower / share_of_a_pass).max()))
        raise InputError(
            "no mixture keeps mixture.max_epochs" + (f" and the lower bound of {', '.join(short)}" if short else ""),
            where="mixture.max_epochs",
            got=f"{config.max_epochs:g} passes; the largest shares that leaves sum to {upper.sum():.3g}",
            wanted=f"at least {math.ceil(1000 * least) / 1000:.10g} passes",
            remedy="raise max_epochs, add data, or lower retrain.tokens",
        )
    return lower, upper


def natural_tokens(config: RunConfig, available_tokens: Mapping[str, int]) -> dict[str, int]:
    """What ``natural`` is in proportion to: a source's ``natural_tokens`` where stated, else the tokens there are."""
    return {name: config.sources[name].natural_tokens or tokens for name, tokens in available_tokens.items()}


def baseline_mixtures(natural_tokens: Mapping[str, int]) -> dict[Arm, Mixture]:
    """Every arm that needs no search: name -> mixture."""
    return {"balanced": balanced(list(natural_tokens)), "natural": natural(natural_tokens)}


def find_mixture(
    cache: PredictionCache,
    config: RunConfig,
    *,
    target: str,
    available_tokens: Mapping[str, int],
    natural_tokens: Mapping[str, int] | None = None,
    run: str | None = None,
) -> Found:
    """The certified mixture of one target, with intervals, the baselines' predicted losses and warnings.

    ``available_tokens``: source -> training tokens there are, in the cache's order; ``natural_tokens``: what the
    natural baseline is in proportion to, if that is something else. Raises InputError for bounds that
    no mixture satisfies.
    """
    settings, sources, budget = config.mixture, list(cache.models), config.retrain.tokens
    assert list(available_tokens) == sources, "the cache's columns and the sources differ"
    rows = rows_of(cache, settings)
    lower, upper = share_bounds(settings, available_tokens, budget)
    feasible = FeasibleSet.of(len(sources), lower, upper, names=sources)
    objective = CrossEntropy.from_log_probs(rows.log_probs, rows.row_weights, allowed=feasible.upper > 0)
    problem = Problem((objective,), feasible)
    solution = solve_problem(
        problem,
        solver=settings.solver,
        tolerance=settings.tolerance,
        max_rounds=settings.max_rounds,
    )
    rivals: dict[str, NDArray[np.float64]] = {
        arm: _vector(mixture) for arm, mixture in baseline_mixtures(natural_tokens or available_tokens).items()
    }
    losses = {"mixmin": solution.loss} | {
        arm: mixture_loss(rows.log_probs, shares, row_weights=rows.row_weights) for arm, shares in rivals.items()
    }
    interval: dict[str, tuple[float, float]] = {}
    warnings = _warnings(solution.status, solution.gap, settings, cache)
    if settings.bootstrap:
        spread = bootstrap(
            problem,
            solution.weights,
            documents=[Documents.of(rows.row_weights, rows.documents, rows.token_counts)],
            baselines=rivals,
            replicates=settings.bootstrap,
            seed=config.seed,
        )
        interval = {name: (float(low), float(high)) for name, (low, high) in zip(sources, spread.interval, strict=True)}
        warnings += [
            {
                "code": "flat",
                "message": f"the predicted gain over {arm} is not separated from zero",
                "interval": [float(low), float(high)],
                "unit": "nats per token",
                "documents": len(cache.document_ids),
            }
            for arm, (low, high) in spread.gain.items()
            if low <= settings.tolerance and high >= -settings.tolerance  # below it a gain may be rounding
        ]
    shares = {name: float(share) for name, share in zip(sources, solution.weights, strict=True)}
    mixture = Mixture.from_weights(
        shares,
        run=run,
        targets=[target],
        unit=settings.unit,
        interval=interval,
        loss=losses,
        gap=max(0.0, float(solution.gap)),
        rounds=solution.rounds,
        solver=settings.solver,
        tolerance=settings.tolerance,
        status=solution.status,
        epochs={name: share * budget / available_tokens[name] for name, share in shares.items()},
        warnings=warnings,
    )
    return Found(mixture, solution.trace)


def _vector(mixture: Mixture) -> NDArray[np.float64]:
    return np.array([mixture.weights[source] for source in mixture.sources])


FEW_DOCUMENTS = 50


def _warnings(status: str, gap: float, config: MixtureConfig, cache: PredictionCache) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    if status != "converged":
        message = f"the solver stopped ({status}) at a gap of {gap:.3g} nats per token, not {config.tolerance:g}"
        found.append({"code": "not_converged", "message": message, "gap": gap})
    if len(cache.document_ids) < FEW_DOCUMENTS:
        message = f"the fit part has only {len(cache.document_ids)} documents: intervals are rough"
        found.append({"code": "few_documents", "message": message, "documents": len(cache.document_ids)})
    return found


def solve_again(folder: RunFolder, overrides: Overrides, target: str | None) -> dict[str, Mixture]:
    """The mixtures of a run's targets (or of one) under other settings of ``mixture``, from its prediction cache.

    ``overrides``: of ``mixture`` alone. Raises InputError for other keys, an unknown target, a run without a cache.
    """
    for key in overridden_keys(overrides):
        if not key.startswith("mixture."):
            raise InputError(
                "only 'mixture' can be changed after the fact", got=key, wanted="mixture.KEY=VALUE", remedy="mixray run"
            )
    config = parse_config(dump_config(folder.config), overrides, name=f"{folder.location}/config.yaml")
    artifacts = folder.artifacts()
    rows, columns = folder.load_cache(artifacts)
    if target is not None and target not in rows:
        raise InputError("the run has no such target", where="--target", got=target, wanted=f"one of {', '.join(rows)}")
    available = folder.available_tokens()
    sizes = natural_tokens(config, available)
    found = {}
    for name in rows if target is None else [target]:
        cache = read_cache(folder.storage, rows[name], "fit", columns[name])
        answer = find_mixture(
            cache, config, target=name, available_tokens=available, natural_tokens=sizes, run=folder.name
        )
        found[name] = answer.mixture
    return found
