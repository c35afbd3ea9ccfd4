"""Publishing a run's records while it works, from one background thread that alone talks to MLflow.

The run never waits for MLflow and never stops because of it. Nothing is queued for later: the run folder holds
everything, so what an outage loses is published whole at the end of the next stage, or by ``mixray show``.
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
"""How long live points are dropped without an attempt after MLflow could not be reached."""
SECONDS_TO_CLOSE, SECONDS_TO_CLOSE_IN_A_HURRY = 60.0, 3.0


class Tracker:
    """The queue of a run that is working, and the thread that empties it. Opening one imports nothing heavy.

    ``interval``: seconds between deliveries; ``pause``: seconds without an attempt after a failure.
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
        """Warn where MLflow cannot be reached, before work starts. Waits for its server for at most 10 seconds."""
        try:
            require_answer(self._destination.uri)
        except Unreachable as error:
            self._has_failed(error)

    def send(self, runs: Iterable[TrackedRun], *, soon: bool = True) -> None:
        """Publish these records, at once or (``soon=False``) with the next delivery. Does not wait.

        Where MLflow cannot be reached they are dropped: whoever sends live points sends them again as part of the
        stage's records.
        """
        with self._changed:
            self._pending += runs
            self._is_urgent |= soon
            self._changed.notify_all()

    def close(self, runs: Iterable[TrackedRun], *, is_hurried: bool = False) -> bool:
        """Publish the run's last records, which must be all of its records. Return whether MLflow holds them.

        Waits for MLflow for at most a minute; 3 seconds where MLflow has just failed or the person has no patience.
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
        """Return what a person pastes to see the run."""
        return view_command(self._destination.uri, self._page)

    def _work(self) -> None:
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
        # What was written before the failure is read again with the next connection.
        self._mlflow, self._retry_at = None, time.monotonic() + self._pause
        self._warn_once(f"MLflow at {self._destination.uri} cannot be reached ({short_reason(error)})")

    def _warn_once(self, reason: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._warn(f"{reason}; the run goes on, and {self._destination.remedy}")
