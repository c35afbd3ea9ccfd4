"""The lease on a run: one process at a time works on it.

``<run folder>/lease/<epoch>.json`` names the holder; the highest epoch holds the lease. The holder writes its file anew
every few seconds. Another process may begin a new epoch once the holder's process is gone from this machine, or once
its file has not changed for ``EXPIRY_SECONDS`` on the other process's own clock, so clocks need not agree.

The lease saves work; it does not guard the artifacts. A holder that was cut off from the storage for a while, and so
was taken for dead, still writes under names of its own (see ``mixray.store.artifacts``).
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from mixray.errors import InputError, StageError, first_line, without_credentials
from mixray.store.storage import Storage

BEAT_SECONDS, EXPIRY_SECONDS = 5.0, 30.0
"""How often a holder renews its lease, and how long it may fail to before it is taken for dead."""


class Lease:
    """The lease that is kept in ``folder`` of a storage; held inside a ``with`` block.

    ``note``: called with a line while it has to be found out whether another holder is alive, and, from another thread,
    when the lease cannot be renewed.
    """

    def __init__(self, storage: Storage, folder: str, note: Callable[[str], None] = lambda _: None) -> None:
        self._storage, self._folder, self._note = storage, folder, note
        self._epoch = 0
        self._holder = {
            "token": uuid.uuid4().hex,
            "host": platform.node(),
            "machine": _machine(),
            "process": os.getpid(),
            "process_started": process_start(os.getpid()),
            "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        }
        self._is_lost = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="mixray-lease", daemon=True)

    def __enter__(self) -> Self:
        """Take the lease. Raises InputError where another process holds it and is alive."""
        while not self._epoch:
            newest = self._newest()
            if newest:
                self._require_dead(newest)
            if self._storage.create(self._path(newest + 1), self._content(0)):
                self._epoch = newest + 1
        for epoch in self._epochs():
            if epoch < self._epoch:
                self._delete(epoch)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if not self._is_lost:
            # A lease that cannot be given back expires; what ended the work matters more.
            with suppress(OSError, StageError):
                self._delete(self._epoch)

    def require(self) -> None:
        """Raise StageError where another process has taken the lease over."""
        if self._is_lost:
            raise StageError(
                "another process works on this run since this one did not answer",
                where=self._storage.location(self._folder),
                wanted=f"a process that reaches the storage at least every {EXPIRY_SECONDS:.0f} s",
                remedy="wait for the other process: it goes on with what this one has stored",
            )

    def _renew(self) -> None:
        beat, has_failed = 0, False
        while not self._ended.wait(BEAT_SECONDS):
            beat += 1
            try:
                self._is_lost = self._newest() != self._epoch or self._read(self._epoch).get("token") != self._token
                if self._is_lost:
                    return
                self._storage.write(self._path(self._epoch), self._content(beat))
                has_failed = False
            except Exception as error:  # noqa: BLE001  (whatever it is, the next beat may renew the lease)
                if not has_failed:
                    reason = without_credentials(first_line(error))
                    self._note(
                        f"the lease on this run is not renewed, which is tried every {BEAT_SECONDS:g} s: {reason}"
                    )
                has_failed = True

    def _require_dead(self, epoch: int) -> None:
        """Return once the holder of an epoch is dead or has given the lease back; raise InputError once it is alive."""
        holder = self._read(epoch)
        if holder.get("machine") == self._holder["machine"]:
            if process_start(int(str(holder["process"]))) == holder["process_started"]:
                raise self._refusal(holder)
            return
        self._note(f"waiting up to {EXPIRY_SECONDS:.0f} s for a sign of the process that last worked on this run")
        expires = time.monotonic() + EXPIRY_SECONDS
        while self._newest() == epoch and time.monotonic() < expires:
            if self._read(epoch) != holder:
                raise self._refusal(holder)
            time.sleep(EXPIRY_SECONDS / 30)

    def _refusal(self, holder: Mapping[str, object]) -> InputError:
        return InputError(
            "another process works on this run",
            where=self._storage.location(self._folder.rpartition("/")[0]),
            got=f"process {holder.get('process')} on {holder.get('host')}, since {holder.get('since')}",
            wanted="one process at a time",
            remedy="wait until it has ended, or end it; one that has died is noticed at once on its own machine, and "
            f"after {EXPIRY_SECONDS:.0f} s on others",
        )

    # ---------------------------------------------------------------------------------------------------- its files

    @property
    def _token(self) -> object:
        return self._holder["token"]

    def _epochs(self) -> list[int]:
        names = [name.removesuffix(".json") for name in self._storage.list(self._folder)]
        return sorted(int(name) for name in names if name.isdecimal())

    def _newest(self) -> int:
        return max(self._epochs(), default=0)

    def _content(self, beat: int) -> bytes:
        return json.dumps({**self._holder, "beat": beat}).encode()

    def _read(self, epoch: int) -> dict[str, object]:
        """Return what an epoch's file says; nothing where it is gone or damaged."""
        with suppress(FileNotFoundError, ValueError):
            content = json.loads(self._storage.read(self._path(epoch)))
            if isinstance(content, dict) and self._holder.keys() <= content.keys():
                return content
        return {}

    def _delete(self, epoch: int) -> None:
        with suppress(FileNotFoundError):
            self._storage.delete(self._path(epoch))

    def _path(self, epoch: int) -> str:
        return f"{self._folder}/{epoch:06d}.json"


def _machine() -> str:
    """Return what two processes share if and only if one can see the other: boot, process namespace and host."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()}/{boot}/{os.readlink('/proc/self/ns/pid')}"
    return uuid.uuid4().hex  # no such system files: only silence can tell


def process_start(process: int) -> str | None:
    """Return when a process of this machine started, in ticks since the boot; None where it does not run."""
    try:
        status = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if status[0] == "Z" else status[19]
