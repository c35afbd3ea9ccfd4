"""Machines of a Ray cluster on this computer that can be taken away, and a count of the optimizer steps done there."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from mixray.store.lease import process_start

RAY = (sys.executable, "-m", "ray.scripts.scripts")
NOTICE_SECONDS = 5
"""How long a machine that is taken away as announced lives on."""
SETTINGS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 5,
    "worker_niceness": 0,
}
"""Ray learns of a machine's death within about 5 s rather than 15, and its workers do not yield to other programs."""
NOT_AT_WORK = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""What Ray titles those of its processes that do not work for a run."""

COUNTER = '''
"""Every Python process of the cluster imports this at its start: it counts the steps of all optimizers."""
import os
import sys


class CountSteps:
    def find_spec(self, name, path, target=None):
        if name == "mixray.training.loop":
            sys.meta_path.remove(self)
            from torch.optim.optimizer import register_optimizer_step_post_hook

            count = os.open(os.environ["CHAOS_STEPS"] + f"/{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            register_optimizer_step_post_hook(lambda *_: os.write(count, b".") and None)


sys.meta_path.insert(0, CountSteps())
'''


class StepCounter:
    """Counts the optimizer steps of every process that is started with ``environment``, those of killed ones, too.

    A process appends a byte to a file of its own after every step, so a SIGKILL loses none.
    """

    def __init__(self, folder: Path) -> None:
        self._steps = folder / "steps"
        self._steps.mkdir()
        (folder / "counter").mkdir()
        (folder / "counter" / "sitecustomize.py").write_text(COUNTER)
        paths = [str(folder / "counter"), os.environ.get("PYTHONPATH", "")]
        self.environment = {"CHAOS_STEPS": str(self._steps), "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def total(self) -> int:
        return sum(path.stat().st_size for path in self._steps.iterdir())


@dataclass(frozen=True)
class Process:
    """A process of a machine. ``title``: its command line; Ray sets those of its workers to what they work on."""

    id: int
    started: str | None
    title: str

    @property
    def is_at_work(self) -> bool:
        return self.title.startswith("ray::") and not self.title.startswith(NOT_AT_WORK)

    def kill(self) -> None:
        if process_start(self.id) == self.started:
            with suppress(ProcessLookupError):
                os.kill(self.id, signal.SIGKILL)


def descendants(parent: int) -> list[Process]:
    """Return the processes that one has started, and those that they have."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    processes, waiting = [], [parent]
    while waiting:
        for child in children.get(waiting.pop(), []):
            waiting.append(child)
            with suppress(OSError):
                title = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                processes.append(Process(child, process_start(child), title))
    return processes


class Machine:
    """A Ray node with an address of its own: ``ray start --block`` and all that it starts.

    ``inside``: what stands before its command, such as one that enters a namespace.
    """

    def __init__(
        self,
        options: list[str],
        address: str,
        environment: dict[str, str],
        log: Path,
        *,
        inside: tuple[str, ...] = (),
    ) -> None:
        self.address, self._log = address, log
        places = [f"--node-ip-address={address}", "--dashboard-agent-listen-port=0"]
        with log.open("wb") as sink:
            self._ray = subprocess.Popen(
                [*inside, *RAY, "start", *places, *options, "--block"],
                env=environment,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )

    def has_ended(self) -> bool:
        return self._ray.poll() is not None

    def is_up(self) -> bool:
        return not self.has_ended() and "Ray runtime started" in self._log.read_text()

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + 240
        while not self.is_up():
            assert not self.has_ended(), self._log.read_text()
            assert time.monotonic() < deadline, "the machine does not start"
            time.sleep(0.2)

    def workers(self) -> list[Process]:
        """Return the processes that work on something just now."""
        return [process for process in descendants(self._ray.pid) if process.is_at_work]

    def announce_end(self) -> None:
        """Do what ``mixray watch`` does when a cloud gives notice. What is left of the machine after it is killed."""
        processes = descendants(self._ray.pid)
        self._ray.terminate()
        killing = threading.Timer(NOTICE_SECONDS + 1, self.kill, [processes])
        killing.daemon = True
        killing.start()

    def kill(self, more: list[Process] | None = None) -> None:
        """Kill all of its processes at once. ``more``: those it had earlier, which may have lost their parent."""
        processes = [*descendants(self._ray.pid), *(more or [])]
        self._ray.kill()
        for process in processes:
            process.kill()
        self._ray.wait()


class Machines:
    """A head that does no work, and ``count`` machines of two CPUs each; those that end are replaced."""

    def __init__(self, folder: Path, count: int, environment: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{self._port}"
        self._folder, self._count, self._started = folder, count, 0
        patience = {"RAY_raylet_start_wait_time_s": "120", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(NOTICE_SECONDS)}
        self._environment = os.environ | environment | patience | {"PYTHONUNBUFFERED": "1"}
        self._leaving: list[Machine] = []
        self._machines: list[Machine] = []
        self._head: Machine | None = None

    def __enter__(self) -> Self:
        head = ["--head", f"--port={self._port}", "--num-cpus=0", "--include-dashboard=false"]
        self._head = self._start([*head, f"--temp-dir={self._folder}/ray", f"--system-config={json.dumps(SETTINGS)}"])
        self._head.wait_until_up()
        while len(self._machines) < self._count:
            self.replace()
            self._machines[-1].wait_until_up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for machine in [*self._leaving, *self._machines, *([self._head] if self._head else [])]:
            machine.kill()

    def workers(self) -> list[Process]:
        """Return the processes of all machines, the head included, that work on something just now."""
        assert self._head is not None
        return [process for machine in [self._head, *self._machines] for process in machine.workers()]

    def up(self) -> list[Machine]:
        return [machine for machine in self._machines if machine.is_up()]

    def take_away(self, machine: Machine, *, announced: bool) -> None:
        """End a machine, at once or as announced, and begin to start another one."""
        self._machines.remove(machine)
        if announced:
            machine.announce_end()
            self._leaving.append(machine)
        else:
            machine.kill()
        self.replace()

    def replace(self) -> None:
        """Begin to start a machine where fewer than ``count`` run. One at a time: starting many takes each too long."""
        self._machines = [machine for machine in self._machines if not machine.has_ended()]
        if len(self._machines) < self._count and len(self.up()) == len(self._machines):
            self._machines.append(self._start([f"--address={self.address}", "--num-cpus=2"]))

    def _start(self, options: list[str]) -> Machine:
        self._started += 1
        log = self._folder / f"machine-{self._started}.log"
        options = [*options, f"--object-store-memory={100 * 2**20}"]
        return Machine(options, f"127.0.0.{self._started}", self._environment, log)
