"""Clusters that grow: whether machines are started for work that waits, and a word to the person while it waits.

Ray's autoscaler starts machines for the work that is queued. So on a cluster that has one, work is handed to Ray before
any machine can hold it.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ray
from ray.autoscaler.v2.schema import ClusterStatus
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.exceptions import RayError

STATUS_OF_VERSION_1 = b"__autoscaling_status"
NODE_WITHOUT_TYPE = "node_"
"""How Ray begins the name of a node's type where nothing but a person started the node."""
FIRST_NOTE_SECONDS = 30.0
POLLS_PER_NOTE = 10

Machines = list[tuple[Mapping[str, float], int]]
"""Kinds of machines, or of what is asked for, and how many there are: (resources, count)."""


def has_autoscaler() -> bool:
    """Return whether an autoscaler may start machines for the cluster that this process has joined.

    It is said of every cluster of ``ray up`` and of KubeRay. One of KubeRay whose autoscaling is off cannot be told
    from the others: there, work that fits nowhere waits, and ``WaitingNotes`` say so.
    """
    status = get_cluster_status(_address())
    if any(node.instance_id for node in [*status.active_nodes, *status.idle_nodes]):
        return True
    return any(not name.startswith(NODE_WITHOUT_TYPE) for name in _report_of_version_1().get("active_nodes") or {})


def count_text(machines: Iterable[tuple[Mapping[str, float], int]], names: Iterable[str]) -> str:
    """Write kinds of machines by the resources of these names: ``2 x (8 CPU and 1 GPU), 1 x (0 CPU and 0 GPU)``."""
    counts: Counter[str] = Counter()
    for resources, count in machines:
        counts[" and ".join(f"{resources.get(name, 0):g} {name}" for name in names)] += count
    return ", ".join(f"{count} x ({text})" for text, count in counts.items())


def describe_wait() -> str | None:
    """Return what waits for a machine, what the cluster has and what its autoscaler does; None where nothing waits.

    Other jobs of the cluster count, too: they may be what this one waits for.
    """
    status = get_cluster_status(_address())
    requests = _requests(status)
    if not requests:
        return None
    names = sorted({name for resources, _ in requests for name in resources})
    machines = count_text([(node["Resources"], 1) for node in ray.nodes() if node["Alive"]], names)
    return f"{count_text(requests, names)} wait for a machine; the cluster has {machines}; {_autoscaler_text(status)}"


class WaitingNotes:
    """Says what a run waits for, when none of its work has moved on for a while and some of it waits for a machine.

    The first note comes after ``seconds``, each of the next after twice the time. ``note`` is called with a line, from
    a thread of its own.
    """

    def __init__(self, note: Callable[[str], None], seconds: float = FIRST_NOTE_SECONDS) -> None:
        self._note, self._seconds = note, seconds
        self._ended = threading.Event()
        self.moved()
        self._thread = threading.Thread(target=self._watch, name="mixray-waiting", daemon=True)
        self._thread.start()

    def moved(self) -> None:
        """Work of the run has moved on."""
        self._since, self._due = time.monotonic(), self._seconds

    def close(self) -> None:
        self._ended.set()
        self._thread.join(timeout=5)  # a head that does not answer holds nobody up

    def _watch(self) -> None:
        while not self._ended.wait(self._seconds / POLLS_PER_NOTE):
            try:
                wait = describe_wait()
            except RayError:  # the head does not answer; what needs it will say so
                continue
            if wait is None:
                self.moved()
                continue
            waited = time.monotonic() - self._since
            if waited >= self._due:
                self._due *= 2
                self._note(f"nothing has moved for {waited:.0f} s: {wait}")


def _requests(status: ClusterStatus) -> Machines:
    """Return what tasks, actors and placement groups wait for. What a placement group holds already is left out."""
    demands = [*status.resource_demands.ray_task_actor_demand, *status.resource_demands.placement_group_demand]
    requests = [(dict(entry.bundle), entry.count) for demand in demands for entry in demand.bundles_by_count]
    return [(resources, count) for resources, count in requests if not any("_group_" in name for name in resources)]


def _autoscaler_text(status: ClusterStatus) -> str:
    report = _report_of_version_1()
    starting = Counter[str](report.get("pending_launches") or {})
    starting.update(name for _, name, _ in report.get("pending_nodes") or ())
    for launch in status.pending_launches:
        starting[launch.ray_node_type_name] += launch.count
    starting.update(node.ray_node_type_name for node in status.pending_nodes)
    failures = {f"{launch.ray_node_type_name} ({launch.details or 'no reason'})" for launch in status.failed_launches}
    failed = f"; it could not start {', '.join(sorted(failures))}" if failures else ""
    if starting:
        names = ", ".join(f"{count} x {name}" for name, count in starting.items())
        return f"the autoscaler is starting {names}{failed}"
    return (
        "no machine is being started: those there are may be busy, the autoscaler may be at its limit, or no kind of "
        f"machine may be large enough{failed}"
    )


def _report_of_version_1() -> dict[str, Any]:
    """Return what the first version of Ray's autoscaler reports, nothing under the second."""
    text = ray._raylet.GcsClient(address=_address()).internal_kv_get(STATUS_OF_VERSION_1, None, timeout=10)
    report: dict[str, Any] = {} if text is None else json.loads(text).get("autoscaler_report") or {}
    return report


def _address() -> str:
    return str(ray.get_runtime_context().gcs_address)
