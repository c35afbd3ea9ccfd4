"""What a person reads while work waits for machines."""

from __future__ import annotations

import time
from collections.abc import Callable

import ray

from mixray.cluster import Session
from mixray.cluster.growing import WaitingNotes, count_text, describe_wait, has_autoscaler


def until(is_true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not is_true() and time.monotonic() < deadline:
        time.sleep(0.1)
    return is_true()


def test_work_that_waits_is_described_again_and_again_until_nothing_waits(ray_session: Session) -> None:
    ray_session.connect()
    assert until(lambda: describe_wait() is None)  # of what other tests asked for nothing is left
    lines: list[str] = []
    notes = WaitingNotes(lines.append, seconds=0.5)
    request = ray.remote(num_cpus=16)(until).remote(bool)
    try:
        assert until(lambda: len(lines) >= 2), lines
    finally:
        ray.cancel(request)
    assert until(lambda: describe_wait() is None)
    notes.close()
    assert "1 x (16 CPU) wait for a machine; the cluster has 1 x (4 CPU); no machine is being started" in lines[0]
    waited = [float(line.split("moved for ")[1].split(" s")[0]) for line in lines]
    assert waited == sorted(waited)


def test_a_local_cluster_does_not_grow(ray_session: Session) -> None:
    ray_session.connect()
    assert not has_autoscaler()


def test_machines_are_counted_by_what_is_asked_for() -> None:
    machines = [({"CPU": 8.0, "GPU": 1.0}, 2), ({"CPU": 0.0, "memory": 1e9}, 1), ({"CPU": 8.0, "GPU": 1.0}, 3)]
    assert count_text(machines, ["CPU", "GPU"]) == "5 x (8 CPU and 1 GPU), 1 x (0 CPU and 0 GPU)"
    assert count_text([], ["CPU"]) == ""
