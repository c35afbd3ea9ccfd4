"""A training run's state on the way, so that a run which died goes on where it was.

A state's file is written first and ``latest.json`` (names, sizes and sha256 of the last two states) after it. A state
that does not match its record is never used, and a storage that cannot be read is never taken for an empty one.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol, Self, TypeVar

import torch

from mixray.errors import StageError, first_line
from mixray.store import Draft, FileRecord, Storage

log = logging.getLogger(__name__)
T = TypeVar("T")
State = dict[str, Any]
"""Name -> tensor, number, string, list or dictionary of these: what ``torch.save`` writes and torch's objects take."""

STATES_KEPT = 2
"""The newest, and the one before it for when the newest is damaged."""
READS, WAIT_SECONDS = 3, 1.0
"""How often a read is tried, and the wait before the second try; it doubles with every further one."""


class Checkpoint(Protocol):
    """Where a run's state is kept. Only rank 0 calls it."""

    def latest(self) -> State | None: ...

    def save(self, step: int, state: State) -> None: ...


class StorageCheckpoint:
    """Keeps the last two states (tensors, numbers, strings, lists, dicts) in a folder of the storage."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self.storage, self.folder = storage, folder
        self._records: list[FileRecord] = []

    @classmethod
    def of(cls, draft: Draft) -> Self:
        """Return the checkpoint of the training that makes ``draft``: one folder per run and artifact."""
        return cls(draft.storage, f"checkpoints/{draft.kind}/{draft.id}/{draft.attempt}")

    def latest(self) -> State | None:
        """Return the newest undamaged state, on the CPU; None where there is none.

        Damaged states are passed over with a warning. Raises StageError where the storage cannot be read.
        """
        self._records = self._saved()
        while self._records:
            record = self._records[0]
            data = self._tried(self.storage.read, record.path)
            if data is not None and hashlib.sha256(data).hexdigest() == record.sha256:
                state: State = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
                return state
            size = "is missing" if data is None else f"has {len(data)} of {record.bytes} bytes, or other content"
            self._distrust(f"{record.path} {size}")
            del self._records[0]  # or the next save would keep it in place of a good one
        return None

    def save(self, step: int, state: State) -> None:
        """Write the state of ``step``, make it the newest, and delete all but the one before it."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        written = self.storage.write(self._path(f"step-{step:06d}.pt"), buffer.getvalue())
        others = [record for record in self._records if record.path != written.path]
        self._records = [written, *others][:STATES_KEPT]
        content = json.dumps([asdict(record) for record in self._records])
        self.storage.write(self._path("latest.json"), content.encode())
        recorded = {record.path for record in self._records}
        for name in self.storage.list(self.folder):
            if name.startswith("step-") and self._path(name) not in recorded:
                self.storage.delete(self._path(name))

    def delete(self) -> None:
        """Delete every saved state."""
        self.storage.delete_folder(self.folder)

    def _saved(self) -> list[FileRecord]:
        """Return the records in ``latest.json``, the newest first; none where nothing was saved or it is damaged."""
        if not self._tried(self.storage.list, self.folder):
            return []
        data = self._tried(self.storage.read, self._path("latest.json"))
        if data is None:  # the first save was cut off before its record
            return []
        try:
            return [FileRecord(record["path"], record["bytes"], record["sha256"]) for record in json.loads(data)]
        except (ValueError, KeyError, TypeError) as error:
            self._distrust(f"latest.json: {error}")
            return []

    def _tried(self, read: Callable[[str], T], path: str) -> T | None:
        """Return what ``read`` returns of a file or a folder; None where it is missing.

        What is missing is asked for again too: stores can lag. Raises StageError where the storage cannot be read.
        """
        for attempt in range(1, READS + 1):
            try:
                return read(path)
            except OSError as error:
                if attempt < READS:
                    time.sleep(WAIT_SECONDS * 2 ** (attempt - 1))
                elif not isinstance(error, FileNotFoundError):
                    raise StageError(
                        "a checkpoint cannot be read",
                        where=self.storage.location(path),
                        got=f"{first_line(error)} ({READS} times)",
                        remedy="run again when the storage answers: training goes on from this checkpoint",
                    ) from error
        return None

    def _path(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def _distrust(self, reason: str) -> None:
        log.warning("a checkpoint in %s is damaged and not used: %s", self.storage.location(self.folder), reason)
