"""A mixture found on shard actors is the one found in memory, but for rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixray.cluster import Session
from mixray.cluster.shards import on_shards
from mixray.config import RunConfig
from mixray.errors import InputError
from mixray.mixture import Mixture
from mixray.search import feasible_set, in_memory, solve_once
from mixray.search.solving import OpenPredictions, StoredCaches
from tests.cache.conftest import Shelf

SOURCES = ["a", "b", "c", "d"]
AVAILABLE = {"a": 9000, "b": 3000, "c": 1000, "d": 500}
DOCUMENTS, FILE_ROWS = 300, 100
SMALL = {"resources": {"cpus": 0.5}, "memory": 2**20}
"""Eight such actors fit on four processors."""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def targets(shelf: Shelf) -> StoredCaches:
    """Two of them, of documents of 1 to 3 windows, each likelier under one source by tens of nats."""
    return {name: made(shelf, name, seed) for seed, name in enumerate(("one", "two"))}


def made(shelf: Shelf, name: str, seed: int) -> Any:
    draw = np.random.default_rng(seed)
    keys = [(document, window) for document in range(DOCUMENTS) for window in range(draw.integers(1, 4))]
    own = draw.choice(len(SOURCES), DOCUMENTS, p=[[0.5, 0.3, 0.2, 0], [0.1, 0.3, 0.2, 0.4]][seed])
    counts = draw.integers(20, 60, len(keys))

    def files(values: Any) -> dict[str, list[Any]]:
        rows = [(*key, value) for key, value in zip(keys, values, strict=True)]
        return {f"fit-{i:05d}.parquet": rows[i : i + FILE_ROWS] for i in range(0, len(rows), FILE_ROWS)}

    columns = {}
    for number, source in enumerate(SOURCES):
        nats = np.array([4.0 if own[document] == number else 4.3 + 0.2 * draw.random() for document, _ in keys])
        columns[source] = shelf.column(f"{name}-{source}", files((-nats * counts).tolist()))
    return shelf.rows(files(counts.tolist()), id=name), columns


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., RunConfig]:
    def make(**mixture: Any) -> RunConfig:
        training = {"model": {"architecture": "gpt_neox"}, "tokens": 8000, "batch": 4}
        return RunConfig.model_validate(
            {
                "name": "on-shards",
                "storage": str(tmp_path),
                "tokenizer": {"train": {}},
                "window": 64,
                "sources": {source: {"files": f"{source}.txt"} for source in SOURCES},
                "targets": {name: {"files": f"{name}.txt"} for name in ("one", "two")},
                "proxy": training,
                "retrain": training,
                "mixture": {"bootstrap": 40, "unit": "document", **mixture},
            }
        )

    return make


def solved(shelf: Shelf, config: RunConfig, opening: OpenPredictions, targets: StoredCaches) -> Mixture:
    return solve_once(
        shelf.artifacts, config, opening, targets=targets, available_tokens=AVAILABLE, sizes={}, run="run-1"
    ).mixture


def nothing_told(*_: Any) -> None: ...


@pytest.mark.parametrize(
    "mixture",
    [
        {},
        {"unit": "window", "weighting": "token", "bounds": {"a": [0, 0.4]}},
        {"choose": {"rule": "nearest_to_prior", "within": 1e-3}},
        {"over": "mean", "prior": {"shares": "natural", "strength": 0.01}},
        {"over": "worst"},
        {"over": "worst", "worst": {"tau": 0.001, "offsets": "best_mixture"}},
    ],
    ids=str,
)
def test_the_mixture_is_that_of_one_process(
    ray_session: Session, shelf: Shelf, targets: StoredCaches, config: Callable[..., RunConfig], mixture: dict[str, Any]
) -> None:
    chosen = targets if "over" in mixture else {"one": targets["one"]}
    sharded = config(**mixture, shards={"actors": 1, **SMALL})
    here = solved(shelf, config(**mixture), in_memory, chosen)
    there = solved(shelf, sharded, partial(on_shards, ray_session, sharded.mixture, nothing_told), chosen)
    assert (there.status, there.targets) == ("converged", list(chosen))
    assert there.weights == pytest.approx(here.weights, abs=1e-4)
    assert there.loss == pytest.approx(here.loss, abs=3e-8)  # the tolerance and float32
    assert there.target_loss == pytest.approx(here.target_loss, abs=1e-6)
    assert there.target_weights == pytest.approx(here.target_weights, abs=1e-3)
    assert len(there.path) == len(here.path)
    for source, (low, high) in here.interval.items():
        assert there.interval[source] == pytest.approx((low, high), abs=0.5 * (high - low) + 1e-6)  # other draws
    assert set(there.worth) == set(here.worth)
    for source, worth in there.worth.items():
        ours = here.worth[source]
        assert (worth is None) == (ours is None)
        if worth is not None and ours is not None:
            assert worth.loss_rise == pytest.approx(ours.loss_rise, abs=1e-6)
            assert worth.interval == pytest.approx(ours.interval, rel=0.2, abs=1e-4)


def test_any_number_of_actors_finds_the_stored_solution_again(
    ray_session: Session, shelf: Shelf, targets: StoredCaches, config: Callable[..., RunConfig]
) -> None:
    """One found in memory is another one."""
    opened = []

    def opening(settings: RunConfig) -> OpenPredictions:
        if settings.mixture.shards is None:
            return in_memory

        def counted(*arguments: Any) -> Any:
            opened.append(settings.mixture.shards)
            return on_shards(ray_session, settings.mixture, nothing_told, *arguments)

        return counted

    chosen = {"two": targets["two"]}
    shards = [{"actors": 3, **SMALL}, {"actors": 1, "memory": 2**21}, None]
    one, other, memory = (
        solved(shelf, settings, opening(settings), chosen) for settings in (config(shards=each) for each in shards)
    )
    assert len(opened) == 1
    assert one == other
    assert set(memory.worth) == set(SOURCES)


def test_actors_end_when_the_solve_fails(
    ray_session: Session, shelf: Shelf, targets: StoredCaches, config: Callable[..., RunConfig]
) -> None:
    opened: dict[str, Any] = {}

    @contextmanager
    def watched(*arguments: Any) -> Iterator[Any]:
        with on_shards(ray_session, impossible.mixture, nothing_told, *arguments) as objectives:
            opened.update(objectives)
            assert all(objective.shards.actors for objective in objectives.values())
            yield objectives

    impossible = config(over="mean", shards=SMALL, max_epochs=0.5)
    with pytest.raises(InputError, match=r"no mixture keeps mixture\.max_epochs"):
        solved(shelf, impossible, watched, targets)
    assert list(opened) == ["one", "two"]
    assert all(objective.shards.actors == [] for objective in opened.values())


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("mixture", "count"),
    [
        ({"shards": {"actors": 9, **SMALL}}, 9),
        ({"over": "mean", "shards": {"actors": 5, **SMALL}}, 10),
        ({"over": "worst", "shards": {"resources": {"cpus": 3}}}, 2),
        ({"shards": {"memory": 2**50}}, 1),
    ],
    ids=str,
)
def test_what_the_cluster_has_no_room_for_is_refused_before_work_starts(
    config: Callable[..., RunConfig], mixture: dict[str, Any], count: int
) -> None:
    with Session(config=config(**mixture)) as session:
        with pytest.raises(InputError, match="more is asked for than the cluster has") as caught:
            session.connect()
        assert caught.value.where == "mixture.shards"
        assert str(caught.value.got).startswith(f"{count} x (")


@pytest.mark.parametrize("mixture", [{"bounds": {"c": [0, 0]}}, {"groups": [{"sources": ["c"], "max": 0}]}], ids=str)
def test_an_excluded_source_is_refused_before_work_starts(
    config: Callable[..., RunConfig], mixture: dict[str, Any]
) -> None:
    feasible_set(config(**mixture).mixture, SOURCES)
    with pytest.raises(InputError, match="every source on shards needs room for a share") as caught:
        feasible_set(config(**mixture, shards={}).mixture, SOURCES)
    assert (caught.value.where, caught.value.got) == ("mixture.shards", "at most 0 for c")
