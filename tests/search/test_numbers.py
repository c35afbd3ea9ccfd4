"""Mixtures of predicted numbers: the squared error from the cache to the mixture, against closed forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mixray.cache import PredictionCache, column_table, compare, read_cache
from mixray.config import RunConfig
from mixray.errors import InputError
from mixray.search import find_mixture
from mixray.store import Artifacts, Storage, encode

SOURCES = ["a", "b", "c"]
AVAILABLE = {"a": 600, "b": 300, "c": 100}
ROWS = 400


def errors_of(seed: int = 0, offset: float = 0.0) -> np.ndarray:
    """Predictions of 0 by three proxies: the first two err in opposite directions, so that a mixture is best."""
    draws = np.random.default_rng(seed)
    common = draws.normal(size=ROWS)
    other = draws.normal(0, 0.3, ROWS) - 0.5 * common
    return np.stack([common + offset, other, draws.normal(2.0, 1.0, ROWS)], axis=1)


def cache_of(errors: np.ndarray) -> PredictionCache:
    ids = np.array([(number << 64).to_bytes(16, "big") for number in range(len(errors))], "V16")
    rows = np.arange(len(errors))
    ones = np.ones(len(errors), np.int64)
    return PredictionCache(tuple(SOURCES), rows, ids, 0 * rows, ones, -(errors**2), errors=errors)


def config(**mixture: Any) -> RunConfig:
    trees = {"model": {"boosted_trees": {}}}
    return RunConfig.model_validate(
        {
            "name": "numbers",
            "examples": {"numeric": ["x"], "label": "y", "task": "regression"},
            "sources": {name: {"csv": f"{name}.csv"} for name in SOURCES},
            "targets": {"goal": {"csv": "goal.csv"}, "other": {"csv": "other.csv"}},
            "proxy": trees,
            "retrain": trees,
            "mixture": {"bootstrap": 40} | mixture,
        }
    )


@pytest.mark.parametrize("solver", ["newton", "entropic", "working_set", "auto"])
def test_the_mixture_is_that_of_the_closed_form(solver: str) -> None:
    """Where only the first two sources may have a share, the best share of a is <b, b - a> / |a - b|^2."""
    errors = errors_of()
    first, second = errors[:, 0], errors[:, 1]
    best = second @ (second - first) / ((first - second) @ (first - second))
    solved = find_mixture(
        {"goal": cache_of(errors)}, config(solver=solver, bounds={"c": (0, 0)}), available_tokens=AVAILABLE
    ).mixture
    assert solved.weights["a"] == pytest.approx(best, abs=1e-4)
    assert solved.loss_unit == "squared error"
    assert (solved.status, solved.share_of) == ("converged", "training examples")
    assert solved.loss["balanced"] == pytest.approx((errors.mean(axis=1) ** 2).mean())
    natural = errors @ (np.array(list(AVAILABLE.values())) / 1000)
    assert solved.loss["natural"] == pytest.approx((natural**2).mean())
    low, high = solved.interval["a"]
    assert low <= solved.weights["a"] <= high
    assert solved.gain["balanced"].estimate > 0
    assert solved.worth["a"] is not None


def test_the_gap_bounds_the_loss_of_every_mixture() -> None:
    errors = errors_of(offset=0.3)
    solved = find_mixture({"goal": cache_of(errors)}, config(), available_tokens=AVAILABLE).mixture
    assert solved.gap is not None
    mixtures = np.random.default_rng(1).dirichlet(np.ones(3), 2000)
    least = ((errors @ mixtures.T) ** 2).mean(axis=0).min()
    assert solved.loss["mixmin"] <= least + solved.gap


@pytest.mark.parametrize("offsets", ["best_single", "best_mixture", "none"])
def test_the_worst_of_two_targets(offsets: str) -> None:
    caches = {"goal": cache_of(errors_of()), "other": cache_of(errors_of(3, offset=-4.0))}
    settings = config(over="worst", worst={"offsets": offsets}, bootstrap=0)
    solved = find_mixture(caches, settings, available_tokens=AVAILABLE).mixture
    assert solved.status == "converged"
    below = dict.fromkeys(caches, 0.0)
    if offsets == "best_single":
        below = {target: (cache.errors**2).mean(axis=0).min() for target, cache in caches.items()}  # type: ignore[operator]
    if offsets == "best_mixture":
        alone = {
            target: find_mixture({target: cache}, config(bootstrap=0), available_tokens=AVAILABLE).mixture
            for target, cache in caches.items()
        }
        below = {target: mixture.loss["mixmin"] for target, mixture in alone.items()}

    def worst(shares: np.ndarray) -> float:
        return max(((caches[target].errors @ shares) ** 2).mean() - below[target] for target in caches)  # type: ignore[operator]

    here = worst(np.array(list(solved.weights.values())))
    others = [worst(shares) for shares in np.random.default_rng(2).dirichlet(np.ones(3), 2000)]
    assert here <= min(others) + 1e-6


def test_a_column_of_errors_is_read_as_such_and_compared_by_its_squares(tmp_path: Path) -> None:
    errors = errors_of()
    artifacts = Artifacts(Storage(str(tmp_path)), "test")
    ids = [(number << 64).to_bytes(16, "big") for number in range(ROWS)]
    rows = pa.table({"document": pa.array(ids, pa.binary(16)), "window": pa.array([0] * ROWS, pa.int32())})
    draft = artifacts.draft("rows", "rows")
    counted = rows.append_column("count", pa.array([1] * ROWS, pa.int32()))
    target = draft.publish({"held_out-000000.parquet": draft.write("x", encode(counted))}, META)
    columns = {}
    for place, name in enumerate(SOURCES):
        draft = artifacts.draft("column", name)
        table = column_table(rows, errors[:, place], None, model=name, target="goal", value="error")
        columns[name] = draft.publish({"held_out-000000.parquet": draft.write("x", encode(table))}, {})
    cache = read_cache(artifacts.storage, target, "held_out", columns)
    assert cache.errors is not None
    assert (cache.errors == errors).all()
    arms = {name: [name] for name in SOURCES}
    compared = {arm: loss.record() for arm, loss in compare(cache, "document", arms, "a").items()}
    assert [compared[name].nll for name in SOURCES] == pytest.approx((errors**2).mean(axis=0).tolist())
    paired = errors[:, 1] ** 2 - errors[:, 0] ** 2
    reach = 1.959964 * paired.std(ddof=1) / ROWS**0.5
    assert compared["b"].difference_high == pytest.approx(paired.mean() + reach, rel=1e-5)


META = {"held_out": {"files": ["held_out-000000.parquet"]}}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"mixture": {"shards": {"actors": 1}}}, "mixture.shards"),
        ({"proxy": {"model": {"head": "linear"}, "tokens": 100}}, "proxy.model"),
    ],
)
def test_what_numbers_do_not_go_with_is_refused(changes: dict[str, Any], key: str) -> None:
    from mixray.config import dump_config, parse_config

    with pytest.raises(InputError) as caught:
        parse_config(dump_config(config()), changes)
    assert caught.value.what == f"{key} is not valid"
    assert "task: regression" in str(caught.value.wanted)
