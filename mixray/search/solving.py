"""From prediction caches to a mixture: solve, describe, and store the solution as an artifact."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixray.cache import PredictionCache, read_cache
from mixray.config import RunConfig
from mixray.config.mixture import SOLVER_METHODS
from mixray.mixture import Mixture, MixtureWarning, PredictedGain, RivalMixture, SourceSize
from mixray.search.explanation import (
    document_warnings,
    gain_warnings,
    interchangeable_sources,
    limit_prices,
    mixture_choice,
    path_to_prior,
    predicted_gains,
    realisable_shares,
    share_intervals,
    solver_warnings,
    source_worth,
)
from mixray.search.problem import SearchProblem, natural_tokens, optional_shares
from mixray.search.reweighting import log_densities_once, reweighted_mixture
from mixray.simplex import (
    Bootstrap,
    CrossEntropy,
    Entropic,
    NearOptimal,
    Point,
    Solution,
    bootstrap,
    effective_number,
    nearest_to_prior,
    realisable,
    solve_problem,
)
from mixray.store import Artifact, Artifacts, Storage, fingerprint

REFERENCE_STEPS, REFERENCE_STEP, NEVER = 100, 1.0, 1e-300
"""The released code of the MixMin paper takes all of its 100 entropic steps of 1.0: its rule for stopping cannot come
true, as a gap of NEVER cannot."""
MOST_EXPLAINED = 100
"""Sources up to which the worth of each and the path to the prior are worked out, at one solve each."""

StoredCaches = Mapping[str, tuple[Artifact, Mapping[str, Artifact]]]
"""Target -> the artifacts that hold its rows and, by source, its columns."""
Predictions = Mapping[str, PredictionCache | CrossEntropy]
"""Target -> its prediction cache or, where that is larger than memory, an objective whose rows are on shards."""
OpenPredictions = Callable[[Storage, StoredCaches], AbstractContextManager[Predictions]]
"""Makes the predictions available for as long as the block lasts."""


@dataclass(frozen=True)
class SolvedMixture:
    """A mixture and its solver's path. ``trace``: float64 (rounds + 1, 2), the loss and the gap of every round."""

    mixture: Mixture
    trace: NDArray[np.float64]


def find_mixture(
    predictions: Predictions,
    config: RunConfig,
    *,
    available_tokens: Mapping[str, int],
    run: str | None = None,
    start: Mapping[str, float] | None = None,
) -> SolvedMixture:
    """Return the certified mixture for some targets, with intervals, the baselines' predicted losses and warnings.

    Args:
        predictions: of every target.
        config: the run file.
        available_tokens: source -> its training tokens, in the order of the cache's columns.
        run: the name of the run folder.
        start: source -> the share that the solver starts from; by default those nearest to balanced, or to the prior.

    Raises:
        InputError: for limits that no mixture satisfies.
    """
    settings = config.mixture
    search = SearchProblem.of(predictions, config, available_tokens)
    optimum = solve_problem(
        search.convex,
        solver=settings.solver,
        tolerance=settings.tolerance,
        max_rounds=settings.max_rounds,
        start=None if start is None else [start[source] for source in search.sources],
    )
    near = _near_optimal(search, optimum)
    # A near-optimal mixture follows the documents less than the optimum: its intervals are its own.
    chosen = optimum.point if near is None else near.point
    settled = realisable(chosen, search.least_share, tolerance=settings.tolerance)
    point, shares = settled.point, settled.point.shares
    replicates = _bootstrap(search, optimum.point)
    gain = predicted_gains(search, point) if settings.bootstrap else {}
    # With a pull to the prior, worth, prices and path would be of the loss and the pull together.
    pulled = settings.prior.strength > 0
    explained = len(search.sources) <= MOST_EXPLAINED and not pulled
    weights, several = search.by_source(shares), len(predictions) > 1
    rivals = _solver_rivals(search, optimum)
    mixture = Mixture(
        run=run,
        targets=list(predictions),
        over=None if settings.over == "each" else settings.over,
        unit=settings.unit,
        loss_unit=config.loss_unit,
        share_of=config.share_of,
        sources=search.sources,
        weights=weights,
        interval=share_intervals(search, chosen, shares) if settings.bootstrap else {},
        loss={"mixmin": point.loss} | search.baseline_losses | {name: each.expected for name, each in rivals.items()},
        rivals=rivals,
        gain=gain,
        target_loss=dict(zip(predictions, point.losses.tolist(), strict=True)) if several else {},
        target_weights=dict(zip(predictions, optimum.target_weights.tolist(), strict=True)) if several else {},
        gap=max(0.0, optimum.gap + (near.chosen.rise if near else 0.0) + settled.rise),
        rounds=optimum.rounds,
        solver=optimum.solver,
        solver_why=optimum.why or None,
        tolerance=settings.tolerance,
        status=optimum.status,
        epochs={name: share * search.budget / available_tokens[name] for name, share in weights.items()},
        effective_sources=effective_number(shares),
        interchangeable=interchangeable_sources(search, optimum, replicates) if replicates else [],
        worth=source_worth(search, optimum) if explained else {},
        prices=[] if pulled else limit_prices(search, optimum),
        choice=None if near is None else mixture_choice(search, optimum, near),
        realisable=realisable_shares(search, settled),
        path=path_to_prior(search, optimum) if explained else [],
        warnings=_warnings(search, optimum, gain),
    )
    return SolvedMixture(mixture, optimum.trace)


def _solver_rivals(search: SearchProblem, optimum: Solution) -> dict[str, RivalMixture]:
    """Return what the methods that arms name choose from the same predictions: they cost what the proxies do."""
    named = {arm.mixture for arm in search.config.retrain.named_arms.values()}
    chosen = {}
    if "nearest_to_prior" in named:
        tolerance = search.config.mixture.tolerance
        chosen["nearest_to_prior"] = nearest_to_prior(optimum, search.prior, within=None, tolerance=tolerance).weights
    if "mixmin_reference" in named:
        steps = Entropic(fixed_step=REFERENCE_STEP)
        reference = solve_problem(search.convex, solver=steps, tolerance=NEVER, max_rounds=REFERENCE_STEPS)
        chosen["mixmin_reference"] = reference.weights
    return {
        method: RivalMixture(
            weights=search.by_source(shares),
            expected=search.convex.loss(shares),
            rank_correlation=None,
            models=0,
            search_flops=0.0,
        )
        for method, shares in chosen.items()
    }


def _near_optimal(search: SearchProblem, optimum: Solution) -> NearOptimal | None:
    """Return the near-optimal mixture that ``mixture.choose`` names; None where that is the optimum itself."""
    settings = search.config.mixture
    if settings.choose.rule == "optimum":
        return None
    loss = float(optimum.target_weights @ optimum.losses)
    within = None if settings.choose.within == "one_se" else settings.choose.within * abs(loss)
    return nearest_to_prior(optimum, search.prior, within=within, tolerance=settings.tolerance)


def _bootstrap(search: SearchProblem, optimum: Point) -> Bootstrap | None:
    """Return the bootstrap of the optimum of a problem; None where the run file wants no replicates."""
    if not search.config.mixture.bootstrap:
        return None
    return bootstrap(
        optimum.problem,
        optimum.shares,
        replicates=search.config.mixture.bootstrap,
        seed=search.config.seed,
    )


def _warnings(search: SearchProblem, optimum: Solution, gain: Mapping[str, PredictedGain]) -> list[MixtureWarning]:
    return [
        *solver_warnings(search, optimum),
        *document_warnings(search),
        *gain_warnings(search, gain),
    ]


def mixture_targets(config: RunConfig, targets: Iterable[str] | None = None) -> dict[str, list[str]]:
    """Return the mixtures to find: name -> the targets it is for. ``targets``: all of the run file's by default."""
    targets = list(config.targets if targets is None else targets)
    return {target: [target] for target in targets} if config.mixture.over == "each" else {config.mixture.over: targets}


def in_memory(storage: Storage, caches: StoredCaches) -> AbstractContextManager[Mapping[str, PredictionCache]]:
    """Read the fit part of every target's cache whole."""
    return nullcontext(
        {target: read_cache(storage, rows, "fit", columns) for target, (rows, columns) in caches.items()}
    )


def solve_once(
    artifacts: Artifacts,
    config: RunConfig,
    open_predictions: OpenPredictions = in_memory,
    *,
    targets: StoredCaches,
    available_tokens: Mapping[str, int],
    sizes: Mapping[str, SourceSize],
    run: str,
    source_rows: Mapping[str, Artifact] | None = None,
) -> SolvedMixture:
    """Return ``find_mixture``'s answer from the stored caches of some targets; solve only where it is not stored yet.

    A run that continues on another processor therefore has the same shares to the last bit, and its trained arms fit.
    ``sizes`` are written into the mixture; ``source_rows``: of every source, from whose inputs
    ``mixture.covariate_shift: reweight`` learns.
    """
    assert all(list(columns) == list(available_tokens) for _, columns in targets.values()), "other columns than sources"
    draft = artifacts.draft("solution", _solution_id(config, targets, available_tokens))
    stored = artifacts.find(draft.kind, draft.id)
    if stored is None:
        with open_predictions(artifacts.storage, targets) as predictions:
            if config.mixture.covariate_shift == "reweight":
                assert source_rows is not None, "a run passes them"
                solved = find_reweighted(artifacts, predictions, config, targets, available_tokens, source_rows)
            else:
                solved = find_mixture(predictions, config, available_tokens=available_tokens)
        files = {
            "mixture.json": draft.write("mixture.json", solved.mixture.to_json().encode()),
            "trace.json": draft.write("trace.json", json.dumps(solved.trace.tolist()).encode()),
        }
        stored = draft.publish(files, {"rounds": solved.mixture.rounds})
    text, trace = (artifacts.storage.read_record(stored.files[name]) for name in ("mixture.json", "trace.json"))
    facts = {
        "run": run,
        "targets": list(targets),
        "budget": config.retrain_tokens(available_tokens),
        "sizes": dict(sizes),
    }
    mixture = Mixture.from_json(text.decode()).model_copy(update=facts)
    return SolvedMixture(mixture, np.array(json.loads(trace)).reshape(-1, 2))


def find_reweighted(
    artifacts: Artifacts,
    predictions: Predictions,
    config: RunConfig,
    targets: StoredCaches,
    available_tokens: Mapping[str, int],
    source_rows: Mapping[str, Artifact],
) -> SolvedMixture:
    """Return the answer under covariate shift, without a trace: it is the best of several. See ``solve_once``."""
    ((target, cache),) = predictions.items()
    assert isinstance(cache, PredictionCache), "shards are refused with the run file"
    log_densities = log_densities_once(artifacts, targets[target][0], source_rows, seed=config.seed)
    search = SearchProblem.of(predictions, config, available_tokens)
    mixture = reweighted_mixture(cache, log_densities, search, target=target, available_tokens=available_tokens)
    return SolvedMixture(mixture, np.zeros((0, 2)))


@dataclass(frozen=True)
class MixtureProblems:
    """The stored problems of all mixtures of a run, each over the sources that may have a share in it.

    ``rows``: of every target; ``columns``: target -> source -> the column of the prediction cache; ``source_rows``: of
    every source; the rest is as of ``solve_once``.
    """

    artifacts: Artifacts
    config: RunConfig
    rows: Mapping[str, Artifact]
    columns: Mapping[str, Mapping[str, Artifact]]
    available_tokens: Mapping[str, int]
    sizes: Mapping[str, SourceSize]
    run: str
    source_rows: Mapping[str, Artifact]

    def caches(self, name: str) -> StoredCaches:
        """Return the artifacts that a mixture is solved from."""
        sources = self.config.sources_for(name)
        return {
            target: (self.rows[target], {each: self.columns[target][each] for each in sources})
            for target in mixture_targets(self.config)[name]
        }

    def solve(self, name: str, open_predictions: OpenPredictions = in_memory) -> SolvedMixture:
        """Return ``solve_once``'s answer for a mixture by its name."""
        sources = self.config.sources_for(name)
        return solve_once(
            self.artifacts,
            self.config,
            open_predictions,
            targets=self.caches(name),
            available_tokens={source: self.available_tokens[source] for source in sources},
            sizes={source: self.sizes[source] for source in sources if source in self.sizes},
            run=self.run,
            source_rows={source: self.source_rows[source] for source in sources},
        )

    def store(self, name: str) -> None:
        """Solve on a worker: the answer is stored, not returned."""
        self.solve(name)


def _solution_id(config: RunConfig, targets: StoredCaches, available_tokens: Mapping[str, int]) -> str:
    settings = config.mixture.model_dump(mode="json", exclude={"shards"})
    if config.mixture.shards is not None:  # their number and size change nothing
        settings["rows"] = "float32"
    cache_ids = [[(source, column.id) for source, column in columns.items()] for _, columns in targets.values()]
    natural_sizes = natural_tokens(config, available_tokens)
    sizes = [list(available_tokens.items()), list(natural_sizes.items()), config.retrain_tokens(available_tokens)]
    names = list(targets) if len(targets) > 1 else []  # the name of a single target decides nothing
    optional = optional_shares(config, available_tokens)
    named = {arm.mixture for arm in config.retrain.named_arms.values() if arm.mixture is not None}
    rivals = sorted(named & set(SOLVER_METHODS))
    stated = [*([optional] if optional else []), *rivals]  # other arms leave no trace
    return fingerprint(["solution", 4, settings, names, cache_ids, sizes, config.seed, *stated])
