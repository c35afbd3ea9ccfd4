"""The queue, its thread and the spool, with a sink that fails when told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from mixray.store import Storage
from mixray.tracking.delivery import MlflowTracker, reason, send_spool
from mixray.tracking.records import Finish, Metrics, Record, Start
from mixray.tracking.sink import Unreachable
from mixray.tracking.spool import Spool

FOLDER = "runs/quickstart-1a2b3c4d"
SERVER = "http://tracking:5000"


class FakeSink:
    """Takes records while ``up``; counts how often somebody tried to connect."""

    def __init__(self) -> None:
        self.up, self.attempts, self.taken = True, 0, list[Record]()
        self.stuck = threading.Event()
        self.stuck.set()

    def connect(self) -> FakeSink:
        self.attempts += 1
        self._check()
        return self

    def send(self, records: Sequence[Record]) -> None:
        self._check()
        self.stuck.wait()
        self.taken += records

    def page(self) -> str:
        return "/experiments/1/runs/ab"

    def _check(self) -> None:
        if not self.up:
            raise Unreachable("connection refused\nand a long story")

    def steps(self) -> list[int]:
        return [point.step for record in self.taken if isinstance(record, Metrics) for point in record.points]


@pytest.fixture
def sink() -> Iterator[FakeSink]:
    sink = FakeSink()
    yield sink
    sink.stuck.set()


@pytest.fixture
def spool(storage: Storage) -> Spool:
    return Spool(storage, FOLDER)


def open_on(sink: FakeSink, spool: Spool, warn: Callable[[str], None] = pytest.fail, **speeds: float) -> MlflowTracker:
    return MlflowTracker(sink.connect, spool, SERVER, warn, **speeds)  # type: ignore[arg-type]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def tell(tracker: MlflowTracker, *steps: int) -> None:
    for step in steps:
        tracker.metrics("", [("loss", 1.0, step)])


def test_what_is_told_is_delivered_in_order(sink: FakeSink, spool: Spool) -> None:
    with open_on(sink, spool) as tracker:
        tracker.start("", params={"seed": 0}, tags={"a": "b"})
        tell(tracker, *range(100))
        tracker.finish("")
    assert isinstance(sink.taken[0], Start)
    assert sink.taken[0].params == {"seed": "0"}
    assert isinstance(sink.taken[-1], Finish)
    assert sink.steps() == list(range(100))
    assert spool.segments() == []


def test_nothing_told_connects_to_nothing(sink: FakeSink, spool: Spool) -> None:
    with open_on(sink, spool, interval=0.01):
        time.sleep(0.05)
    assert sink.attempts == 0


def test_delivery_comes_by_time_by_count_and_on_demand(sink: FakeSink, spool: Spool) -> None:
    with open_on(sink, spool, interval=0.02) as tracker:
        tell(tracker, 1)
        wait_until(lambda: sink.steps() == [1])
    with open_on(sink, spool, interval=1000, batch=3) as tracker:
        tell(tracker, 2, 3, 4)
        wait_until(lambda: sink.steps() == [1, 2, 3, 4])
        tell(tracker, 5)
        tracker.flush()
        wait_until(lambda: sink.steps() == [1, 2, 3, 4, 5])


def test_telling_does_not_wait_for_a_slow_server(sink: FakeSink, spool: Spool) -> None:
    sink.stuck.clear()
    tracker = open_on(sink, spool, batch=1)
    tell(tracker, *range(1000))
    assert sink.steps() == []
    sink.stuck.set()
    tracker.close()
    assert sink.steps() == list(range(1000))


def test_an_unreachable_server_costs_one_warning_and_no_record(sink: FakeSink, spool: Spool) -> None:
    sink.up = False
    warnings: list[str] = []
    tracker = open_on(sink, spool, warnings.append, batch=1, pause=0.05)
    for step in range(5):
        tell(tracker, step)
        time.sleep(0.06)
    tracker.close()
    assert [line for line in warnings if "connection refused" in line] == warnings
    assert len(warnings) == 1
    assert "long story" not in warnings[0]
    assert spool.location() in warnings[0]
    sink.up = True
    with open_on(sink, spool) as tracker:
        tell(tracker, 5)
    assert sink.steps() == [0, 1, 2, 3, 4, 5]
    assert spool.segments() == []


def test_after_a_failure_there_is_a_pause(sink: FakeSink, spool: Spool) -> None:
    sink.up = False
    tracker = open_on(sink, spool, lambda _: None, batch=1, interval=0.01, pause=1000)
    tell(tracker, 0)
    wait_until(lambda: spool.segments())
    tell(tracker, 1, 2)
    tracker.flush()
    time.sleep(0.05)
    tracker.close()
    assert sink.attempts == 1
    assert [point.step for name in spool.segments() for record in spool.read(name) for point in record.points] == [
        0,
        1,
        2,
    ]  # type: ignore[union-attr]


def test_a_server_that_comes_back_during_the_run_gets_the_spool_first(sink: FakeSink, spool: Spool) -> None:
    sink.up = False
    with open_on(sink, spool, lambda _: None, batch=1, interval=0.02, pause=0.1) as tracker:
        tell(tracker, 0, 1)
        wait_until(lambda: spool.segments())
        sink.up = True
        tell(tracker, 2, 3)
        wait_until(lambda: sink.steps() == [0, 1, 2, 3])
    assert spool.segments() == []


def test_close_is_bounded_and_keeps_what_is_left(sink: FakeSink, spool: Spool) -> None:
    sink.stuck.clear()
    warnings: list[str] = []
    tracker = open_on(sink, spool, warnings.append, batch=1)
    tell(tracker, 0)
    wait_until(lambda: sink.attempts)
    tell(tracker, 1, 2)
    tracker.close(timeout=0.1)
    kept = [record for name in spool.segments() for record in spool.read(name)]
    assert [record.points[0].step for record in kept if isinstance(record, Metrics)] == [0, 1, 2]
    assert "did not answer within" in warnings[0]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_behind_the_queue_loses_no_record(spool: Spool) -> None:
    def connect() -> FakeSink:
        raise ZeroDivisionError("a bug")

    warnings: list[str] = []
    tracker = MlflowTracker(connect, spool, SERVER, warnings.append, batch=1)
    tell(tracker, 0)
    wait_until(lambda: not tracker._thread.is_alive())
    tell(tracker, 1)
    tracker.close()
    kept = [record for name in spool.segments() for record in spool.read(name)]
    assert [record.points[0].step for record in kept if isinstance(record, Metrics)] == [0, 1]
    assert warnings[0].startswith("tracking has failed; the run goes on")


def test_a_storage_that_cannot_be_written_is_a_warning(
    sink: FakeSink, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Sequence[Record]) -> str:
        raise OSError("No space left on device")

    monkeypatch.setattr(spool, "write", full)
    sink.up = False
    warnings: list[str] = []
    tracker = open_on(sink, spool, warnings.append)
    tell(tracker, 0)
    tracker.close()
    assert len(warnings) == 1
    assert "1 records could not be kept" in warnings[0]


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (ValueError(), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_leaving_ends_every_open_run_children_first(
    sink: FakeSink, spool: Spool, error: BaseException | None, status: str
) -> None:
    try:
        with open_on(sink, spool) as tracker:
            for key in ("", "proxy/python", "proxy/cpp"):
                tracker.start(key)
            tracker.finish("proxy/python")
            if error is not None:
                raise error
    except (ValueError, KeyboardInterrupt):
        assert error is not None
    ends = [(record.key, record.status) for record in sink.taken if isinstance(record, Finish)]
    assert ends == [("proxy/python", "FINISHED"), ("proxy/cpp", status), ("", status)]


def test_a_broken_segment_is_left_alone(sink: FakeSink, spool: Spool, storage: Storage) -> None:
    storage.write(f"{FOLDER}/tracking/00000001-aa.jsonl", b"{}\n")
    good = spool.write([Finish("")])
    warnings: list[str] = []
    assert send_spool(spool, sink, warnings.append) == 1
    assert spool.segments() == ["00000001-aa.jsonl"]
    assert good not in spool.segments()
    assert "00000001-aa.jsonl is left alone" in warnings[0]


def test_a_long_reason_keeps_both_ends() -> None:
    assert reason(ValueError("short\nand more")) == "short"
    shortened = reason(ValueError(f"API request failed {'x' * 500} Connection refused"))
    assert shortened.startswith("API request failed")
    assert shortened.endswith("Connection refused")
    assert len(shortened) < 200


def test_the_page_of_the_run_is_known_once_something_is_delivered(sink: FakeSink, spool: Spool) -> None:
    tracker = open_on(sink, spool)
    assert tracker.view_command() == SERVER
    tell(tracker, 0)
    tracker.close()
    assert tracker.view_command() == f"{SERVER}/#/experiments/1/runs/ab"


def test_values_and_times_must_pair_up(sink: FakeSink, spool: Spool) -> None:
    with open_on(sink, spool) as tracker, pytest.raises(ValueError, match="shorter"):
        tracker.metrics("", [("loss", 1.0, 0), ("loss", 0.5, 1)], times=[5])
