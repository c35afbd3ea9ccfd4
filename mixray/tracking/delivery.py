"""The tracker's queue and its one thread, which alone talks to MLflow.

When MLflow cannot be reached the records become a segment of the spool in the run folder, and the next command that
reaches MLflow delivers them first. The run neither waits nor stops.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from mixray.tracking.address import view_command
from mixray.tracking.records import (
    Artifact,
    Context,
    Dataset,
    Finish,
    Metrics,
    Point,
    Record,
    Start,
    Status,
    flatten,
    now,
)
from mixray.tracking.sink import Sink, Unreachable
from mixray.tracking.spool import Spool

Warn = Callable[[str], None]


class MlflowTracker:
    """The queue and its thread. ``connect`` makes the sink, in the thread, when there is something to deliver.

    ``interval``: seconds between deliveries; ``batch``: records that cause one earlier; ``pause``: seconds without an
    attempt after a failure.
    """

    def __init__(
        self,
        connect: Callable[[], Sink],
        spool: Spool,
        uri: str,
        warn: Warn,
        *,
        interval: float = 5.0,
        batch: int = 500,
        pause: float = 30.0,
    ) -> None:
        self._connect, self._spool, self._uri, self._warn = connect, spool, uri, warn
        self._interval, self._batch, self._pause = interval, batch, pause
        self._changed = threading.Condition()
        self._pending: list[Record] = []
        self._sending: list[Record] = []
        self._hurry = self._closing = self._warned = False
        self._retry_at = 0.0
        self._sink: Sink | None = None
        self._page = ""
        self._open: dict[str, None] = {}
        self._thread = threading.Thread(target=self._work, name="mixray-tracking", daemon=True)
        self._thread.start()

    # ---------------------------------------------------------------------------------------------- the run's side

    def start(
        self, key: str, *, params: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None
    ) -> None:
        self._open[key] = None
        self._put(Start(key, flatten(params or {}), dict(tags or {})))

    def metrics(self, key: str, values: Iterable[tuple[str, float, int]], times: Sequence[int] | None = None) -> None:
        values = list(values)
        moments = times if times is not None else [now()] * len(values)
        points = [
            Point(metric, float(value), int(step), int(moment))
            for (metric, value, step), moment in zip(values, moments, strict=True)
        ]
        if points:
            self._put(Metrics(key, tuple(points)))

    def artifact(self, key: str, filename: str, data: bytes) -> None:
        self._put(Artifact(key, filename, data))

    def dataset(
        self, key: str, name: str, *, digest: str, source: str, context: Context, profile: Mapping[str, int]
    ) -> None:
        self._put(Dataset(key, name, digest, source, context, dict(profile)))

    def finish(self, key: str, status: Status = "FINISHED") -> None:
        self._open.pop(key, None)
        self._put(Finish(key, status))

    def flush(self) -> None:
        with self._changed:
            self._hurry = True
            self._changed.notify_all()

    def close(self, timeout: float = 60.0) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        with self._changed:
            left, self._pending, self._sending = [*self._sending, *self._pending], [], []
        if left:
            stuck = self._thread.is_alive()
            self._keep(left, f"MLflow did not answer within {timeout:.0f} s" if stuck else "tracking has failed")

    def view_command(self) -> str:
        return view_command(self._uri, self._page)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        status: Status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        for key in reversed(list(self._open)):
            self.finish(key, status)
        self.close()

    def _put(self, record: Record) -> None:
        assert not self._closing, "the tracker is closed"
        with self._changed:
            self._pending.append(record)
            if len(self._pending) >= self._batch:
                self._changed.notify_all()

    # ------------------------------------------------------------------------------------------- the thread's side

    def _work(self) -> None:
        done = False
        while not done:
            with self._changed:
                self._changed.wait_for(self._due, self._interval)
                done = self._closing
                if not (self._pending and (done or time.monotonic() >= self._retry_at)):
                    self._hurry = False
                    continue
                self._sending, self._pending, self._hurry = self._pending, [], False
            self._deliver(self._sending)
            with self._changed:
                self._sending = []

    def _due(self) -> bool:
        if self._closing:
            return True
        return time.monotonic() >= self._retry_at and (self._hurry or len(self._pending) >= self._batch)

    def _deliver(self, records: list[Record]) -> None:
        if time.monotonic() < self._retry_at:
            self._keep(records, "MLflow could not be reached")
            return
        try:
            if self._sink is None:
                self._sink = self._connect()
                send_spool(self._spool, self._sink, self._warn)
            self._sink.send(records)
            self._page = self._sink.page()
        except (Unreachable, OSError) as error:
            self._sink, self._retry_at = None, time.monotonic() + self._pause
            self._keep(records, f"MLflow at {self._uri} cannot be reached ({reason(error)})")

    def _keep(self, records: Sequence[Record], why: str) -> None:
        try:
            self._spool.write(records)
        except OSError as error:
            self._warn(f"{why}, and {len(records)} records could not be kept in {self._spool.location()}: {error}")
            return
        if not self._warned:
            self._warned = True
            self._warn(
                f"{why}; the run goes on. Its records are kept in {self._spool.location()} and delivered by the "
                "next `mixray run`, `show` or `solve` that reaches MLflow"
            )


def send_spool(spool: Spool, sink: Sink, warn: Warn) -> int:
    """Send the segments in order, deleting each; the number of records delivered. Raises Unreachable."""
    sent = 0
    for name in spool.segments():
        try:
            records = spool.read(name)
        except FileNotFoundError:  # another command has just delivered it
            continue
        except ValueError as error:
            warn(f"{spool.location()}/{name} is left alone: {error}")
            continue
        sink.send(records)
        spool.delete(name)
        sent += len(records)
    return sent


def reason(error: BaseException) -> str:
    """The error's first line; of a long one the two ends, where HTTP clients say what they did and what went wrong."""
    line = str(error).partition("\n")[0]
    return line if len(line) <= 200 else f"{line[:60]} ... {line[-130:]}"
