"""What the machine that drives a run is busy with, sampled with MLflow's own monitors for the run's page.

Nothing of it is stored in the run folder: what MLflow does not receive is lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from mixray.errors import InputError
from mixray.store.index import now_ms
from mixray.tracking.records import Point

SECONDS_BETWEEN_SAMPLES = 10.0
PREFIX = "system/"
"""Begins the names of the metrics that MLflow's pages show under System metrics."""


def require_monitors() -> None:
    """Raise InputError where the package that MLflow's monitors read the machine with is not installed."""
    if find_spec("psutil") is None:
        raise InputError(
            "system metrics need a package that is not installed",
            where="tracking.system_metrics",
            got="psutil is missing",
            wanted="psutil and, for GPUs, nvidia-ml-py",
            remedy="pip install 'mixray[system]', or leave tracking.system_metrics out",
        )


class SystemMetrics:
    """A thread that samples the processors, the memory, the disk, the network and NVIDIA's GPUs until it is closed.

    ``send``: called with the points of every sample, whose steps are seconds since ``started`` (milliseconds since
    1970), so that a run which continues goes on where it was. ``warn``: called once, with a message, where the machine
    cannot be read; the thread then ends.
    """

    def __init__(
        self,
        send: Callable[[tuple[Point, ...]], None],
        warn: Callable[[str], None],
        started: int,
        *,
        interval: float = SECONDS_BETWEEN_SAMPLES,
    ) -> None:
        self._send, self._warn, self._started, self._interval = send, warn, started, interval
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mixray-system-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop sampling. Does not wait."""
        self._is_closed.set()

    def _work(self) -> None:
        try:
            monitors = _monitors()
            while not self._is_closed.wait(self._interval):
                self._send(self._sample(monitors))
        except Exception as error:  # noqa: BLE001  (what MLflow's monitors raise depends on the machine)
            self._warn(f"no more system metrics of this run: this machine cannot be read: {error!r}")

    def _sample(self, monitors: list[Any]) -> tuple[Point, ...]:
        now, values = now_ms(), dict[str, float]()
        for monitor in monitors:
            monitor.collect_metrics()
            values |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        step = (now - self._started) // 1000
        return tuple(Point(f"{PREFIX}{name}", float(value), step, now) for name, value in values.items())


def _monitors() -> list[Any]:
    """Return MLflow's monitors; that of GPUs only where there are some and nvidia-ml-py is installed."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with suppress(ImportError, RuntimeError):
        monitors.append(GPUMonitor())
    return monitors
