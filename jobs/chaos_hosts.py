"""The quick start on three hosts that share no disk, one of which is cut off and another killed.

    python -m jobs.chaos_hosts            (as root, from the root of a checkout with mixray[test], on Linux)

A Ray head and two workers run in network namespaces of their own on one bridge, each with a disk of its own under the
same path. An S3 server in a fourth namespace is all that they share. ``ray job submit`` gives the quick start to two
workers of two CPUs, with ``--single`` before that to one worker of four, and again to two workers: as its proxies
train, the first worker's network is cut for some seconds, and as it retrains, the second worker is killed. Each run has
a cluster of its own. The mixtures and all artifacts must be the same bit for bit. Everything is in namespaces that end
with this process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from jobs.chaos_comparison import differences
from jobs.chaos_machines import RAY, SETTINGS, Machine
from tests.end_to_end.conftest import NAMESPACE
from tests.store.faulty_s3 import S3_ENVIRONMENT

ROOT = Path(__file__).parents[1]
HEAD, NETWORK = "10.9.0.2", "10.9.0"
AWAY_SECONDS = 20.0
"""How long a worker's network is cut: long enough for Ray to give the worker up."""
FIFTH = ("proxy.tokens=16000", "swarm.tokens=8000", "retrain.tokens=50000")
SERVE = (
    "import sys\n"
    "from tests.store.faulty_s3 import s3_server\n"
    "with s3_server(sys.argv[1]) as address:\n"
    "    print(address, flush=True)\n"
    "    sys.stdin.read()\n"
)


def command(*words: str) -> None:
    subprocess.run(words, check=True)


def plug_in(number: int) -> tuple[str, ...]:
    """Connect host ``number`` to the bridge, and return what stands before a command that runs on it."""
    name = f"host{number}"
    command("ip", "netns", "add", name)
    command("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
    command("ip", "link", "set", name, "master", "switch", "up")
    for words in ("addr add {}/24 dev eth0", "link set eth0 up", "link set lo up"):
        command("ip", "-n", name, *words.format(f"{NETWORK}.{number}").split())
    return ("ip", "netns", "exec", name)


class Hosts:
    """An S3 server, a head, and ``workers`` of so many CPUs each; those whose Ray has ended are started again."""

    def __init__(self, folder: Path, inside: Sequence[tuple[str, ...]], workers: int, cpus: int) -> None:
        self._folder, self._inside, self._count, self._cpus = folder, inside, workers, cpus
        self._started = 0
        self._disk = folder / "disk"
        self._disk.mkdir(exist_ok=True)
        self._environment = os.environ | S3_ENVIRONMENT | {
            "HOME": str(self._disk),
            "TMPDIR": str(self._disk),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": "120",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }  # fmt: skip
        self.head = self._start(2, ["--head", "--port=6379", "--num-cpus=0", f"--dashboard-host={HEAD}",
                                    f"--system-config={json.dumps(SETTINGS)}"])  # fmt: skip
        self.head.wait_until_up()
        self.workers = [self._start_worker(number) for number in range(3, 3 + workers)]
        for worker in self.workers:
            worker.wait_until_up()

    def _start_worker(self, number: int) -> Machine:
        return self._start(number, [f"--address={HEAD}:6379", f"--num-cpus={self._cpus}"])

    def _start(self, number: int, options: list[str]) -> Machine:
        self._started += 1
        disk = self._folder / f"disk-{number}-{self._started}"  # a new machine has an empty one
        disk.mkdir()
        options = [*options, "--dashboard-agent-listen-port=52365", f"--object-store-memory={200 * 2**20}"]
        if number == 2:
            options.append(f"--temp-dir={self._disk}/ray")
        return Machine(
            options,
            f"{NETWORK}.{number}",
            self._environment,
            self._folder / f"host-{number}-{self._started}.log",
            inside=(*self._inside[number], *self._own_disk(disk)),
        )

    def _own_disk(self, disk: Path) -> tuple[str, ...]:
        mounts = f'mount --bind {disk} {self._disk} && mount -t tmpfs tmpfs /dev/shm && exec "$@"'
        return ("unshare", "--mount", "sh", "-c", mounts, "sh")

    def bring_back(self) -> None:
        for index, worker in enumerate(self.workers):
            if worker.has_ended():
                self.workers[index] = self._start_worker(3 + index)

    def submit(self, storage: str, settings: Sequence[str]) -> subprocess.Popen[str]:
        """Begin ``ray job submit`` on the head; its output has the job's log."""
        tracking = f"tracking.uri=sqlite:///{self._disk}/mlflow.db"
        entry = ["python", "jobs/find_mixture.py", "jobs/quickstart.yaml", f"storage={storage}", tracking]
        job = ["job", "submit", f"--address=http://{HEAD}:8265", "--working-dir", str(ROOT), "--", *entry, *settings]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        inside = [*self._inside[2], *RAY, *job]
        return subprocess.Popen(inside, env=self._environment, cwd=ROOT, **streams)  # type: ignore[call-overload,no-any-return]

    def close(self) -> None:
        for machine in [*self.workers, self.head]:
            machine.kill()


@contextmanager
def hosts(folder: Path, inside: Sequence[tuple[str, ...]], workers: int, cpus: int) -> Iterator[Hosts]:
    cluster = Hosts(folder, inside, workers, cpus)
    try:
        yield cluster
    finally:
        cluster.close()


def cut_off(number: int) -> None:
    """Cut a host's network, and heal it after some seconds."""
    command("ip", "link", "set", f"host{number}", "down")
    healing = threading.Timer(AWAY_SECONDS, command, ("ip", "link", "set", f"host{number}", "up"))
    healing.daemon = True
    healing.start()


def run(cluster: Hosts, storage: str, settings: Sequence[str], log: Path, *, disturbed: bool) -> float:
    """Submit the quick start, and return the seconds that it took."""
    started, strikes = time.monotonic(), ["[proxies] ", "[retrain] "] if disturbed else []
    with cluster.submit(storage, settings) as job, log.open("w") as sink:
        assert job.stdout is not None
        for line in job.stdout:
            sink.write(f"{time.monotonic() - started:6.1f} {line}")
            sink.flush()
            if strikes and line.startswith(strikes[0]):
                stage = strikes.pop(0)
                if "proxies" in stage:
                    cut_off(3)
                else:
                    cluster.workers[1].kill()
                print(f"{time.monotonic() - started:6.1f} s {stage}struck", flush=True)
            if disturbed:
                cluster.bring_back()
        code = job.wait()
    assert code == 0, log.read_text()[-3000:]
    assert not strikes, f"not struck: {strikes}"
    return time.monotonic() - started


def compare(folder: Path, settings: Sequence[str], *, with_single: bool) -> int:
    """Make the runs, print what happened, and return 0 if all ended alike."""
    os.environ |= S3_ENVIRONMENT
    command("mount", "-t", "tmpfs", "tmpfs", "/run")  # where ip keeps its names of namespaces
    command("ip", "link", "add", "switch", "type", "bridge")
    command("ip", "addr", "add", f"{NETWORK}.254/24", "dev", "switch")
    command("ip", "link", "set", "switch", "up")
    command("ip", "link", "set", "lo", "up")
    inside: list[tuple[str, ...]] = [(), *(plug_in(number) for number in (1, 2, 3, 4))]
    server = [*inside[1], sys.executable, "-c", SERVE, f"{NETWORK}.1"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with ExitStack() as stack:
        s3 = stack.enter_context(subprocess.Popen(server, cwd=ROOT, **pipes))  # type: ignore[call-overload]
        stack.callback(s3.kill)
        endpoint = s3.stdout.readline().strip()
        options = f"endpoint_override=http://{endpoint}&scheme=http&region=us-east-1"
        places = {name: f"s3://bucket/{name}?{options}" for name in ("one", "two", "disturbed")}
        seconds, runs = {}, [("two", 2, 2), ("disturbed", 2, 2)]
        for name, workers, cpus in [("one", 1, 4), *runs] if with_single else runs:
            with hosts(folder, inside, workers=workers, cpus=cpus) as cluster:  # a new one, so that none is warm
                is_disturbed = name == "disturbed"
                seconds[name] = run(cluster, places[name], settings, folder / f"{name}.txt", disturbed=is_disturbed)
            print(f"{name}: {seconds[name]:.0f} s", flush=True)
        if with_single:
            print(f"two workers take {seconds['two'] / seconds['one']:.2f} times as long as one with as many CPUs")
        unlike = differences(places["two"], places["disturbed"])
        unlike += differences(places["one"], places["two"]) if with_single else []
    for line in unlike:
        print(f"- {line}")
    print("all runs found the same, bit for bit" if not unlike else f"{len(unlike)} differences")
    return 1 if unlike else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--single", action="store_true", help="time one worker with as many CPUs, too")
    parser.add_argument("--settings", nargs="*", default=FIFTH, help="overrides; by default a fifth of the tokens")
    parser.add_argument("--folder", type=Path, help="an empty folder that is kept; temporary by default")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.inside:
        sys.exit(subprocess.call([*NAMESPACE, sys.executable, "-m", "jobs.chaos_hosts", "--inside", *sys.argv[1:]]))
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="mx-", dir="/tmp"))
    try:
        sys.exit(compare(folder.absolute(), arguments.settings, with_single=arguments.single))
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
