"""One process at a time works on a run; what has died is followed at once, or as soon as its silence tells."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from mixray.errors import InputError, StageError
from mixray.store import Lease, Storage, lease

FOLDER = "runs/demo-12345678/lease"
HOLDER = (
    "import sys, time\n"
    "from mixray.store import Lease, Storage, lease\n"
    "lease.BEAT_SECONDS, lease._machine = 0.05, lambda: sys.argv[3] or machine()\n"
    "with Lease(Storage(sys.argv[1]), sys.argv[2]):\n"
    "    print('holds', flush=True)\n"
    "    sys.stdin.readline()\n"
).replace("lease\nlease.", "lease\nmachine = lease._machine\nlease.")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lease, "EXPIRY_SECONDS", 3.0)


@contextmanager
def holder(uri: str, machine: str = "") -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease until it reads a line. ``machine``: which one it says that it runs on."""
    command = [sys.executable, "-c", HOLDER, uri, FOLDER, machine]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("machine", ["", "another"])
def test_while_its_holder_lives_nobody_else_gets_it_and_afterwards_anybody(uri: str, machine: str) -> None:
    storage = Storage(uri)
    with holder(uri, machine) as process:
        with pytest.raises(InputError, match="another process works on this run") as caught, Lease(storage, FOLDER):
            pass
        assert f"process {process.pid} on " in str(caught.value.got)
        assert caught.value.where == storage.location("runs/demo-12345678")
        process.communicate("end\n")
    assert storage.list(FOLDER) == []
    with Lease(storage, FOLDER):
        pass


def test_a_holder_of_this_machine_that_was_killed_is_followed_without_waiting(uri: str) -> None:
    notes: list[str] = []
    with holder(uri) as process:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # its parent has not waited for it: it is a zombie
        with Lease(Storage(uri), FOLDER, notes.append) as taken:
            taken.require()
            assert Storage(uri).list(FOLDER) == ["000002.json"]
    assert notes == []


def test_a_holder_of_another_machine_is_followed_once_it_is_silent(uri: str) -> None:
    notes: list[str] = []
    with holder(uri, "another") as process:
        process.kill()
        process.wait()
    with Lease(Storage(uri), FOLDER, notes.append) as taken:
        taken.require()
    assert notes == ["waiting up to 3 s for a sign of the process that last worked on this run"]


def test_a_holder_that_was_taken_for_dead_stops(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(uri)
    with Lease(storage, FOLDER) as cut_off:
        # Its storage does not answer for a while: nothing is renewed.
        monkeypatch.setattr(cut_off._storage, "list", lambda _: (_ for _ in ()).throw(OSError("timed out")))
        monkeypatch.setattr(lease, "process_start", lambda _: None)
        with Lease(Storage(uri), FOLDER) as second:
            monkeypatch.delattr(cut_off._storage, "list")
            cut_off._thread.join(10)
            with pytest.raises(StageError, match="another process works on this run since"):
                cut_off.require()
            second.require()
    assert storage.list(FOLDER) == []


def test_of_many_that_follow_a_dead_holder_one_succeeds(tmp_path: pytest.TempPathFactory) -> None:
    uri = str(tmp_path)
    with holder(uri) as process:
        process.kill()
        process.wait()
    begin, end = threading.Barrier(8), threading.Barrier(8)

    def follow(_: int) -> bool:
        begin.wait()
        try:
            with Lease(Storage(uri), FOLDER):
                end.wait()
                return True
        except InputError:
            end.wait()
            return False

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(follow, range(8))) == 1


@pytest.mark.parametrize("error", [OSError("timed out"), ValueError("not JSON"), RuntimeError("a bug")])
def test_a_lease_that_was_not_renewed_for_a_while_is_renewed_again(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    notes: list[str] = []
    with Lease(storage, FOLDER, notes.append) as held:
        monkeypatch.setattr(held._storage, "list", lambda _: (_ for _ in ()).throw(error))
        wait_until(lambda: notes)
        monkeypatch.delattr(held._storage, "list")
        beat = held._read(1)["beat"]
        wait_until(lambda: held._read(1)["beat"] != beat)
        held.require()
    assert notes == [f"the lease on this run is not renewed, which is tried every 0.05 s: {error}"]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)


@pytest.mark.parametrize("content", [b"{", b"5", b'["a"]', b'{"token": "a"}'])
def test_a_damaged_lease_holds_nobody_up_for_long(storage: Storage, content: bytes) -> None:
    storage.write(f"{FOLDER}/000007.json", content)
    with Lease(storage, FOLDER):
        assert storage.list(FOLDER) == ["000008.json"]
