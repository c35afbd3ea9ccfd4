"""Ctrl-C ends a program that waits for something, with the processes that it has started, and names the stage."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from mixray import interrupts
from mixray.errors import Interrupted

PROGRAM = """
import subprocess, sys, threading, time
from mixray import interrupts
interrupts.SECONDS_TO_END = {seconds}
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
def wait_on():
    while True:
        try:
            print(child.pid, flush=True)
            time.sleep(1000)
        except KeyboardInterrupt:
            pass
{program}
"""
STUCK = """
with interrupts.ending_soon_after_interrupts(), interrupts.working_on("retrain"):
    wait_on()
"""
STUCK_BETWEEN_STAGES = """
with interrupts.ending_soon_after_interrupts():
    wait_on()
"""
ORDERLY = """
with interrupts.ending_soon_after_interrupts():
    threading.Thread(target=time.sleep, args=(1000,)).start()  # Python's own end would wait for it
    try:
        print(child.pid, flush=True)
        time.sleep(1000)
    except KeyboardInterrupt:
        interrupts.end_at_once("ended in order")
"""


def interrupt(program: str, *, seconds: float, times: int = 1) -> tuple[int, str, bool]:
    """Return the exit code, what the program wrote to stderr, and whether the process that it started is alive."""
    command = [sys.executable, "-c", PROGRAM.format(seconds=seconds, program=program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert interrupts._status(child) is not None
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            if times > 1:
                process.stdout.readline()
        _, messages = process.communicate(timeout=120)
    return process.returncode, messages, not has_ended(child)


def has_ended(process: int) -> bool:
    """Wait for the end of a process, for ten seconds at most."""
    for _ in range(100):
        if (status := interrupts._status(process)) is None or status[0] == "Z":
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(
    ("program", "seconds", "times", "message"),
    [
        (STUCK, 0.2, 1, "interrupted in retrain; the same command continues"),
        (STUCK, 1000, 2, "interrupted in retrain; the same command continues"),
        (STUCK_BETWEEN_STAGES, 0.2, 1, "interrupted; the same command continues"),
        (ORDERLY, 1000, 1, "ended in order"),
    ],
)
def test_an_interrupted_program_ends_with_what_it_has_started(
    program: str, seconds: float, times: int, message: str
) -> None:
    assert interrupt(program, seconds=seconds, times=times) == (130, f"mixray: {message}\n", False)


SILENT = """
with interrupts.ending_soon_after_interrupts():
    try:
        print(child.pid, flush=True)
        time.sleep(1000)
    except KeyboardInterrupt:
        time.sleep(1000)
"""


def test_a_program_whose_reader_has_ended_too_ends_all_the_same() -> None:
    command = [sys.executable, "-c", PROGRAM.format(seconds=0.2, program=SILENT)]
    # In ``mixray run FILE 2>&1 | tee LOG``, Ctrl-C ends tee.
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.stdout.close()
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(timeout=60) == 130
        finally:
            process.kill()
    assert has_ended(child)


def test_without_an_interrupt_nothing_ends_early() -> None:
    code = PROGRAM.format(
        seconds=0, program="with interrupts.ending_soon_after_interrupts(): time.sleep(0.2)\nchild.kill()"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_innermost_stage_is_named() -> None:
    with (
        pytest.raises(Interrupted, match="interrupted in inner; the same command continues"),
        interrupts.working_on("outer"),
        interrupts.working_on("inner"),
    ):
        raise KeyboardInterrupt
    assert interrupts._stages == []
