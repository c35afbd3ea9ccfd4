"""Machines that the cloud takes away, as announced: each hears of it itself, and nothing that it did is lost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import MIXRAY, content_of, mixray, small_run
from tests.test_notices import Cloud

RAY = (sys.executable, "-m", "ray.scripts.scripts")


class Machines:
    """A Ray cluster whose head does no work, and machines that watch for a notice."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._log = folder / "machines.log"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._clouds: list[Cloud] = []

    def add_head(self, folder: Path) -> None:
        port = self.address.partition(":")[2]
        head = ("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={folder}/ray")
        self._start([*RAY, "start", *head], {}, notice_seconds=0)

    def add(self, cpus: int, notice_seconds: int) -> Cloud:
        """Start a machine with so many CPUs; return the cloud that will take it away, so long after its notice."""
        cloud = Cloud()
        self._clouds.append(cloud)
        node = ["start", f"--address={self.address}", f"--num-cpus={cpus}"]
        self._start([*MIXRAY, "watch", *RAY, *node], cloud.environment, notice_seconds)
        return cloud

    def close(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            process.wait(120)
        for cloud in self._clouds:
            cloud.close()

    def _start(self, command: list[str], cloud: dict[str, str], notice_seconds: int) -> None:
        # Other clusters of this machine may use the ports that Ray takes by default.
        command = [*command, "--block", "--node-ip-address=127.0.0.1", "--dashboard-agent-listen-port=0"]
        environment = os.environ | cloud | {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(notice_seconds)}
        environment["PYTHONUNBUFFERED"] = "1"
        with self._log.open("a") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self._processes.append(process)
        deadline = time.monotonic() + 240
        while self._log.read_text().count("Ray runtime started") < len(self._processes):
            assert process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, "the machine does not start"
            time.sleep(0.2)


@pytest.fixture
def machines() -> Iterator[Machines]:
    with tempfile.TemporaryDirectory(prefix="mx-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        cluster = Machines(Path(folder))
        try:
            cluster.add_head(Path(folder))
            yield cluster
        finally:
            cluster.close()


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 400) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.1)
    return value


def saved_step(storage: Path, kind: str) -> int:
    """The step of the newest state of a model in training; 0 where there is none."""
    states = storage.glob(f"checkpoints/{kind}/**/step-*.pt")
    return max((int(path.name.split("-")[1]) for path in states), default=0)


@pytest.mark.skipif("MIXRAY_LONG_TESTS" not in os.environ, reason="ten minutes; set MIXRAY_LONG_TESTS to run it")
def test_a_proxy_and_an_arm_survive_two_announced_preemptions(tmp_path: Path, machines: Machines) -> None:
    """No restart and no failure is allowed, and the arm saves its state nowhere on its way but where it must leave."""
    steps = 4000
    run_file = small_run(tmp_path, targets={"zoo": {"jsonl": str(tmp_path / "zoo.jsonl")}})
    settings = [
        f"proxy.tokens={steps * 8 * 32}",
        "proxy.checkpoints=100",
        "proxy.max_restarts=0",
        f"retrain.tokens={steps * 8 * 32}",
        "retrain.checkpoints=1",
        "retrain.max_failures=0",
        "retrain.workers=2",
        "retrain.arms=[balanced]",
    ]
    storage, log = tmp_path / "runs-here", tmp_path / "stderr.txt"
    first = machines.add(cpus=3, notice_seconds=4)
    command = [*MIXRAY, "run", str(run_file), *settings, "--address", machines.address, "--json"]
    polls_often = os.environ | {"RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1"}
    with (
        log.open("w") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=polls_often) as run,
    ):
        wait_for(lambda: saved_step(storage, "proxy"), run)
        second = machines.add(cpus=3, notice_seconds=60)
        first.takes_away = "AWS"
        wait_for(lambda: "[retrain] balanced" in log.read_text(), run)
        machines.add(cpus=3, notice_seconds=0)
        second.takes_away = "Google"
        left_at = wait_for(lambda: saved_step(storage, "model"), run)
        stdout, _ = run.communicate(timeout=600)
    assert run.returncode == 0, log.read_text()
    assert 0 < left_at < steps, "the arm did not leave on its way"
    assert json.loads(stdout.splitlines()[-1])["mixtures"]["zoo"]["weights"]["animals"] > 0.9

    undisturbed = mixray("run", run_file, *settings, f"storage={tmp_path / 'elsewhere'}", "--json")
    assert undisturbed.returncode == 0, undisturbed.stderr
    for kind in ("proxy", "model"):
        assert content_of(storage, kind) == content_of(tmp_path / "elsewhere", kind), kind
