"""Publishing a run's records while it works. Only one background thread talks to MLflow.

The run waits for MLflow only when it closes the tracker, for a limited time, and never fails because of it. Records
that cannot be delivered are dropped, not queued: the run folder holds everything, so all of it is published at the end
of the next stage, or by ``mixray show``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from mixray.tracking.connection import Unreachable, require_answer, short_reason, view_command
from mixray.tracking.mlflow_runs import Destination, MlflowRuns
from mixray.tracking.records import TrackedRun, merge

SECONDS_BETWEEN_DELIVERIES = 5.0
SECONDS_AFTER_FAILURE = 30.0
"""How long records are dropped without an attempt to deliver them after MLflow could not be reached."""
SECONDS_TO_CLOSE, SECONDS_TO_CLOSE_IN_A_HURRY = 60.0, 3.0


class Tracker:
    """The queue of a run's records, and the thread that delivers them to MLflow. MLflow is imported by that thread, so
    that creating a tracker is fast.

    ``warn``: called with a sentence, at most once, when MLflow cannot be reached. ``interval``: seconds between
    deliveries. ``pause``: seconds without an attempt after a failure.
    """

    def __init__(
        self,
        destination: Destination,
        warn: Callable[[str], None],
        *,
        interval: float = SECONDS_BETWEEN_DELIVERIES,
        pause: float = SECONDS_AFTER_FAILURE,
    ) -> None:
        self._destination, self._warn = destination, warn
        self._interval, self._pause = interval, pause
        self._changed = threading.Condition()
        self._pending: list[TrackedRun] = []
        self._is_urgent = self._is_closing = self._is_complete = self._has_warned = False
        self._retry_at = 0.0
        self._mlflow: MlflowRuns | None = None
        self._page = ""
        self._thread = threading.Thread(target=self._work, name="mixray-tracking", daemon=True)
        self._thread.start()

    def require_answer(self) -> None:
        """Warn before work starts if MLflow cannot be reached. Waits for its server for at most 10 seconds."""
        try:
            require_answer(self._destination.uri)
        except Unreachable as error:
            self._has_failed(error)

    def send(self, runs: Iterable[TrackedRun], *, soon: bool = True) -> None:
        """Publish these records, at once or (``soon=False``) with the next delivery. Does not wait.

        They are dropped if MLflow cannot be reached. That loses nothing: points that were sent during a stage are sent
        again, as part of the stage's records, at its end.
        """
        with self._changed:
            self._pending += runs
            self._is_urgent |= soon
            self._changed.notify_all()

    def close(self, runs: Iterable[TrackedRun], *, is_hurried: bool = False) -> bool:
        """Publish all records of the run, stop the thread, and return whether MLflow now holds them.

        Waits for MLflow for at most a minute, but only 3 seconds if MLflow has just failed or ``is_hurried``, as it is
        when the user has interrupted the run.
        """
        with self._changed:
            self._pending += runs
            self._is_closing = True
            is_hurried |= time.monotonic() < self._retry_at
            self._changed.notify_all()
        seconds = SECONDS_TO_CLOSE_IN_A_HURRY if is_hurried else SECONDS_TO_CLOSE
        self._thread.join(seconds)
        if not self._is_complete:
            is_slow = self._thread.is_alive()
            self._warn_once(f"MLflow did not answer within {seconds:.0f} s" if is_slow else "tracking has failed")
        return self._is_complete

    def view_command(self) -> str:
        """Return the shell command that opens the run in MLflow."""
        return view_command(self._destination.uri, self._page)

    def _work(self) -> None:
        """Deliver what is pending until the tracker closes: what the background thread runs."""
        is_last = False
        while not is_last:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closing or self._is_urgent, self._interval)
                is_last, self._is_urgent = self._is_closing, False
                runs, self._pending = merge(self._pending), []
            if runs and (is_last or time.monotonic() >= self._retry_at):
                self._is_complete = self._deliver(runs) and is_last

    def _deliver(self, runs: list[TrackedRun]) -> bool:
        try:
            if self._mlflow is None:
                self._mlflow = MlflowRuns(self._destination, self._warn)
            self._mlflow.publish(runs)
            self._page = self._mlflow.page()
        except (Unreachable, OSError) as error:
            self._has_failed(error)
            return False
        self._retry_at = 0.0
        return True

    def _has_failed(self, error: Exception) -> None:
        # The next attempt opens a new connection, which reads from MLflow what was written before the failure.
        self._mlflow, self._retry_at = None, time.monotonic() + self._pause
        self._warn_once(f"MLflow at {self._destination.uri} cannot be reached ({short_reason(error)})")

    def _warn_once(self, reason: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._warn(f"{reason}; the run goes on, and {self._destination.remedy}")
