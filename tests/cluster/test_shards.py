"""Rows that lie with actors: the same bits for any number of these, whoever dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from mixray.cache import CacheRows, NpyRows, read_cache
from mixray.cluster import Session
from mixray.cluster.shards import RemoteShards, open_shards
from mixray.config.mixture import MixtureConfig, SegmentUnit
from mixray.config.training import Resources
from mixray.errors import InputError, StageError
from mixray.search.problem import UnitRows
from mixray.simplex import (
    CrossEntropy,
    FeasibleSet,
    Group,
    Problem,
    Solution,
    bootstrap,
    gains,
    profile_intervals,
    solve_problem,
)
from mixray.simplex.objectives.objective import Columns, Evaluation
from mixray.simplex.objectives.passes import block_rows
from mixray.simplex.objectives.shard import WORKING_BYTES
from tests.cache.conftest import Shelf
from tests.cluster.test_workers import workers_named

SOURCES = 96
ROWS = 5 * block_rows(SOURCES) + 50
HALF = Resources(cpus=0.5)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    draw = np.random.default_rng(0)
    log_probs = draw.standard_normal((ROWS, 1)) - draw.exponential(1, (ROWS, SOURCES)) * np.linspace(0.5, 2, SOURCES)
    name = tmp_path_factory.mktemp("table") / "log_probs.npy"
    np.save(name, log_probs.astype(np.float32))
    return str(name)


@pytest.fixture(scope="module")
def whole(path: str) -> CrossEntropy:
    """The rounded table in this process."""
    return CrossEntropy.from_log_probs(np.load(path), dtype=np.float32)


def bits(at: Evaluation) -> tuple[Any, ...]:
    return at.value, at.gradient.tobytes(), None if at.curvature is None else at.curvature.tobytes()


def answer(solution: Solution) -> tuple[Any, ...]:
    return solution.weights.tobytes(), solution.loss, solution.gap, solution.trace.tobytes(), solution.status


POINTS = np.random.default_rng(1).dirichlet(np.ones(SOURCES), 3)
SOLVERS: dict[str, dict[str, Any]] = {
    "newton": {"tolerance": 1e-10},
    "working_set": {"max_rounds": 5},
    "entropic": {"max_rounds": 5},
}
CONSTRAINTS = {
    "none": FeasibleSet.of(SOURCES),
    "bounds and groups": FeasibleSet.of(SOURCES, None, 0.2, [Group(list(range(10)), upper=0.3)]),
}


@pytest.mark.parametrize(("shards", "memory"), [(1, 2**30), (2, 2**20), (3, 2**30), (5, 2**20)])
def test_any_number_of_shards_has_the_bits_of_one_table(
    ray_session: Session, path: str, whole: CrossEntropy, shards: int, memory: int
) -> None:
    with open_shards(ray_session, NpyRows.open(path), shards=shards, resources=HALF, memory=memory) as objective:
        assert len(objective.shards.actors) == shards
        assert (objective.rows, objective.sources) == (ROWS, SOURCES)
        assert objective.total_weight == whole.total_weight
        for columns in (None, np.array([0, 7, 50])):
            for ours, theirs in zip(objective.at(POINTS, columns), whole.at(POINTS, columns), strict=True):
                assert bits(ours) == bits(theirs)
        np.testing.assert_allclose(objective.row_losses(POINTS[0]), whole.row_losses(POINTS[0]), rtol=1e-4)  # rounded
        for solver, options in SOLVERS.items():
            for feasible in CONSTRAINTS.values():
                ours, theirs = (
                    solve_problem(Problem((rows,), feasible), solver=solver, **options) for rows in (objective, whole)
                )
                assert answer(ours) == answer(theirs)
    assert objective.shards.actors == []


class Disturbed:
    """An objective that does something before its questions."""

    def __init__(self, objective: CrossEntropy, disturb: Callable[[int], None]) -> None:
        self._objective, self._disturb, self.asked = objective, disturb, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)

    def at(self, points: np.ndarray, columns: Columns | None = None) -> list[Evaluation]:
        self.asked += 1
        self._disturb(self.asked)
        return self._objective.at(points, columns)


def test_actors_that_are_killed_between_questions_change_no_bit(
    ray_session: Session, path: str, whole: CrossEntropy
) -> None:
    with open_shards(ray_session, NpyRows.open(path), shards=3) as objective:
        first = list(objective.shards.actors)

        def kill(asked: int) -> None:
            if asked == 2:
                ray.kill(objective.shards.actors[1])
            if asked == 3:
                ray.kill(objective.shards.actors[0])

        disturbed = Disturbed(objective, kill)
        feasible = CONSTRAINTS["none"]
        ours, theirs = (solve_problem(Problem((rows,), feasible), tolerance=1e-10) for rows in (disturbed, whole))
        assert disturbed.asked > 3
        assert answer(ours) == answer(theirs)
        assert [old == new for old, new in zip(first, objective.shards.actors, strict=True)] == [False, False, True]


def test_processes_that_die_at_their_work_change_no_bit(
    ray_session: Session, path: str, whole: CrossEntropy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, as soon as they have been asked."""
    before, killed = set(workers_named("ShardHolder")), list[int]()
    submit = RemoteShards._submit

    def submit_and_kill(self: Any, shard: int, method: str, *arguments: Any) -> Any:
        reference = submit(self, shard, method, *arguments)
        if method == "sums" and shard == 1 and not killed:
            for pid in set(workers_named("ShardHolder")) - before:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
        return reference

    monkeypatch.setattr(RemoteShards, "_submit", submit_and_kill)
    with open_shards(ray_session, NpyRows.open(path), shards=2) as objective:
        ours = objective.at(POINTS, np.arange(4))
    assert len(killed) >= 2  # an actor of the test before may have begun late
    assert [bits(at) for at in ours] == [bits(at) for at in whole.at(POINTS, np.arange(4))]


def test_error_bars_have_the_same_bits_and_those_of_one_process(ray_session: Session, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    rows, sources = 3 * block_rows(16) + 10, 16
    log_probs = draw.normal(-30, 1.5, (rows, sources)) + np.linspace(0, 1.0, sources)
    np.save(tmp_path / "table.npy", log_probs)
    ranges = NpyRows.open(str(tmp_path / "table.npy"))
    baselines = {"balanced": np.full(sources, 1 / sources)}
    here = Problem((CrossEntropy.from_log_probs(log_probs),), FeasibleSet.of(sources))
    shares = solve_problem(here).weights
    found = []
    for shards in (1, 3):
        with open_shards(ray_session, ranges, shards=shards) as objective:
            problem = Problem((objective,), here.feasible)
            point = problem.at(shares)
            found.append(
                (
                    bootstrap(problem, shares, seed=0, replicates=20),
                    gains(point, baselines)["balanced"],
                    profile_intervals(point, seed=0),
                )
            )
    (one, one_gain, one_interval), (three, three_gain, three_interval) = found
    assert one.replicate_shares.tobytes() == three.replicate_shares.tobytes()
    assert (one_gain, one.gap) == (three_gain, three.gap)
    assert one_interval.tobytes() == three_interval.tobytes()
    assert one.documents == rows
    alone = profile_intervals(here.at(shares), seed=0)
    np.testing.assert_allclose(one_interval, alone, atol=0.02 * np.diff(alone).max())
    alone_gain = gains(here.at(shares), baselines)["balanced"]
    assert (one_gain.estimate, one_gain.low) == pytest.approx((alone_gain.estimate, alone_gain.low), rel=1e-4)
    assert one_gain.is_separated


def test_an_actor_that_always_dies_is_given_up(
    ray_session: Session, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = RemoteShards._submit

    def kill_and_submit(self: Any, shard: int, method: str, *arguments: Any) -> Any:
        if method == "sums" and shard == 1:
            ray.kill(self.actors[shard])
        return submit(self, shard, method, *arguments)

    monkeypatch.setattr(RemoteShards, "_submit", kill_and_submit)
    with (
        open_shards(ray_session, NpyRows.open(path), shards=2, retries=2) as objective,
        pytest.raises(StageError, match="the actor of shard 2 of 2 died 3 times at one question"),
    ):
        objective.at(POINTS)


def test_a_process_keeps_within_its_memory(ray_session: Session, tmp_path: Path) -> None:
    """Ten times the memory allowed; the most it ever had, reading included."""
    rows, memory = 8 * 10**5, 8 * 2**20
    table = np.lib.format.open_memmap(tmp_path / "large.npy", "w+", np.float32, (rows, 24))
    table[:] = -np.random.default_rng(0).random((rows, 24), np.float32)
    table.flush()
    before = set(workers_named("ShardHolder"))
    with open_shards(ray_session, NpyRows.open(str(tmp_path / "large.npy")), shards=1, memory=memory) as objective:
        (pid,) = set(workers_named("ShardHolder")) - before
        objective.at(np.full((1, 24), 1 / 24), np.arange(24))
        status = Path(f"/proc/{pid}/status").read_text()
    (peak,) = [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")]
    assert 10 * memory < rows * (4 * 24 + 16)
    assert peak < memory + WORKING_BYTES


def test_what_cannot_be_read_or_is_no_row_comes_back_as_itself(ray_session: Session, tmp_path: Path) -> None:
    path, before = tmp_path / "table.npy", set(workers_named("ShardHolder"))
    log_probs = np.zeros((10, 2))
    log_probs[7] = np.nan
    np.save(path, log_probs)
    with pytest.raises(InputError, match="hold NaN") as caught, open_shards(ray_session, NpyRows.open(str(path))):
        pass
    assert caught.value.got == "row 7"
    ranges = NpyRows.open(str(path))
    path.unlink()
    with pytest.raises(InputError, match="cannot be read") as caught, open_shards(ray_session, ranges):
        pass
    assert str(path) in str(caught.value)
    deadline = time.monotonic() + 60
    while set(workers_named("ShardHolder")) - before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert set(workers_named("ShardHolder")) <= before


def test_rows_that_do_not_count(ray_session: Session, tmp_path: Path) -> None:
    np.save(tmp_path / "table.npy", np.zeros((10, 2)))
    np.save(tmp_path / "weights.npy", np.zeros(10))
    ranges = NpyRows.open(str(tmp_path / "table.npy"), str(tmp_path / "weights.npy"))
    with pytest.raises(InputError, match="all weights are 0"), open_shards(ray_session, ranges):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shards": 0}, "no shards"),
        ({"shards": 9}, "more is asked for than the cluster has"),
        ({"memory": 2**50, "reserve_memory": True}, "more is asked for than the cluster has"),
    ],
)
def test_what_the_cluster_has_no_room_for_is_refused(
    ray_session: Session, path: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message), open_shards(ray_session, NpyRows.open(path), **options):
        pass


def test_a_small_table_has_one_shard(ray_session: Session, tmp_path: Path) -> None:
    np.save(tmp_path / "table.npy", np.log([[0.5, 0.25], [0.25, 0.5], [0.25, 0.5]]))
    ranges = NpyRows.open(str(tmp_path / "table.npy"))
    with open_shards(ray_session, ranges, reserve_memory=True, memory=2**20) as objective:
        assert len(objective.shards.actors) == 1
        solution = solve_problem(Problem((objective,), FeasibleSet.of(2)), tolerance=1e-12)
    # shares a, 1-a: (1/4 + a/4) (1/2 - a/4)^2 is largest at its end a = 0
    np.testing.assert_allclose(solution.weights, [0, 1], atol=1e-9)


@pytest.mark.parametrize("unit", ["document", "token", SegmentUnit(segment=3)], ids=str)
def test_a_prediction_cache_is_solved_as_in_one_process(ray_session: Session, tmp_path: Path, unit: Any) -> None:
    shelf, draw, file_rows = Shelf(tmp_path), np.random.default_rng(0), 7
    lengths = draw.integers(1, 6, 40)
    keys = [(document, window) for document, length in enumerate(lengths) for window in range(length)]
    counts = draw.integers(1, 9, len(keys))

    def files(values: list[Any]) -> dict[str, list[Any]]:
        rows = [(*key, value) for key, value in zip(keys, values, strict=True)]
        return {f"fit-{i:05d}.parquet": rows[i * file_rows :][:file_rows] for i in range(-(-len(rows) // file_rows))}

    rows = shelf.rows(files(counts.tolist()))
    columns = {
        source: shelf.segment_column(
            source, files([(-draw.exponential(scale, count)).astype(np.float32).tolist() for count in counts])
        )
        for source, scale in [("a", 2.0), ("b", 2.1), ("c", 2.2)]
    }
    wanted = UnitRows.of(read_cache(shelf.storage, rows, "fit", columns), MixtureConfig(unit=unit))
    exact = CrossEntropy.from_log_probs(wanted.log_probs, wanted.row_weights)
    here = CrossEntropy.from_log_probs(wanted.log_probs, wanted.row_weights, dtype=np.float32)

    ranges = CacheRows.open(shelf.storage, rows, columns, unit=unit, weighting="document")
    with open_shards(ray_session, ranges, shards=2) as objective:
        point, columns_asked = np.array([[0.2, 0.3, 0.5]]), np.arange(3)
        (ours,), (theirs,) = (each.at(point, columns_asked) for each in (objective, here))
        solution = solve_problem(Problem((objective,), FeasibleSet.of(3)))
    assert abs(ours.value - theirs.value) < 1e-12
    np.testing.assert_allclose(ours.gradient, theirs.gradient, rtol=1e-12)
    np.testing.assert_allclose(ours.curvature, theirs.curvature, rtol=1e-12)
    alone = solve_problem(Problem((exact,), FeasibleSet.of(3)))
    assert abs(solution.loss - alone.loss) < 1e-7
    assert solution.point.gap <= 1e-8 < solution.gap <= 1e-8 + np.finfo(np.float32).eps
