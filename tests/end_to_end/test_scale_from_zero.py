"""A run on a cluster without a machine for work until it is asked for one: Ray's fake autoscaler, from 0 to 2 nodes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.end_to_end.conftest import MIXRAY, NAMESPACE, small_run

CLUSTER = """
import json, os, subprocess, sys, time
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

folder, *command = sys.argv[1:]
lists = "initialization setup head_setup worker_setup head_start_ray worker_start_ray"
config = {
    "cluster_name": "zero", "max_workers": 2, "upscaling_speed": 20, "idle_timeout_minutes": 0.1,
    "provider": {
        "type": "external", "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_node_id_as_ip": True, "disable_node_updaters": True, "disable_launch_config_check": True,
        "launch_multiple": True, "head_node_id": FAKE_HEAD_NODE_ID,
    },
    "head_node_type": "ray.head.default",  # the name that the fake provider gives its head
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "auth": {}, "docker": {}, "file_mounts": {}, "file_mounts_sync_continuously": False,
    **{f"{name}_commands": [] for name in lists.split()},
    "cluster_synced_files": [], "rsync_exclude": [], "rsync_filter": [],
}
with open(f"{folder}/autoscaler.json", "w") as file:
    json.dump(config, file)
fake = {
    "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
}
os.environ["RAY_TMPDIR"] = folder
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
ray_command = [sys.executable, "-m", "ray.scripts.scripts"]
start = ["start", "--head", "--num-cpus=0", "--port=6379", "--node-ip-address=127.0.0.1",
         "--include-dashboard=false", f"--autoscaling-config={folder}/autoscaler.json"]
for attempt in range(4):  # Ray allows a head 30 s to start, which a busy machine exceeds
    head = subprocess.run([*ray_command, *start], env={**os.environ, **fake}, capture_output=True, text=True)
    if head.returncode == 0:
        break
    subprocess.run([*ray_command, "stop", "--force"], capture_output=True)
else:
    sys.exit(head.stdout + head.stderr)
done = subprocess.run(command, capture_output=True, text=True)

import ray

ray.init(address="auto", log_to_driver=False)
def alive():
    return [node for node in ray.nodes() if node["Alive"]]
deadline = time.monotonic() + 240
while len(alive()) > 1 and time.monotonic() < deadline:
    time.sleep(1)
workers = [node for node in ray.nodes() if "node:__internal_head__" not in node["Resources"]]
facts = {"returncode": done.returncode, "stdout": done.stdout, "stderr": done.stderr,
         "workers": len(workers), "alive": len(alive())}
with open(f"{folder}/facts.json", "w") as file:
    json.dump(facts, file)
"""


def test_a_run_makes_the_cluster_grow_from_zero_and_lets_it_shrink(tmp_path: Path, cluster_folder: Path) -> None:
    run_file = small_run(tmp_path, targets={"zoo": {"jsonl": str(tmp_path / "zoo.jsonl")}})
    command = [*MIXRAY, "run", str(run_file), "retrain.arms=[mixmin]", "--address", "auto", "--json"]
    inside = [*NAMESPACE, sys.executable, "-c", CLUSTER, str(cluster_folder), *command]
    started = subprocess.run(inside, capture_output=True, text=True, timeout=600, check=False)
    assert (cluster_folder / "facts.json").exists(), started.stdout + started.stderr
    facts: dict[str, Any] = json.loads((cluster_folder / "facts.json").read_text())
    assert facts["returncode"] == 0, facts["stderr"]
    answer = json.loads(facts["stdout"].splitlines()[-1])  # Ray writes warnings of its nodes to stdout
    assert answer["mixtures"]["zoo"]["weights"]["animals"] > 0.9
    assert facts["workers"] >= 1, "the cluster did not grow"
    assert facts["alive"] == 1, "the cluster did not shrink to its head"
