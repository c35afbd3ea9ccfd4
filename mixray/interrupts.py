"""Ctrl-C: the stage that it interrupts is named, and the command ends within seconds whatever it waits for.

At the first Ctrl-C the run ends in order: its state is stored, MLflow hears of it, the local cluster stops. On a busy
machine that can take long, and so can Python's own end, which waits for threads. So a thread watches the time. What is
finished is stored already, and killing a run loses nothing else.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from mixray.errors import Interrupted

EXIT_CODE = 130
SECONDS_TO_END = 7.0
"""From Ctrl-C to the end of the process, at most; a second Ctrl-C ends it at once."""

SHOW_CURSOR = "\x1b[?25h"
"""Bars hide the cursor of a terminal."""

Process = tuple[int, str]
"""A process by its id and when it started: ids are used again."""

_stages: list[str] = []
"""The stages that are working, the innermost last."""
_started: set[Process] = set()
"""What this process had started when it was interrupted. Some of it has lost its parent by the end."""


@contextmanager
def working_on(stage: str) -> Iterator[None]:
    """Name the stage that an interrupt meets. Raises Interrupted in place of KeyboardInterrupt."""
    _stages.append(stage)
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt as error:
        raise Interrupted(stage) from error
    finally:
        _stages.pop()


@contextmanager
def ending_soon_after_interrupts() -> Iterator[None]:
    """End the process at the latest SECONDS_TO_END after Ctrl-C, with the processes that it has started.

    To be called by the main thread of a program, not of a library.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    # Unlike a handler in Python, this works while the main thread is inside C code.
    previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=_watch, args=(reader,), name="mixray-interrupts", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        writer.close()
        thread.join()
        reader.close()


def end_at_once(message: str = "") -> NoReturn:
    """End the process as interrupted, without waiting for threads, and with the processes that it has started."""
    # Whoever reads the output may have ended: Ctrl-C also ends the tee in ``mixray run FILE 2>&1 | tee LOG``.
    with suppress(OSError):
        if sys.stderr.isatty():
            sys.stderr.write(SHOW_CURSOR)
        if message:
            sys.stderr.write(f"mixray: {message}\n")
        sys.stderr.flush()
    with suppress(OSError):
        sys.stdout.flush()
    _kill(_started | _descendants(os.getpid()))
    os._exit(EXIT_CODE)


def _watch(signals: socket.socket) -> None:
    if not _next_interrupt(signals):
        return
    stage = _stages[-1] if _stages else None
    _started.update(_descendants(os.getpid()))
    signals.settimeout(SECONDS_TO_END)
    with suppress(TimeoutError):
        if not _next_interrupt(signals):
            return
    end_at_once(str(Interrupted(stage)) if stage else "interrupted; the same command continues")


def _next_interrupt(signals: socket.socket) -> bool:
    """Wait for the next Ctrl-C; return False where the other end was closed."""
    while numbers := signals.recv(1):
        if numbers[0] == signal.SIGINT:
            return True
    return False


def _descendants(parent: int) -> set[Process]:
    """Return the processes that one has started, and those that they have; none on a system without ``/proc``."""
    children: dict[int, list[Process]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        if (status := _status(int(folder.name))) is not None:
            children.setdefault(int(status[1]), []).append((int(folder.name), status[19]))
    descendants, waiting = set[Process](), [parent]
    while waiting:
        for child in children.get(waiting.pop(), []):
            descendants.add(child)
            waiting.append(child[0])
    return descendants


def _kill(processes: set[Process]) -> None:
    for number, started in processes:
        status = _status(number)
        if status is not None and status[19] == started:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


def _status(process: int) -> list[str] | None:
    """Return the fields of ``/proc/ID/stat`` behind the name: state, parent, ..., the start time as the twentieth."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
