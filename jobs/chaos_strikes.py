"""Strikes on a run while it works, and giving its command again where it has died."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jobs.chaos_machines import Machines
from tests.end_to_end.conftest import MIXRAY
from tests.store.faulty_s3 import Fault, FaultyS3
from tests.tracking.server import Server

STAGES = ("data", "proxies", "cache", "mixture", "swarm", "forecast", "retrain", "held-out", "report")
KINDS = ["worker", "helper", "machine", "announced machine", "driver", "MLflow", "storage refuses", "storage dawdles"]
SECONDS_BETWEEN = (3.0, 12.0)
"""The time from a strike to the next one is drawn evenly from this range."""
SERVER_AWAY_SECONDS = 8.0
STORAGE_SPOILT_SECONDS = (2.0, 10.0)
WORKS = re.compile(r"ray::(ProxyTrainer|RayTrainWorker|ShardHolder|Map|_sees)")
"""The titles of the processes that do a run's work."""
LIMIT_SECONDS = 3600.0


@dataclass
class Strike:
    """``victim``: the title of the process, or the machine's address. ``outcome``: what became of the command."""

    stage: str
    kind: str
    victim: str
    outcome: str


class Command:
    """``mixray run``, whose progress tells the stage that it is in. Killed at the end of a ``with`` block."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self.stage, self.message, self._log = "start", "no message", log
        self.process = subprocess.Popen(
            [*MIXRAY, "run", *arguments],
            env=os.environ | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.end()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self._log.open("a") as log:
            for line in self.process.stderr:
                log.write(f"{time.strftime('%H:%M:%S')} {line}")
                log.flush()
                if match := re.match(r"\[([a-z-]+)\] ", line):
                    self.stage = match[1]
                elif re.match(r"mixray: |[A-Za-z.]*(Error|Exception)\b", line):
                    self.message = line.strip()

    def end(self) -> int:
        code = self.process.wait()
        self._reader.join(10)
        return code


@dataclass
class Chaos:
    """Strikes while a command runs. ``limit``: of strikes at random times; those at stages' beginnings come on top."""

    machines: Machines
    server: Server
    storage: FaultyS3 | None
    limit: int
    draw: np.random.Generator
    kinds: list[str]
    strikes: list[Strike] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _aimed: set[str] = field(default_factory=set)

    def survive(self, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        """Give the command again and again until it ends well."""
        self._started = time.monotonic()
        self._next = self._started + self._pause()
        code = None
        while code != 0:
            since = len(self.strikes)
            with Command(arguments, environment, log) as command:
                while command.process.poll() is None:
                    assert time.monotonic() < self._started + LIMIT_SECONDS, "the run does not end"
                    time.sleep(0.1)
                    self._bring_back()
                    self._strike_if_due(command)
                code = command.end()
            if code not in (0, -signal.SIGKILL):
                self._fail(f"exit {code} in {command.stage} after strike {len(self.strikes)}: {command.message}", since)
        self._server_due = self._storage_due = 0.0
        self._bring_back()

    def _fail(self, failure: str, since: int) -> None:
        self.failures.append(failure)
        print(f"!! {failure}", flush=True)
        for strike in self.strikes[since:][-1:]:
            strike.outcome = "the command failed, and went on when given again"

    def _pause(self) -> float:
        return float(self.draw.uniform(*SECONDS_BETWEEN))

    def _strike_if_due(self, command: Command) -> None:
        is_new_stage = command.stage in STAGES and command.stage not in self._aimed
        is_due = time.monotonic() > self._next and len(self.strikes) - len(self._aimed) < self.limit
        if not is_new_stage and not is_due:
            return
        stage = command.stage
        if is_new_stage:
            self._aimed.add(stage)
        for kind in map(str, self.draw.permutation(self.kinds)):
            victim = self._ways[kind](command)
            if victim is not None:
                outcome = "the same command went on" if kind == "driver" else "the run went on"
                self.strikes.append(Strike(stage, kind, victim, outcome))
                seconds = time.monotonic() - self._started
                print(f"{len(self.strikes):3d} {seconds:6.1f} s [{stage}] {kind}: {victim}", flush=True)
                break
        self._next = time.monotonic() + self._pause()

    def _bring_back(self) -> None:
        self.machines.replace()
        if self.server.process is None and time.monotonic() > self._server_due:
            self.server.start()
        if self.storage is not None and self.storage.faults and time.monotonic() > self._storage_due:
            self.storage.faults.clear()

    # ------------------------------------------------------- ways to strike: each returns its victim, or None

    @property
    def _ways(self) -> dict[str, Callable[[Command], str | None]]:
        return {
            "worker": lambda _: self._kill_process(works=True),
            "helper": lambda _: self._kill_process(works=False),
            "machine": lambda _: self._take_away(announced=False),
            "announced machine": lambda _: self._take_away(announced=True),
            "driver": self._kill_driver,
            "MLflow": self._stop_server,
            "storage refuses": lambda _: self._spoil(503, 0.0),
            "storage dawdles": lambda _: self._spoil(None, 2.0),
        }

    def _kill_process(self, *, works: bool) -> str | None:
        """Kill a process that trains, scores or reads, or one that serves those: mixray's board, Ray's own actors."""
        processes = [process for process in self.machines.workers() if bool(WORKS.match(process.title)) == works]
        if not processes:
            return None
        process = processes[int(self.draw.integers(len(processes)))]
        process.kill()
        return process.title.partition(".")[0].removeprefix("ray::")

    def _take_away(self, *, announced: bool) -> str | None:
        up = self.machines.up()
        if len(up) < 2:
            return None
        machine = up[int(self.draw.integers(len(up)))]
        self.machines.take_away(machine, announced=announced)
        return machine.address

    def _kill_driver(self, command: Command) -> str | None:
        command.process.kill()
        return "mixray run"

    def _stop_server(self, command: Command) -> str | None:
        if self.server.process is None:
            return None
        self.server.stop()
        self._server_due = time.monotonic() + SERVER_AWAY_SECONDS
        return "its server"

    def _spoil(self, status: int | None, seconds: float) -> str | None:
        """Let all requests fail or take long for some seconds."""
        if self.storage is None or self.storage.faults:
            return None
        lasts = float(self.draw.uniform(*STORAGE_SPOILT_SECONDS))
        self.storage.faults += [Fault(method, "", status, seconds, times=10**6) for method in ("GET", "PUT", "HEAD")]
        self._storage_due = time.monotonic() + lasts
        return f"all requests for {lasts:.0f} s"
