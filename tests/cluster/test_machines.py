"""Machines that leave a cluster while a run joins it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys, time
import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
from mixray.cluster import Session
from mixray.store import Storage

learns_fast = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
head = {"num_cpus": 1, "include_dashboard": False, "_system_config": learns_fast}
cluster = Cluster(initialize_head=True, head_node_args=head)
dying, leaving = (cluster.add_node(num_cpus=1) for _ in range(2))
with Session(cluster.address) as session:
    session.connect()
    before = ray.nodes()
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = int(time.time() * 1000) + 60_000
    assert GcsClient(address=cluster.gcs_address).drain_node(leaving.node_id, reason, "a test", deadline)[0]
    dying.all_processes["raylet"][0].process.kill()
    ray.nodes = lambda: before  # as late as Ray's list may be
    session.check_shared(Storage(sys.argv[1]))
    print("machines listed:", sum(node["Alive"] for node in before))
cluster.shutdown()
"""


def test_a_machine_that_has_just_died_or_is_leaving_does_not_stop_a_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "machines listed: 3" in done.stdout
