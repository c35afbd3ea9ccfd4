"""From a prediction cache to a mixture: the numbers, against direct computation on synthetic caches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mixray.cache import PredictionCache
from mixray.config import RunConfig, parse_config
from mixray.config.mixture import ShardsConfig
from mixray.errors import CorruptedArtifactError, InputError
from mixray.mixture import Mixture, SourceSize
from mixray.runs import MixtureRun
from mixray.search import Sweep, baseline_shares, find_mixture, solve_again, solve_once
from mixray.search.problem import SearchProblem, UnitRows, natural_tokens
from mixray.search.reweighting import reweighted_mixture
from mixray.simplex import CrossEntropy
from mixray.store import Artifact, FileRecord, Storage, encode

PLANTED = {"a": 0.55, "b": 0.3, "c": 0.15}
AVAILABLE = {"a": 6_000, "b": 3_000, "c": 1_000}
BUDGET = 8_000
UNITS = ["document", "window", "token", {"segment": 1}, {"segment": 3}, {"segment": 4}]
WEIGHTINGS, SOLVERS = ["document", "token"], ["newton", "entropic", "working_set"]


def synthetic_cache(documents: int, seed: int = 0, symbols: int = 20) -> PredictionCache:
    """Documents of 1 to 4 windows of 4 tokens; each is drawn from one source, chosen by its planted share.

    A source draws tokens independently from its own distribution, and the proxies know those distributions.
    """
    generator = np.random.default_rng(seed)
    log_p = np.log(generator.dirichlet(np.full(symbols, 0.5), len(PLANTED))).T
    rows, token_rows = [], []
    for document in range(documents):
        source = generator.choice(len(PLANTED), p=list(PLANTED.values()))
        for window in range(generator.integers(1, 5)):
            tokens = log_p[generator.choice(symbols, 4, p=np.exp(log_p[:, source]))]
            rows.append((document, window, 4, tokens.sum(axis=0)))
            token_rows.append(tokens)
    numbers, windows, counts, totals = zip(*rows, strict=True)
    return PredictionCache(
        models=tuple(PLANTED),
        documents=np.array(numbers, np.int64),
        document_ids=np.array([document_id(number) for number in range(documents)], "V16"),
        windows=np.array(windows, np.int32),
        counts=np.array(counts, np.int64),
        log_probs=np.array(totals),
        segments=np.concatenate(token_rows).astype(np.float32),
        segment=1,
    )


def document_id(number: int) -> bytes:
    return (number << 64).to_bytes(16, "big")


@pytest.fixture(scope="module")
def cache() -> PredictionCache:
    return synthetic_cache(600)


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., RunConfig]:
    """A run of the sources a, b, c with these settings of ``mixture``."""

    def make(seed: int = 0, **mixture: Any) -> RunConfig:
        training = {"model": {"architecture": "gpt_neox"}, "tokens": BUDGET, "batch": 4}
        return RunConfig.model_validate(
            {
                "name": "synthetic",
                "seed": seed,
                "storage": str(tmp_path / "store"),
                "tokenizer": {"train": {}},
                "window": 4,
                "sources": {name: {"files": f"{name}.txt"} for name in PLANTED},
                "targets": {"target": {"files": "target.txt"}},
                "proxy": training,
                "retrain": training,
                "cache": {"segment": 1},
                "mixture": {"bootstrap": 0, "unit": "document", **mixture},
            }
        )

    return make


def find(cache: PredictionCache, config: RunConfig, available: dict[str, int] | None = None) -> Mixture:
    return find_mixture({"target": cache}, config, available_tokens=available or AVAILABLE, run="run-1").mixture


def loss_by_hand(cache: PredictionCache, shares: dict[str, float], unit: Any, weighting: str) -> float:
    """Nats per token, term by term: groups of tokens (one a unit), each the log of a weighted sum of probabilities."""
    assert cache.segments is not None
    tokens_of = np.split(cache.segments.astype(np.float64), np.cumsum(cache.counts)[:-1])
    terms: dict[int, float] = dict.fromkeys(range(len(cache.document_ids)), 0.0)
    for document in terms:
        rows = np.flatnonzero(cache.documents == document)
        if unit == "document":
            units = [cache.log_probs[rows].sum(axis=0)]
        elif unit == "window":
            units = list(cache.log_probs[rows])
        else:
            length = 1 if unit == "token" else unit["segment"]
            windows = [tokens_of[row] for row in rows]
            units = [w[start : start + length].sum(axis=0) for w in windows for start in range(0, len(w), length)]
        for totals in units:
            terms[document] += math.log(sum(s * math.exp(t) for s, t in zip(shares.values(), totals, strict=True)))
    tokens = {document: int(cache.counts[cache.documents == document].sum()) for document in terms}
    if weighting == "document":
        return -sum(terms[document] / tokens[document] for document in terms) / len(terms)
    return -sum(terms.values()) / sum(tokens.values())


BALANCED = dict.fromkeys(PLANTED, 1 / 3)
NATURAL = {name: tokens / sum(AVAILABLE.values()) for name, tokens in AVAILABLE.items()}


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("unit", UNITS, ids=str)
def test_predicted_losses_are_those_of_a_direct_computation(
    config: Callable[..., RunConfig], unit: Any, weighting: str
) -> None:
    cache = synthetic_cache(40)
    mixture = find(cache, config(unit=unit, weighting=weighting))
    shares = {"mixmin": mixture.weights, "balanced": BALANCED, "natural": NATURAL}
    by_hand = {arm: loss_by_hand(cache, shares[arm], unit, weighting) for arm in shares}
    assert mixture.loss == pytest.approx(by_hand, rel=1e-12)
    assert mixture.loss["mixmin"] == min(mixture.loss.values())
    assert mixture.status == "converged"
    assert mixture.gap is not None
    assert mixture.gap <= mixture.tolerance


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("unit", UNITS, ids=str)
def test_planted_proportions_are_recovered(
    cache: PredictionCache, config: Callable[..., RunConfig], unit: Any, weighting: str
) -> None:
    mixture = find(cache, config(unit=unit, weighting=weighting))
    # the standard error of a share is about sqrt(0.25 / 600) = 0.02; units below the document say less
    assert mixture.weights == pytest.approx(PLANTED, abs=0.06)


@pytest.mark.parametrize(("segment", "unit"), [(1, "token"), (4, "window"), (100, "window")])
def test_segments_of_one_token_are_tokens_and_of_a_window_or_more_are_windows(
    cache: PredictionCache, config: Callable[..., RunConfig], segment: int, unit: str
) -> None:
    mixture, other = (find(cache, config(unit=each, bootstrap=20)) for each in ({"segment": segment}, unit))
    assert mixture.weights == pytest.approx(other.weights, abs=1e-5)
    assert mixture.loss == pytest.approx(other.loss, rel=1e-6)
    for source, interval in other.interval.items():  # documents are drawn again, whatever the unit
        assert mixture.interval[source] == pytest.approx(interval, abs=1e-3)


def test_the_interval_holds_the_share_and_is_as_wide_as_600_documents_allow(
    cache: PredictionCache, config: Callable[..., RunConfig]
) -> None:
    mixture = find(cache, config(bootstrap=200))
    for source, (low, high) in mixture.interval.items():
        assert low < mixture.weights[source] < high
        assert low < PLANTED[source] < high
        assert 0.04 < high - low < 0.16


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_is_certified_to_the_same_optimum(
    cache: PredictionCache, config: Callable[..., RunConfig], solver: str
) -> None:
    mixture = find(cache, config(solver=solver, tolerance=1e-7))
    best = find(cache, config(tolerance=1e-12))
    assert (mixture.status, mixture.solver) == ("converged", solver)
    assert mixture.gap is not None
    assert 0 <= mixture.gap <= 1e-7
    assert -1e-12 <= mixture.loss["mixmin"] - best.loss["mixmin"] <= 1e-7


def test_a_loose_tolerance_takes_fewer_rounds(cache: PredictionCache, config: Callable[..., RunConfig]) -> None:
    loose, tight = (find(cache, config(solver="entropic", tolerance=tolerance)) for tolerance in (1e-3, 1e-6))
    assert loose.rounds is not None
    assert tight.rounds is not None
    assert loose.rounds < tight.rounds
    assert (loose.tolerance, tight.tolerance) == (1e-3, 1e-6)


def test_a_mixture_says_where_it_comes_from(cache: PredictionCache, config: Callable[..., RunConfig]) -> None:
    mixture = find(cache, config(unit="window"))
    assert (mixture.run, mixture.targets, mixture.unit) == ("run-1", ["target"], "window")
    assert (mixture.sources, mixture.share_of) == (["a", "b", "c"], "training tokens")
    assert mixture.epochs == pytest.approx({name: mixture.weights[name] * BUDGET / AVAILABLE[name] for name in PLANTED})


@pytest.mark.parametrize("options", [{}, {"unit": "token", "solver": "entropic", "tolerance": 1e-5}])
def test_the_same_cache_and_settings_give_the_same_bits(
    cache: PredictionCache, config: Callable[..., RunConfig], options: dict[str, Any]
) -> None:
    one, two = (find(cache, config(bootstrap=20, **options)).to_json() for _ in range(2))
    assert one == two
    other_seed = find(cache, config(seed=1, bootstrap=20, **options))
    assert other_seed.weights == Mixture.from_json(one).weights
    assert other_seed.interval != Mixture.from_json(one).interval


# --------------------------------------------------------------------------------- bounds and repetition


@pytest.mark.parametrize(
    "bounds",
    [{"a": [0.0, 0.2]}, {"c": [0.5, 1.0]}, {"a": [0.1, 0.1], "b": [0.2, 0.9]}, {"a": [0.3, 0.3], "b": [0.7, 0.7]}],
    ids=str,
)
def test_bounds_hold_and_what_they_cost_is_seen(
    cache: PredictionCache, config: Callable[..., RunConfig], bounds: dict[str, list[float]]
) -> None:
    mixture = find(cache, config(bounds=bounds, bootstrap=20))
    for source, (low, high) in bounds.items():
        assert low <= mixture.interval[source][0] <= mixture.interval[source][1] <= high
        assert low <= mixture.weights[source] <= high
    assert mixture.loss["mixmin"] > find(cache, config()).loss["mixmin"]
    assert mixture.status == "converged"


@pytest.mark.parametrize(("passes", "bound"), [(0.8, True), (1.0, True), (50.0, False)])
def test_no_source_is_repeated_more_often_than_allowed(
    cache: PredictionCache, config: Callable[..., RunConfig], passes: float, bound: bool
) -> None:
    free = find(cache, config())
    capped = find(cache, config(max_epochs=passes))
    assert max(free.epochs.values()) > 1
    assert max(capped.epochs.values()) <= passes * (1 + 1e-12)
    assert (capped.weights != free.weights) == bound


@pytest.mark.parametrize(
    ("mixture", "available", "least"),
    [
        ({"max_epochs": 0.5}, AVAILABLE, 0.8),  # 10,000 tokens for 8,000
        ({"max_epochs": 0.9, "bounds": {"a": [0, 0.5]}}, AVAILABLE, 1.0),  # half of 8,000 from 4,000
        ({"max_epochs": 2, "bounds": {"c": [0.3, 1]}}, AVAILABLE, 2.4),  # 2,400 from 1,000
        ({"max_epochs": 1}, {"a": 1000, "b": 1000, "c": 999}, 2.668),  # rounded up
    ],
)
def test_a_cap_that_no_mixture_keeps_is_refused_and_the_least_one_named(
    cache: PredictionCache,
    config: Callable[..., RunConfig],
    mixture: dict[str, Any],
    available: dict[str, int],
    least: float,
) -> None:
    with pytest.raises(InputError, match=r"no mixture keeps mixture\.max_epochs") as caught:
        find(cache, config(**mixture), available)
    assert caught.value.where == "mixture.max_epochs"
    assert caught.value.wanted == f"at least {least:g} passes"
    assert ("lower bound of c" in caught.value.what) == ("c" in mixture.get("bounds", {}))
    enough = find(cache, config(**{**mixture, "max_epochs": least}), available)
    assert max(enough.epochs.values()) <= least * (1 + 1e-12)


def test_a_budget_of_exactly_all_tokens_leaves_one_mixture(
    cache: PredictionCache, config: Callable[..., RunConfig]
) -> None:
    available = {"a": 4595, "b": 1634, "c": 1771}  # the caps sum to 1 - 1e-16
    assert find(cache, config(max_epochs=1.0), available).epochs == pytest.approx(dict.fromkeys(available, 1.0))


# ------------------------------------------------------------------------------ shares that can be trained on


def cache_of(log_probs: np.ndarray) -> PredictionCache:
    """Documents of one window of 4 tokens. ``log_probs``: nats, (documents, sources)."""
    documents = len(log_probs)
    return PredictionCache(
        models=tuple(PLANTED),
        documents=np.arange(documents),
        document_ids=np.array([document_id(number) for number in range(documents)], "V16"),
        windows=np.zeros(documents, np.int32),
        counts=np.full(documents, 4, np.int64),
        log_probs=log_probs,
    )


def needed_traces(config: Callable[..., RunConfig], **settings: Any) -> Mixture:
    """Return the worst-case mixture where one document of one target is all but impossible without source b."""
    table = np.full((100, 3), [-40.0, -1000.0, -50.0])
    table[0] = [-2000.0, -40.0, -2000.0]
    other = np.full((100, 3), [-48.0, -52.0, -60.0])
    run = config(over="worst", worst={"offsets": "none"}, **settings)
    run = RunConfig.model_validate(run.model_dump() | {"targets": {name: {"files": name} for name in ("one", "two")}})
    caches = {"one": cache_of(table), "two": cache_of(other)}
    return find_mixture(caches, run, available_tokens=AVAILABLE, run="run-1").mixture


def test_every_share_is_nothing_or_at_least_one_training_window(config: Callable[..., RunConfig]) -> None:
    mixture = needed_traces(config, bootstrap=20)
    assert mixture.realisable is not None
    assert mixture.realisable.least_share == 4 / BUDGET
    assert mixture.realisable.raised == ["b"]
    assert all(share == 0 or share >= 4 / BUDGET * (1 - 1e-9) for share in mixture.weights.values())
    assert mixture.weights["b"] >= 4 / BUDGET * (1 - 1e-9)
    assert mixture.interval["b"][0] <= mixture.weights["b"] <= mixture.interval["b"][1]
    # The losses are those of the shares in the file, and the gap holds what settling them cost.
    shares = np.array(list(mixture.weights.values()))
    rows = np.log(np.exp(np.array([-48.0, -52.0, -60.0])) @ shares) / 4
    assert mixture.target_loss["two"] == pytest.approx(-rows, rel=1e-12)
    assert mixture.gap is not None
    assert mixture.realisable.loss_rise <= mixture.gap <= mixture.realisable.loss_rise + 1e-7
    assert all(share == 0 or share >= 1e-16 for point in mixture.path for share in point.weights.values())


def test_shares_of_more_than_a_window_are_not_touched(cache: PredictionCache, config: Callable[..., RunConfig]) -> None:
    assert find(cache, config()).realisable is None


# ------------------------------------------------------------------------------------------ warnings


def codes(mixture: Mixture) -> list[str]:
    return [warning.code for warning in mixture.warnings]


def test_a_clear_answer_comes_without_warnings(config: Callable[..., RunConfig]) -> None:
    assert codes(find(synthetic_cache(2400), config(bootstrap=50))) == []


def test_few_documents_are_warned_of(config: Callable[..., RunConfig]) -> None:
    assert codes(find(synthetic_cache(50), config())) == []
    (warning,) = find(synthetic_cache(49), config()).warnings
    assert (warning.code, warning.documents) == ("few_documents", 49)
    assert warning.message.endswith("49 documents: intervals are rough")


REWEIGHTED = """
name: demo
examples: {label: y, numeric: [x]}
sources: {a: {csv: a.csv}, b: {csv: b.csv}, c: {csv: c.csv}}
targets: {goal: {csv: goal.csv}}
proxy: {model: {head: linear}, tokens: 800}
retrain: {model: {head: linear}, tokens: 800}
mixture: {covariate_shift: reweight}
"""


def test_a_mixture_without_intervals_is_not_warned_of_rough_ones() -> None:
    cache = replace(synthetic_cache(20), segments=None, segment=None)
    search = SearchProblem.of({"goal": cache}, parse_config(REWEIGHTED), AVAILABLE)
    mixture = reweighted_mixture(
        cache, np.zeros_like(cache.log_probs), search, target="goal", available_tokens=AVAILABLE
    )
    assert mixture.interval == {}
    (warning,) = mixture.warnings
    assert warning.message.endswith("20 examples: shares are rough")


@pytest.mark.parametrize(
    ("log_density", "code"), [(-40.0, "source_without_density"), (-4.0, "thin_source"), (0.0, None)]
)
def test_a_source_without_density_at_the_target_has_no_share_and_one_with_little_is_named(
    log_density: float, code: str | None
) -> None:
    """The third source predicts best, but its inputs may be far from the target's."""
    log_probs = np.random.default_rng(0).normal(-2, 0.2, (400, 3)) + np.array([0, 0, 1])
    cache = replace(cache_of(log_probs), segments=None, segment=None)
    search = SearchProblem.of({"goal": cache}, parse_config(REWEIGHTED), AVAILABLE)
    densities = np.tile([0.0, 0.0, log_density], (400, 1))
    mixture = reweighted_mixture(cache, densities, search, target="goal", available_tokens=AVAILABLE)
    share = list(mixture.weights.values())[2]
    assert share == 0 if code == "source_without_density" else share > 0.5
    assert sum(mixture.weights.values()) == pytest.approx(1, abs=1e-12)
    named = [warning for warning in mixture.warnings if "source" in warning.code]
    assert [warning.code for warning in named] == ([code] if code else [])
    assert all(list(mixture.weights)[2] in warning.message for warning in named)


def test_a_gain_that_may_be_nothing_is_warned_of(cache: PredictionCache, config: Callable[..., RunConfig]) -> None:
    same = replace(cache, log_probs=np.repeat(cache.log_probs[:, :1], 3, axis=1))
    warnings = find(same, config(bootstrap=50)).warnings
    assert [warning.code for warning in warnings] == ["flat", "flat"]
    assert [arm in warning.message for arm, warning in zip(("balanced", "natural"), warnings, strict=True)] == [
        True
    ] * 2
    assert warnings[0].interval == pytest.approx([0.0, 0.0], abs=1e-12)
    assert (warnings[0].unit, warnings[0].documents) == ("nats per token", 600)


def test_a_gain_that_is_nothing_but_fit_is_warned_of(config: Callable[..., RunConfig]) -> None:
    """The target is the balanced mixture: the mixture that 60 documents choose looks better on them, and is worse."""
    draw = np.random.default_rng(0)
    density = draw.dirichlet(np.ones(50), 3)
    kinds = draw.choice(50, 60, p=density.mean(axis=0))
    cache = cache_of(np.log(density.T[kinds]))
    mixture = find(cache, config(bootstrap=20))
    gain = mixture.gain["balanced"]
    assert mixture.loss["balanced"] - mixture.loss["mixmin"] == pytest.approx(gain.estimate + gain.optimism, rel=1e-6)
    assert gain.optimism > 0
    assert gain.interval is not None
    assert gain.interval[0] < 0 < gain.interval[1]
    assert [warning.code for warning in mixture.warnings if "balanced" in warning.message] == ["flat"]
    assert find(cache, config()).gain == {}


def test_natural_is_in_proportion_to_the_real_sizes_where_they_are_stated(config: Callable[..., RunConfig]) -> None:
    settings = config().model_dump()
    settings["sources"]["a"]["natural_tokens"] = 30_000
    stated = RunConfig.model_validate(settings)
    assert natural_tokens(stated, AVAILABLE) == {"a": 30_000, "b": 3_000, "c": 1_000}
    assert baseline_shares(stated, AVAILABLE)["natural"]["a"] == 30 / 34


def test_a_solution_is_found_again_and_not_solved_again(cache: PredictionCache, folder: MixtureRun) -> None:
    artifacts = folder.artifacts
    rows, columns = folder.load_cache()
    sizes = {source: SourceSize(documents=10, tokens=tokens) for source, tokens in AVAILABLE.items()}
    settings: dict[str, Any] = {"available_tokens": AVAILABLE, "sizes": sizes, "run": "run-1"}
    target, its_rows = next(iter(rows.items()))
    first, again = (
        solve_once(artifacts, folder.config, targets={target: (its_rows, columns[target])}, **settings)
        for _ in range(2)
    )
    assert first.mixture == again.mixture
    assert (first.mixture.sizes, first.mixture.budget) == (sizes, folder.config.retrain.tokens)
    assert first.mixture.weights == find(cache, folder.config).weights
    np.testing.assert_array_equal(first.trace, again.trace)
    (kept,) = folder.storage.list("artifacts/solution")
    record = artifacts.get("solution", kept).files["mixture.json"]
    other = first.mixture.model_copy(update={"rounds": 99})
    folder.storage.write(record.path, other.to_json().encode())
    with pytest.raises(CorruptedArtifactError):
        solve_once(artifacts, folder.config, targets={target: (its_rows, columns[target])}, **settings)


def test_a_solver_out_of_rounds_says_so_with_its_gap(cache: PredictionCache, config: Callable[..., RunConfig]) -> None:
    mixture = find(cache, config(solver="entropic", max_rounds=2))
    assert (mixture.status, mixture.rounds, codes(mixture)) == ("round_limit", 2, ["not_converged"])
    assert mixture.gap == mixture.warnings[0].gap > 1e-8
    assert mixture.gap is not None
    best = find(cache, config(tolerance=1e-12)).loss["mixmin"]
    assert mixture.loss["mixmin"] - mixture.gap <= best <= mixture.loss["mixmin"]


def test_segments_that_are_not_stored_are_asked_for(cache: PredictionCache, config: Callable[..., RunConfig]) -> None:
    with pytest.raises(InputError, match="does not hold what the unit is made of") as caught:
        find(replace(cache, segments=None, segment=None), config(unit="token"))
    assert caught.value.remedy == "run again with cache.segment=1"


# ----------------------------------------------------------------------------- solving again, from a run folder


@pytest.fixture
def folder(cache: PredictionCache, config: Callable[..., RunConfig]) -> MixtureRun:
    """A run that has come past its cache, two targets with the same rows."""
    folder = MixtureRun.create(config(bootstrap=10))
    artifacts = folder.artifacts
    keys = {
        "document": pa.array([document_id(int(number)) for number in cache.documents], pa.binary(16)),
        "window": pa.array(cache.windows),
    }

    def publish(kind: str, id: str, **values: Any) -> Artifact:
        draft = artifacts.draft(kind, id)
        name = "fit-00000.parquet"
        return draft.publish({name: draft.write(name, encode(pa.table(keys | values)))}, {})

    rows = publish("rows", "rows", count=pa.array(cache.counts, pa.int32()))
    columns = {
        name: publish("column", name, log_prob=pa.array(cache.log_probs[:, index]))
        for index, name in enumerate(cache.models)
    }
    folder.save_cache({"target": rows, "other": rows}, {"target": columns, "other": columns}, AVAILABLE)
    return MixtureRun.open(folder.location)


def test_solving_again_without_changes_gives_the_same_bits(cache: PredictionCache, folder: MixtureRun) -> None:
    again = solve_again(folder, [], None)
    first = find_mixture({"target": cache}, folder.config, available_tokens=AVAILABLE, run=folder.name)
    assert again["target"] == first.mixture.model_copy(update={"budget": folder.config.retrain.tokens})
    assert list(again) == ["target", "other"]


def test_solving_again_keeps_what_doremi_chose(folder: MixtureRun) -> None:
    """As far as the limits let it, and judged by the same predictions."""
    meta = {"parameters": 10, "tokens": 100, "seconds": 1.0, "curve": [[100, 1.0]]}
    chosen = {"a": 0.2, "b": 0.5, "c": 0.3}
    proxy = folder.artifacts.draft("swarm_model", "d" * 64).publish({}, meta | {"mean_group_weights": chosen})
    folder.index.add({"doremi/proxy": proxy})
    again = solve_again(folder, [], None)["target"]
    assert again.rivals["doremi"].weights == pytest.approx(chosen)
    assert again.loss["doremi"] == again.rivals["doremi"].expected > again.loss["mixmin"]
    assert again.rivals["doremi"].search_flops == 14 * 10 * 100
    limited = solve_again(folder, ["mixture.bounds.b=[0, 0.4]"], "target")["target"]
    assert limited.rivals["doremi"].weights == pytest.approx({"a": 0.25, "b": 0.4, "c": 0.35}, abs=1e-6)
    assert isinstance(solve_again(folder, ["mixture.bounds.b=[0, 0.1..0.4]"], "target"), Sweep)


def test_a_run_with_shards_is_solved_again_in_memory(folder: MixtureRun) -> None:
    changed = folder.config.mixture.model_copy(update={"shards": ShardsConfig(actors=3)})
    sharded = replace(folder, config=folder.config.model_copy(update={"mixture": changed}))
    assert solve_again(sharded, [], None) == solve_again(folder, [], None)
    assert solve_again(sharded, ["mixture.choose={rule: nearest_to_prior}"], "other")


def test_solving_again_takes_new_settings_of_the_mixture(folder: MixtureRun) -> None:
    changes = ["mixture.bounds.a=[0, 0.25]", "mixture.solver=entropic", "mixture.tolerance=1e-5"]
    found = solve_again(folder, changes, "other")
    assert list(found) == ["other"]
    assert found["other"].weights["a"] == pytest.approx(0.25)
    assert (found["other"].solver, found["other"].tolerance) == ("entropic", 1e-5)
    assert found["other"].targets == ["other"]
    assert (
        solve_again(
            folder, {"mixture.bounds.a": [0, 0.25], "mixture.solver": "entropic", "mixture.tolerance": 1e-5}, "other"
        )
        == found
    )


@pytest.mark.parametrize(
    ("overrides", "target", "what"),
    [
        (["seed=1"], None, "only 'mixture' can be changed after a run"),
        (["mixture.tolerance=1e-3", "retrain.tokens=1"], None, "only 'mixture' can be changed after a run"),
        (["mixture.colour=red"], None, "unknown key 'mixture.colour'"),
        (["mixture.bounds.d=[0, 1]"], None, "mixture.bounds.d is not valid"),
        ([], "targt", "unknown target"),
        (["mixture.over=mean"], "target", "one target cannot be picked"),
        (["mixture.shards.actors=2"], None, "solving again needs no cluster"),
        (["mixture.bounds.a=[0.1..0.2, 0.5..0.6]"], None, "one range at a time"),
        (["mixture.bounds.a=[0, 0.1..0.2]", "mixture.max_epochs=1..2"], None, "one setting can be swept at a time"),
        (["mixture.max_epochs=2..1"], None, "this is not a valid range"),
        (["mixture.max_epochs=1..2..3"], None, "mixture.max_epochs is not valid"),
        (["mixture.max_epochs=0..2"], None, "mixture.max_epochs is not valid"),
        (["mixture.max_epochs=0.1"], None, "no mixture keeps mixture.max_epochs"),
    ],
)
def test_what_cannot_be_solved_again_is_refused(
    folder: MixtureRun, overrides: list[str], target: str | None, what: str
) -> None:
    with pytest.raises(InputError) as caught:
        solve_again(folder, overrides, target)
    assert caught.value.what.startswith(what)


def test_a_run_without_a_cache_cannot_be_solved_again(config: Callable[..., RunConfig]) -> None:
    folder = MixtureRun.create(config(bootstrap=11))
    with pytest.raises(InputError, match="the run has no prediction cache yet") as caught:
        solve_again(folder, [], None)
    assert caught.value.where == folder.location


# -------------------------------------------------------------------- several targets, constraints, the near-optimal


@pytest.fixture(scope="module")
def caches() -> dict[str, PredictionCache]:
    return {"easy": synthetic_cache(150, seed=1), "hard": synthetic_cache(200, seed=2, symbols=60)}


def find_for_all(caches: dict[str, PredictionCache], config: RunConfig) -> Mixture:
    return find_mixture(caches, config, available_tokens=AVAILABLE, run="run-1").mixture


def losses_of(caches: dict[str, PredictionCache], weights: dict[str, float]) -> dict[str, float]:
    return {name: loss_by_hand(cache, weights, "document", "document") for name, cache in caches.items()}


def test_the_mean_over_targets_is_minimised(
    caches: dict[str, PredictionCache], config: Callable[..., RunConfig]
) -> None:
    even = find_for_all(caches, config(over="mean"))
    tilted = find_for_all(caches, config(over="mean", target_weights={"target": 1.0}))
    assert even.weights == tilted.weights  # a target that is not among these
    assert (even.over, even.targets) == ("mean", ["easy", "hard"])
    assert even.target_weights == {"easy": 0.5, "hard": 0.5}
    by_hand = losses_of(caches, even.weights)
    assert even.target_loss == pytest.approx(by_hand, rel=1e-9)
    assert even.loss["mixmin"] == pytest.approx(sum(by_hand.values()) / 2, rel=1e-9)
    for other in (BALANCED, NATURAL, even.weights | {"a": even.weights["a"] - 0.05, "b": even.weights["b"] + 0.05}):
        assert sum(losses_of(caches, other).values()) / 2 >= even.loss["mixmin"] - 1e-9


@pytest.mark.parametrize("offsets", ["none", "best_single", "best_mixture"])
def test_the_worst_target_is_as_well_off_as_can_be(
    caches: dict[str, PredictionCache], config: Callable[..., RunConfig], offsets: str
) -> None:
    worst = find_for_all(caches, config(over="worst", worst={"offsets": offsets}))
    singles = [{name: float(name == source) for name in PLANTED} for source in PLANTED]
    compared = {
        "none": dict.fromkeys(caches, 0.0),
        "best_single": {
            name: min(losses_of({name: cache}, single)[name] for single in singles) for name, cache in caches.items()
        },
        "best_mixture": {name: find({**caches}[name], config()).loss["mixmin"] for name in caches},
    }[offsets]
    above = {name: loss - compared[name] for name, loss in worst.target_loss.items()}
    assert worst.loss["mixmin"] == pytest.approx(max(above.values()), abs=1e-7)
    assert sum(worst.target_weights.values()) == pytest.approx(1)
    if min(worst.target_weights.values()) > 1e-3:  # both count: both are equally far above what they are compared with
        assert above["easy"] == pytest.approx(above["hard"], abs=1e-6)
    mean = find_for_all(caches, config(over="mean"))
    assert max(loss - compared[name] for name, loss in mean.target_loss.items()) >= worst.loss["mixmin"] - 1e-8


def test_a_group_of_sources_is_capped_and_the_cap_has_its_price(
    cache: PredictionCache, config: Callable[..., RunConfig]
) -> None:
    groups = [{"sources": ["a", "b"], "max": 0.5}]
    capped = find(cache, config(groups=groups))
    assert capped.weights["a"] + capped.weights["b"] == pytest.approx(0.5, abs=1e-12)
    (price,) = capped.prices
    assert (price.sources, price.limit, price.at) == (["a", "b"], "max", 0.5)
    looser = find(cache, config(groups=[{"sources": ["a", "b"], "max": 0.5001}], tolerance=1e-12))
    brought = (find(cache, config(groups=groups, tolerance=1e-12)).loss["mixmin"] - looser.loss["mixmin"]) / 1e-4
    assert price.nats_per_token_per_unit_share == pytest.approx(brought, rel=0.01)


def test_the_limits_of_single_sources_that_a_mixture_reaches_have_prices_dearest_first(
    cache: PredictionCache, config: Callable[..., RunConfig]
) -> None:
    free = find(cache, config()).weights
    largest = max(free, key=free.__getitem__)
    most = free[largest] / 2
    capped = find(cache, config(bounds={largest: (0.0, most)})).weights
    smallest = min(capped, key=capped.__getitem__)
    least = capped[smallest] + 0.2
    limited = find(cache, config(bounds={largest: (0.0, most), smallest: (least, 1.0)}))
    reached = {(*price.sources, price.limit, price.at) for price in limited.prices}
    assert reached == {(largest, "max", most), (smallest, "min", least)}
    gains = [price.nats_per_token_per_unit_share for price in limited.prices]
    assert gains == sorted(gains, reverse=True)
    assert min(gains) > 0


def test_limits_that_conflict_are_named_with_their_sources(
    cache: PredictionCache, config: Callable[..., RunConfig]
) -> None:
    settings = config(bounds={"c": [0, 0.3]}, groups=[{"sources": ["a", "b"], "max": 0.5}])
    with pytest.raises(InputError, match="no mixture satisfies these constraints together") as caught:
        find(cache, settings)
    assert "c at most 0.3" in str(caught.value.got)
    assert "a + b at most 0.5" in str(caught.value.got)


def test_a_pull_to_the_prior_draws_the_mixture_there(cache: PredictionCache, config: Callable[..., RunConfig]) -> None:
    free = find(cache, config())
    pulled = find(cache, config(prior={"shares": "natural", "strength": 0.3}))
    far, near = (
        sum(abs(mixture.weights[source] - NATURAL[source]) for source in PLANTED) for mixture in (free, pulled)
    )
    assert near < far
    assert pulled.loss["mixmin"] > free.loss["mixmin"]
    assert (pulled.path, pulled.worth, pulled.prices) == ([], {}, [])
    given = find(cache, config(prior={"shares": NATURAL, "strength": 0.3}))
    assert given.weights == pytest.approx(pulled.weights, abs=1e-6)


def test_one_standard_error_is_known_on_shards_too(cache: PredictionCache, config: Callable[..., RunConfig]) -> None:
    """Shards are an objective with float32 rows, wherever these are."""
    choice = {"choose": {"rule": "nearest_to_prior", "within": "one_se"}, "bootstrap": 20}
    sharded = config(**choice, shards={})
    rows = UnitRows.of(cache, sharded.mixture)
    objective = CrossEntropy.from_log_probs(
        rows.log_probs,
        rows.row_weights,
        document_ids=rows.parents,
        token_counts=rows.token_counts,
        dtype=np.float32,
    )
    here = find(cache, config(**choice))
    there = find_mixture({"target": objective}, sharded, available_tokens=AVAILABLE, run="run-1").mixture
    assert here.choice is not None
    assert there.choice is not None
    assert there.choice.allowed_rise == pytest.approx(here.choice.allowed_rise, rel=1e-4)
    assert there.weights == pytest.approx(here.weights, abs=1e-4)


def test_the_nearest_near_optimal_mixture_is_chosen_where_asked_for(
    cache: PredictionCache, config: Callable[..., RunConfig]
) -> None:
    optimum = find(cache, config())
    rule = {"rule": "nearest_to_prior", "within": 1e-3}
    chosen = find(cache, config(choose=rule))
    rise = chosen.loss["mixmin"] - optimum.loss["mixmin"]
    assert rise == pytest.approx(1e-3 * optimum.loss["mixmin"], rel=1e-3)
    assert chosen.gap == pytest.approx(rise, abs=1e-7)
    assert chosen.choice is not None
    assert chosen.choice.optimum.weights == pytest.approx(optimum.weights, abs=1e-9)
    assert (chosen.choice.rule, chosen.choice.within) == ("nearest_to_prior", 1e-3)
    assert chosen.effective_sources is not None
    assert optimum.effective_sources is not None
    assert chosen.effective_sources > optimum.effective_sources
    one_se = find(cache, config(choose={"rule": "nearest_to_prior"}, bootstrap=20))
    assert one_se.choice is not None
    assert 0 < one_se.choice.loss_rise <= one_se.choice.allowed_rise
    for source, (low, high) in one_se.interval.items():  # its own, not the optimum's
        assert low <= one_se.weights[source] <= high


def test_every_source_has_its_worth_and_the_path_leads_to_the_prior(
    cache: PredictionCache, config: Callable[..., RunConfig]
) -> None:
    mixture = find(cache, config(tolerance=1e-10))
    for source in PLANTED:
        without = find(cache, config(bounds={source: [0, 0]}, tolerance=1e-10))
        worth = mixture.worth[source]
        assert worth is not None
        assert worth.interval is not None
        assert worth.loss_rise == pytest.approx(without.loss["mixmin"] - mixture.loss["mixmin"], abs=1e-8)
        assert worth.interval[0] <= worth.loss_rise <= worth.interval[1]
    assert mixture.path[0].weights == mixture.weights
    assert mixture.path[-1].weights == pytest.approx(BALANCED)
    assert mixture.path[-1].strength is None
    Mixture.from_json(mixture.to_json())


def test_a_cap_is_swept(folder: MixtureRun) -> None:
    sweep = solve_again(folder, ["mixture.bounds.a=[0, 0.1..0.5:0.2]"], "target")
    assert isinstance(sweep, Sweep)
    assert (sweep.key, sweep.values) == ("mixture.bounds.a", [[0, 0.1], [0, 0.3], [0, 0.5]])
    losses = []
    for (_, cap), mixtures in zip(sweep.values, sweep.mixtures, strict=True):
        assert mixtures is not None
        assert mixtures["target"].weights["a"] <= cap
        losses.append(mixtures["target"].loss["mixmin"])
        alone = solve_again(folder, {"mixture.bounds.a": [0, cap]}, "target")
        assert isinstance(alone, dict)
        assert mixtures["target"].weights == pytest.approx(alone["target"].weights, abs=1e-4)
        assert mixtures["target"].loss == pytest.approx(alone["target"].loss, abs=1e-8)
        assert mixtures["target"].status == "converged"
    assert losses == sorted(losses, reverse=True)


def test_a_sweep_reads_every_cache_once_and_starts_from_its_neighbours_answers(
    folder: MixtureRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, real = list[str](), Storage.fetch

    def counted(self: Storage, record: FileRecord) -> Any:
        reads.append(record.path)
        return real(self, record)

    monkeypatch.setattr(Storage, "fetch", counted)
    caps = [round(0.3 + 0.01 * step, 2) for step in range(9)]
    sweep = solve_again(folder, ["mixture.bounds.a=[0, 0.30..0.38]"], None)
    assert isinstance(sweep, Sweep)
    assert len(reads) == 2 * (1 + 3)  # two targets' rows and three columns, for all nine limits
    rounds = {"sweep": 0, "alone": 0}
    for cap, mixtures in zip(caps, sweep.mixtures, strict=True):
        alone = solve_again(folder, {"mixture.bounds.a": [0, cap], "mixture.bootstrap": 0}, "other")
        assert isinstance(alone, dict)
        assert mixtures is not None
        rounds["sweep"] += mixtures["other"].rounds or 0
        rounds["alone"] += alone["other"].rounds or 0
    assert rounds["sweep"] < rounds["alone"]


@pytest.mark.parametrize(("asked", "intervals"), [({}, False), ({"mixture.bootstrap": 5}, True)])
def test_a_sweep_has_intervals_where_they_are_asked_for(
    folder: MixtureRun, asked: dict[str, Any], intervals: bool
) -> None:
    sweep = solve_again(folder, {"mixture.bounds.a": [0, "0.2..0.3"], **asked}, "target")
    assert isinstance(sweep, Sweep)
    for mixtures in sweep.mixtures:
        assert mixtures is not None
        assert bool(mixtures["target"].interval) == intervals


def test_a_groups_cap_is_swept(folder: MixtureRun) -> None:
    sweep = solve_again(folder, ["mixture.groups=[{sources: [a, b], max: 0.3..0.5}]"], "target")
    assert isinstance(sweep, Sweep)
    sums = [
        mixtures["target"].weights["a"] + mixtures["target"].weights["b"] for mixtures in sweep.mixtures if mixtures
    ]
    assert sums == pytest.approx([0.3, 0.4, 0.5], abs=1e-12)


def test_what_no_mixture_satisfies_is_a_hole_in_the_sweep(folder: MixtureRun) -> None:
    sweep = solve_again(folder, {"mixture.max_epochs": "0.5..1.5:0.5"}, "target")
    assert isinstance(sweep, Sweep)
    assert sweep.values == [0.5, 1.0, 1.5]
    assert [mixtures is None for mixtures in sweep.mixtures] == [True, False, False]
    with pytest.raises(InputError, match=r"no mixture keeps mixture\.max_epochs"):
        solve_again(folder, {"mixture.max_epochs": "0.1..0.3"}, "target")


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ("1..4", [1, 2, 3, 4]),
        ("0.8..1.1", [0.8, 0.9, 1.0, 1.1]),
        ("0.25..1:0.25", [0.25, 0.5, 0.75, 1.0]),
        ("0..0.05", [0, 0.01, 0.02, 0.03, 0.04, 0.05]),
        ("1e-3..1e-1", [0.001, 0.01, 0.1]),
        ("2e-2..2E-1:3", [0.02, 0.06, 0.18]),
    ],
)
def test_a_range_steps_by_its_last_digit_unless_told(folder: MixtureRun, written: str, values: list[float]) -> None:
    sweep = solve_again(folder, {"mixture.prior.strength": written}, "target")
    assert isinstance(sweep, Sweep)
    assert sweep.values == values


def test_a_part_of_the_loss_is_one_of_the_loss_and_not_of_a_regret(
    caches: dict[str, PredictionCache], config: Callable[..., RunConfig]
) -> None:
    for offsets in ("none", "best_mixture"):
        rule = {"rule": "nearest_to_prior", "within": 1e-3}
        chosen = find_for_all(caches, config(over="worst", worst={"offsets": offsets}, choose=rule))
        losses = [chosen.target_weights[name] * chosen.target_loss[name] for name in caches]
        assert chosen.choice is not None
        assert chosen.choice.allowed_rise == pytest.approx(1e-3 * sum(losses), rel=0.01)


def test_the_worst_case_is_solved_again_from_the_cache(folder: MixtureRun) -> None:
    found = solve_again(folder, ["mixture.over=worst", "mixture.worst.tau=0.01"], None)
    assert isinstance(found, dict)
    assert list(found) == ["worst"]
    assert found["worst"].targets == ["target", "other"]
    assert list(found["worst"].target_weights.values()) == pytest.approx([0.5, 0.5])
