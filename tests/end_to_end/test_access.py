"""Who gets at a cluster: a local one listens on loopback alone, one with a token lets nobody in without it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.end_to_end.conftest import MIXRAY, NAMESPACE, small_run

LOCAL = """
import json, subprocess, sys
from mixray.cluster import Session

# A machine in a network, as far as Ray can tell.
for command in ("link set lo up", "link add net0 type veth peer name net1", "addr add 10.9.9.9/24 dev net0",
                "link set net1 up", "link set net0 up", "route add default dev net0"):
    subprocess.run(["ip", *command.split()], check=True)
with Session(cpus=2) as session:
    session.connect()
    sockets = [line.split() for name in ("tcp", "tcp6") for line in open(f"/proc/net/{name}").readlines()[1:]]
with open(f"{sys.argv[1]}/facts.json", "w") as file:
    json.dump([socket[1].partition(":")[0] for socket in sockets if socket[3] == "0A"], file)
"""
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, the same as an IPv6 address, and ::1, as /proc/net writes them on a little-endian machine."""

WITH_TOKEN = """
import json, os, subprocess, sys, urllib.error, urllib.request

folder, *command = sys.argv[1:]
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
token = "4d" * 32
with_token = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_TMPDIR": folder}
ray_command = [sys.executable, "-m", "ray.scripts.scripts"]
start = ["start", "--head", "--num-cpus=0", "--port=6379", "--node-ip-address=127.0.0.1", "--dashboard-port=8265"]
for attempt in range(4):  # Ray allows a head 30 s to start, which a busy machine exceeds
    head = subprocess.run([*ray_command, *start], env=with_token, capture_output=True, text=True)
    if head.returncode == 0:
        break
    subprocess.run([*ray_command, "stop", "--force"], capture_output=True)
else:
    sys.exit(head.stdout + head.stderr)

def status(path, body=None, headers={}):
    headers = {"Content-Type": "application/json"} | headers
    request = urllib.request.Request(f"http://127.0.0.1:8265{path}", body, headers)
    try:
        return urllib.request.urlopen(request, timeout=30).status
    except urllib.error.HTTPError as error:
        return error.code

job = json.dumps({"entrypoint": "true"}).encode()
facts = {
    "nodes": status("/nodes?view=summary"), "jobs": status("/api/jobs/"), "submit": status("/api/jobs/", job),
    "wrong": status("/api/jobs/", headers={"Authorization": f"Bearer {'00' * 32}"}),
    "right": status("/api/jobs/", headers={"Authorization": f"Bearer {token}"}),
}
for name, access in {
    "without": {"RAY_AUTH_MODE": "disabled"},
    "joined": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token},
}.items():
    done = subprocess.run(command, env={**os.environ, **access}, capture_output=True, text=True)
    facts[name] = {"returncode": done.returncode, "stderr": done.stderr}
with open(f"{folder}/facts.json", "w") as file:
    json.dump(facts, file)
"""


def facts_of(program: str, folder: Path, *arguments: str) -> Any:
    """Run a program in namespaces of its own and return what it wrote into ``facts.json``."""
    inside = [*NAMESPACE, sys.executable, "-c", program, str(folder), *arguments]
    done = subprocess.run(inside, capture_output=True, text=True, timeout=600, check=False)
    assert (folder / "facts.json").exists(), done.stdout + done.stderr
    return json.loads((folder / "facts.json").read_text())


def test_a_local_cluster_listens_on_loopback_alone(cluster_folder: Path) -> None:
    addresses = facts_of(LOCAL, cluster_folder)
    assert addresses
    assert set(addresses) <= LOOPBACK


def test_a_cluster_with_a_token_lets_nobody_in_without_it(tmp_path: Path, cluster_folder: Path) -> None:
    run_file = small_run(tmp_path)
    command = [*MIXRAY, "run", str(run_file), "--until", "data", "--address", "127.0.0.1:6379"]
    facts = facts_of(WITH_TOKEN, cluster_folder, *command)
    statuses = [facts[name] for name in ("nodes", "jobs", "submit", "wrong", "right")]
    assert statuses == [401, 401, 401, 403, 200]
    assert facts["without"]["returncode"] == 2
    assert "a Ray cluster answers, but does not let this process in" in facts["without"]["stderr"]
    assert "RAY_AUTH_TOKEN" in facts["without"]["stderr"]
    # The cluster has no CPU for work: whoever is let in learns this.
    assert facts["joined"]["returncode"] == 2
    assert "more is asked for than the cluster has or can scale to" in facts["joined"]["stderr"]
