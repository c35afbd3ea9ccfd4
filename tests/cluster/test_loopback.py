"""What torch listens at for the workers of a local cluster."""

from __future__ import annotations

import os
import subprocess
import sys

GROUP = """
import os, socket
import torch.distributed as dist
from mixray.cluster.retraining import use_loopback

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
use_loopback()
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK="0", WORLD_SIZE="1")
dist.init_process_group("gloo", init_method="env://")  # as Ray Train does
dist.new_group(backend="gloo")
opened = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
ours = {os.readlink(path) for path in opened if os.path.islink(path)}
for name in ("tcp", "tcp6"):
    for line in open(f"/proc/net/{name}"):
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in ours:
            print(fields[1].partition(":")[0])
"""


def test_a_group_of_workers_listens_on_loopback_alone() -> None:
    """127.0.0.1 is written as /proc/net does on a little-endian machine. The group's store listens, and gloo twice."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("SOCKET_IFNAME")}
    done = subprocess.run([sys.executable, "-c", GROUP], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["0100007F"] * 3, done.stderr
