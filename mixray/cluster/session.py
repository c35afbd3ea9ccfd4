"""A Ray cluster, from the moment somebody first needs it.

Without an address (and without ``RAY_ADDRESS``, which ``ray job submit`` sets) it is a local cluster inside this
process's life: nobody starts it, nothing is left of it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mixray.cluster.growing import Machines, WaitingNotes, count_text, has_autoscaler
from mixray.cluster.joining import join_cluster, require_answer, start_local_cluster
from mixray.config.mixture import ShardsConfig
from mixray.config.schema import RunConfig
from mixray.config.training import Resources
from mixray.errors import InputError
from mixray.simplex.objectives.passes import processors
from mixray.simplex.objectives.shard import process_bytes
from mixray.store import Storage

MOST_QUEUED = 256
"""So many pieces of work are handed to Ray at a time, at most, on a cluster that grows for what is queued."""


class Session:
    """Connects lazily, once; leaves a cluster that it did not connect to alone."""

    def __init__(
        self,
        address: str | None = None,
        config: RunConfig | None = None,
        *,
        cpus: int | None = None,
        note: Callable[[str], None] | None = None,
    ) -> None:
        """``config``: what it asks for is compared with the cluster on connecting, before any work; ``cpus``: how many
        a local cluster claims to have, the machine's (and two at least) by default; ``note``: called with a line where
        work is tried again and, from another thread, where it waits for machines of a cluster that was joined."""
        self._address = address or os.environ.get("RAY_ADDRESS")
        self._config = config
        self._cpus = cpus or max(2, processors())  # one must stay free for Ray Data while an actor holds another
        self._ours = self._checked = False
        self._note = note
        self._waiting: WaitingNotes | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None
        if self._ours:
            ray.shutdown()
            self._ours = False

    def connect(self) -> None:
        """Join the cluster or start the local one, and compare it with what the config asks for, once.

        Raises InputError where none answers at the address, or it cannot give what is asked for, and MixrayError where
        the local one does not start.
        """
        if not ray.is_initialized():
            if self._address is None:
                start_local_cluster(self._cpus)
            else:
                join_cluster(self._address)
                if self._note is not None:
                    self._waiting = WaitingNotes(self._note)
            self._ours = True
        if self._config is not None and not self._checked:
            self._checked = True
            self._check(self._config)

    def serve(self, config: RunConfig) -> None:
        """Work for another run file from now on: what it asks for is compared with the cluster as the first one's."""
        self._config, self._checked = config, False

    def require_answer(self) -> None:
        """Raise InputError within seconds where no cluster answers at the address. Starts nothing."""
        if self._address is not None and not ray.is_initialized():
            require_answer(self._address)

    def note(self, line: str) -> None:
        """Show a line."""
        if self._note is not None:
            self._note(line)

    def moved(self) -> None:
        """Work of the run has moved on: no note is due that it waits."""
        if self._waiting is not None:
            self._waiting.moved()

    def fits(self, ask: Resources, *, where: str, count: int = 1, memory: int = 0) -> int:
        """How many such asks (and ``memory`` bytes each) fit at once on the machines that there are; ``count`` at least
        on a cluster that grows.

        Raises InputError where fewer than ``count`` ever will. Of a cluster that grows this is known only if Ray knows
        its kinds of machines.
        """
        self.connect()
        request = {
            name: amount for name, amount in (("CPU", ask.cpus), ("GPU", ask.gpus), ("memory", memory)) if amount > 0
        }
        limits = _machine_limits()
        machines = limits or _live_machines()
        many = sum(count_of * _asks_in(machine, request) for machine, count_of in machines)
        if many < count and (limits or not self._grows):
            raise InputError(
                "more is asked for than the cluster has or can scale to",
                where=where,
                got=count_text([(request, count)], request),
                wanted=f"what fits on the machines: {count_text(machines, request)}",
                remedy=f"lower {where}, or give --address of a larger cluster",
            )
        return max(many, count)

    def at_once(self, ask: Resources, *, where: str, jobs: int, count: int = 1) -> int:
        """How many of so many jobs to hand to Ray at a time, ``count`` at least: as many as fit. On a cluster that
        grows, all, for it grows for what is queued.

        Raises InputError where fewer than ``count`` will ever fit at once.
        """
        room = self.fits(ask, where=where, count=count)
        return max(count, min(jobs, MOST_QUEUED if self._grows else room))

    def fits_shards(self, shards: ShardsConfig, targets: int) -> int:
        """How many shard actors fit at once; InputError where these are too few for so many targets."""
        memory = process_bytes(shards.memory, shards.resources.threads)
        count = targets * (shards.actors or 1)
        return self.fits(shards.resources, where="mixture.shards", count=count, memory=memory)

    @property
    def is_local(self) -> bool:
        """Whether the session has started the cluster, on this machine alone."""
        return self._ours and self._address is None

    @cached_property
    def _grows(self) -> bool:
        """Whether the cluster starts machines for work that waits. A local one of this process never does."""
        return not self.is_local and has_autoscaler()

    def _check(self, config: RunConfig) -> None:
        self.fits(config.proxy.resources, where="proxy.resources")
        self.fits(config.cache.resources, where="cache.resources", count=config.cache.actors or 1)
        if config.mixture.shards is not None:
            self.fits_shards(config.mixture.shards, 1 if config.mixture.over == "each" else len(config.targets))
        fewest, _ = config.retrain.worker_range
        self.fits(config.retrain.resources_per_worker, where="retrain.workers", count=fewest)
        self.check_shared(Storage(config.storage))

    def check_shared(self, storage: Storage) -> None:
        """Raise InputError where a local storage folder is not the same folder on every node there is."""
        self.connect()
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        if not storage.is_local or len(nodes) < 2:
            return
        probe = f".mixray-probe-{uuid.uuid4().hex}"
        storage.write(probe, b"mixray")
        sees: Any = ray.remote(num_cpus=0)(_sees)
        placed = [sees.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)) for node in nodes]
        try:
            answers = [_answer(reference) for reference in [task.remote(storage, probe) for task in placed]]
        finally:
            storage.delete(probe)
        visible = [answer for answer in answers if answer is not None]
        if not all(visible):
            raise InputError(
                "the storage is a folder that not every machine of the cluster sees",
                where="storage",
                got=f"{storage.uri}, seen on {sum(visible)} of {len(visible)} machines",
                wanted="a shared folder, or object storage such as s3://bucket/prefix",
            )


def count_gpus() -> int:
    """Return the number of NVIDIA GPUs of this machine, without starting Ray."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def _live_machines() -> Machines:
    return [(node["Resources"], 1) for node in ray.nodes() if node["Alive"]]


def _machine_limits() -> Machines:
    """Return the kinds of machines and how many there may ever be, where Ray knows: hosted services tell it."""
    config = ray._private.state.state.get_cluster_config()
    groups = [] if config is None else list(config.node_group_configs)
    unlimited = 10**6
    return [(dict(group.resources), group.max_count if group.max_count >= 0 else unlimited) for group in groups]


def _asks_in(machine: Mapping[str, float], request: Mapping[str, float]) -> int:
    return min(int(machine.get(name, 0.0) / amount + 1e-9) for name, amount in request.items())


def _sees(storage: Storage, path: str) -> bool:
    return storage.exists(path)


def _answer(reference: ray.ObjectRef) -> bool | None:
    """Return what ``_sees`` returns on a machine; None where the machine is leaving or dead, which Ray learns late."""
    try:
        answer: bool = ray.get(reference)
    except RayTaskError:
        raise
    except RayError:
        return None
    return answer
