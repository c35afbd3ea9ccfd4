"""Progress for the person watching, on stderr: bars on a terminal, one line for each event elsewhere.

A line reads ``[proxies] python 40 % loss 6.21 5,012 tokens/s``: the stage, the key, how far it is, facts. Results go to
stdout and are not this module's business.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

Fact = float | int | str
LINE_SECONDS, LINE_SHARE = 10.0, 0.25
"""Elsewhere than on a terminal a key gets a line this often, or after this share of its work."""
SECONDS_NAMED = 1.0
"""A stage that took less does not say how long it took."""
FEW_UNITS = 20
"""The first of so few units, such as files, was worked on from the stage's begin; a training record was not."""


class Stage(Protocol):
    """One stage of the run, while it works."""

    def update(self, key: str, done: float, total: float, **facts: Fact) -> None:
        """``key`` has done ``done`` of ``total``. Facts are printed by name; ``tokens_per_second`` as ``tokens/s``."""

    def expect(self, total: int) -> None:
        """``total`` keys are expected: fewer than the stage began with, where results of some exist."""

    def note(self, text: str) -> None:
        """Something worth a line, such as ``python cached``."""


class Progress(Protocol):
    """Where the stages of a run are shown. Safe to call from several threads."""

    def stage(self, name: str, total: int | None = None) -> AbstractContextManager[Stage]:
        """``with progress.stage("proxies", total=7) as stage``: ``total`` keys are expected."""

    def note(self, text: str) -> None:
        """Show a line that belongs to no stage."""

    def warn(self, message: str) -> None:
        """A warning, with the line it deserves."""


def open_progress(stream: TextIO | None = None) -> Progress:
    """Bars where ``stream`` (stderr by default) is a terminal, else lines."""
    stream = stream if stream is not None else _own_stderr()
    return BarProgress(Console(file=stream)) if stream.isatty() else LineProgress(stream)


def _own_stderr() -> TextIO:
    """Return stderr under a file descriptor of its own, where what others write to descriptor 2 can be kept away."""
    stream = sys.stderr
    try:
        is_standard = stream.fileno() == 2
    except (OSError, ValueError):  # a notebook's, or one in memory
        return stream
    if not is_standard:
        return stream
    return os.fdopen(os.dup(2), "w", buffering=1, encoding=stream.encoding, errors=stream.errors)


def describe(facts: dict[str, Fact]) -> str:
    """``{"loss": 6.2134, "tokens_per_second": 5012.4}`` as ``loss 6.213 5,012 tokens/s``."""
    parts = []
    for name, value in facts.items():
        what, rate, _ = name.partition("_per_second")
        if rate and not isinstance(value, str):
            parts.append(f"{value:,.0f} {what}/s")
        else:
            parts.append(f"{name.replace('_', ' ')} {_number(value)}")
    return " ".join(parts)


def duration_text(seconds: float | None) -> str:
    """Write a duration with two digits or more in the unit that suits it: ``25 s``, ``3.2 min``, ``5.1 h``."""
    if seconds is None:
        return "unknown"
    for unit, size in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def _number(value: Fact) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


class TimeLeft:
    """Estimates how much longer a stage takes: as long for each key that is left as for what has been done of others.

    ``total``: how many keys are expected, None where it is unknown; ``now``: when the stage began, in seconds.
    """

    def __init__(self, total: int | None, now: float) -> None:
        self.total = total
        self._since = now
        self._shares: dict[str, float] = {}
        self._done = 0.0

    def update(self, key: str, done: float, total: float, now: float) -> str:
        """Record how far a key is. Return ``3.2 min left``, or nothing where that is not known or the stage is at its
        end."""
        share = min(1.0, done / total) if total else 1.0
        if key in self._shares:
            self._done += max(0.0, share - self._shares[key])
        elif done == 1 and total <= FEW_UNITS:
            self._done += share
        elif self._done == 0:  # models load before the first record, and resumed training has done a part long ago
            self._since = now
        self._shares[key] = share
        left = max(self.total or 0, len(self._shares)) - sum(self._shares.values())
        seconds = now - self._since
        if left <= 0 or self._done <= 0 or seconds < SECONDS_NAMED:
            return ""
        return f"{duration_text(seconds / self._done * left)} left"


# ------------------------------------------------------------------------------------------------------------- lines


class LineProgress:
    """One flushed line for each event. ``clock``: seconds."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock, self._lock = stream, clock, threading.Lock()

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        began = self._clock()
        self._print(f"[{name}] begins" + (f", {total} to do" if total is not None else ""))
        outcome = "stopped"
        try:
            yield _LineStage(name, total, self._print, self._clock)
            outcome = "done"
        finally:
            seconds = self._clock() - began
            self._print(f"[{name}] {outcome}" + (f" after {seconds:,.0f} s" if seconds >= SECONDS_NAMED else ""))

    def note(self, text: str) -> None:
        self._print(text)

    def warn(self, message: str) -> None:
        self._print(f"warning: {message}")

    def _print(self, line: str) -> None:
        with self._lock:
            self._stream.write(f"{line}\n")
            self._stream.flush()


@dataclass
class _Shown:
    share: float
    at: float


class _LineStage:
    def __init__(self, name: str, total: int | None, show: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._name, self._show, self._clock = name, show, clock
        self._time_left = TimeLeft(total, clock())
        self._shown: dict[str, _Shown] = {}
        self._lock = threading.Lock()

    def update(self, key: str, done: float, total: float, **facts: Fact) -> None:
        share = min(1.0, done / total) if total else 1.0
        with self._lock:
            time_left = self._time_left.update(key, done, total, self._clock())
            is_due = self._is_due(key, share)
        if is_due:
            parts = (f"[{self._name}] {key} {share:.0%}".replace("%", " %"), describe(facts), time_left)
            self._show(" ".join(part for part in parts if part))

    def expect(self, total: int) -> None:
        self._time_left.total = total

    def note(self, text: str) -> None:
        self._show(f"[{self._name}] {text}")

    def _is_due(self, key: str, share: float) -> bool:
        """At first, at the end (once), and on the way after LINE_SECONDS or LINE_SHARE."""
        last, at = self._shown.get(key), self._clock()
        due = (
            last is None
            or share < last.share  # begun again, after a restart
            or (share == 1.0 and last.share < 1.0)
            or (share > last.share and (at - last.at >= LINE_SECONDS or share - last.share >= LINE_SHARE))
        )
        if due:
            self._shown[key] = _Shown(share, at)
        return due


# -------------------------------------------------------------------------------------------------------------- bars


class BarProgress:
    """Bars of the stage that is working; when it ends one line remains."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[facts]}", style="dim"),
            TextColumn("{task.fields[left]}"),
        )
        began, outcome = time.monotonic(), "stopped"
        with RichProgress(*columns, console=self._console, transient=True, refresh_per_second=4) as bars:
            overall = bars.add_task(f"[bold]{escape(name)}", total=total, facts="", left="")
            stage = _BarStage(bars, overall, self._console, name, total)
            try:
                yield stage
                outcome = "done"
            finally:
                seconds = time.monotonic() - began
                took = f" after {seconds:,.0f} s" if seconds >= SECONDS_NAMED else ""
                bars.console.print(f"[bold]{escape(name)}[/bold] {outcome}{took}", highlight=False)

    def note(self, text: str) -> None:
        self._console.print(escape(text), highlight=False)

    def warn(self, message: str) -> None:
        self._console.print(f"[yellow]warning:[/yellow] {escape(message)}", highlight=False)


class _BarStage:
    def __init__(self, bars: RichProgress, overall: TaskID, console: Console, name: str, total: int | None) -> None:
        self._bars, self._overall, self._console, self._name, self._total = bars, overall, console, name, total
        self._time_left = TimeLeft(total, time.monotonic())
        self._tasks: dict[str, TaskID] = {}
        self._shares: dict[str, float] = {}
        self._lock = threading.Lock()

    def update(self, key: str, done: float, total: float, **facts: Fact) -> None:
        with self._lock:
            if key not in self._tasks:
                self._tasks[key] = self._bars.add_task(f"  {escape(key)}", total=1.0, facts="", left="")
            self._shares[key] = min(1.0, done / total) if total else 1.0
            task, share = self._tasks[key], self._shares[key]
            self._bars.update(task, completed=share, facts=escape(describe(facts)), visible=share < 1.0)
            left = self._time_left.update(key, done, total, time.monotonic())
            self._bars.update(self._overall, completed=sum(self._shares.values()), facts=self._count(), left=left)

    def expect(self, total: int) -> None:
        with self._lock:
            self._total = self._time_left.total = total
            self._bars.update(self._overall, total=total)

    def note(self, text: str) -> None:
        self._console.print(f"[bold]{escape(self._name)}[/bold] {escape(text)}", highlight=False)

    def _count(self) -> str:
        ended = sum(share == 1.0 for share in self._shares.values())
        return f"{ended} of {self._total}" if self._total is not None else ""


# ------------------------------------------------------------------------------------------------------------ silence


class SilentProgress:
    """Shows nothing, for library use; warnings go to the ``mixray`` logger."""

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        yield _SilentStage()

    def note(self, text: str) -> None:
        pass

    def warn(self, message: str) -> None:
        logging.getLogger("mixray").warning(message)


class _SilentStage:
    def update(self, key: str, done: float, total: float, **facts: Fact) -> None:
        pass

    def expect(self, total: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass
