"""A Ray cluster, from the moment somebody first needs it.

Without an address (and without ``RAY_ADDRESS``, which ``ray job submit`` sets) it is a local cluster inside this
process's life: nobody starts it, nothing is left of it.
"""

from __future__ import annotations

import logging
import os
from types import TracebackType
from typing import Self

import ray

from mixray.config.schema import Resources, RunConfig
from mixray.errors import InputError


class Session:
    """Connects lazily, once; leaves a cluster that it did not connect to alone."""

    def __init__(self, address: str | None = None, config: RunConfig | None = None, *, cpus: int | None = None) -> None:
        """``config``: what it asks for is compared with the cluster on connecting, before any work; ``cpus``: how many
        a local cluster claims to have, the machine's (and two at least) by default."""
        self._address = address or os.environ.get("RAY_ADDRESS")
        self._config = config
        self._cpus = cpus or max(2, os.cpu_count() or 1)  # one must stay free for Ray Data while an actor holds another
        self._ours = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ours:
            ray.shutdown()
            self._ours = False

    def connect(self) -> None:
        """Join the cluster or start the local one. Raises InputError where none answers at the address."""
        if ray.is_initialized():
            return
        # Ray Data's own actors draw a harmless error line from Ray's C++ side at each start.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
        if self._address is None:
            # A Ray Train group is many processes; Ray warns of them where it starts few at a time.
            start_up = {"worker_maximum_startup_concurrency": max(4, self._cpus)}
            ray.init(address="local", num_cpus=self._cpus, include_dashboard=False, _system_config=start_up, **quiet)
        else:
            try:
                ray.init(address=self._address, **quiet)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise InputError(
                    "no Ray cluster answers",
                    where="--address or RAY_ADDRESS",
                    got=f"{self._address} ({error})",
                    wanted="the address of a running cluster, or none for a local one",
                ) from error
        self._ours = True
        if self._config is not None:
            self.fits(self._config.proxy.resources, where="proxy.resources")
            self.fits(self._config.cache.resources, where="cache.resources", count=self._config.cache.actors or 1)
            workers, _ = self._config.retrain.worker_range
            self.fits(self._config.retrain.resources_per_worker, where="retrain.workers", count=workers)

    def capacity(self) -> dict[str, float]:
        """The most the cluster has, or can scale to: resource -> amount."""
        self.connect()
        now: dict[str, float] = ray.cluster_resources()
        limits = ray._private.state.state.get_max_resources_from_cluster_config() or {}
        return {name: max(now.get(name, 0.0), float(limits.get(name, 0.0))) for name in {*now, *limits}}

    def fits(self, ask: Resources, *, where: str, count: int = 1) -> int:
        """How many such asks fit at once. Raises InputError where fewer than ``count`` ever will."""
        capacity = self.capacity()
        asked = {"CPU": ask.cpus, "GPU": ask.gpus}
        many = min(int(capacity.get(name, 0.0) / amount + 1e-9) for name, amount in asked.items() if amount > 0)
        if many < count:
            have = ", ".join(f"{capacity.get(name, 0.0):g} {name}" for name in asked)
            each = " and ".join(f"{amount:g} {name}" for name, amount in asked.items() if amount > 0)
            raise InputError(
                "more is asked for than the cluster has or can scale to",
                where=where,
                got=f"{count} x ({each})",
                wanted=f"at most {have}",
                remedy=f"lower {where}, or give --address of a larger cluster",
            )
        return many
