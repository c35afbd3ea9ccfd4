"""A training run's state on the way, so that a run which died goes on where it was.

The state's file is written first and ``latest.json`` (its name, size and sha256) last; a state that does not match its
record is never used.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from dataclasses import asdict
from typing import Any, Protocol, Self

import torch

from mixray.store import Draft, Storage

log = logging.getLogger(__name__)
State = dict[str, Any]


class Checkpoint(Protocol):
    """Where a run's state is kept. ``latest`` is asked on every worker, ``save`` only on rank 0."""

    def latest(self) -> State | None: ...

    def save(self, step: int, state: State) -> None: ...


class StorageCheckpoint:
    """Keeps the newest state (tensors, numbers, strings, lists, dicts) in a folder of the storage."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self.storage, self.folder = storage, folder

    @classmethod
    def of(cls, draft: Draft) -> Self:
        """Return the checkpoint of the training that makes ``draft``: one folder per run and artifact."""
        return cls(draft.storage, f"checkpoints/{draft.kind}/{draft.id}/{draft.attempt}")

    def latest(self) -> State | None:
        """The newest whole state, on the CPU; None where there is none or where it is not what ``latest.json`` says."""
        if not self.storage.exists(self._path("latest.json")):
            return None
        try:
            record = json.loads(self.storage.read(self._path("latest.json")))
            data = self.storage.read(self._path(record["name"]))
            size, digest = record["bytes"], record["sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._distrust(str(error))
            return None
        if (len(data), hashlib.sha256(data).hexdigest()) != (size, digest):
            self._distrust(f"{record['name']} has {len(data)} bytes or a sha256 that latest.json does not know")
            return None
        state: State = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return state

    def save(self, step: int, state: State) -> None:
        """Write the state of ``step``, make it the newest, delete older ones."""
        name = f"step-{step:06d}.pt"
        buffer = io.BytesIO()
        torch.save(state, buffer)
        record = asdict(self.storage.write(self._path(name), buffer.getvalue()))
        latest = {"name": name, "bytes": record["bytes"], "sha256": record["sha256"]}
        self.storage.write(self._path("latest.json"), json.dumps(latest).encode())
        for other in self.storage.list(self.folder):
            if other.startswith("step-") and other != name:
                self.storage.delete(self._path(other))

    def delete(self) -> None:
        """Delete every saved state."""
        self.storage.delete_folder(self.folder)

    def _path(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def _distrust(self, reason: str) -> None:
        log.warning("the checkpoint in %s is damaged and not used: %s", self.storage.location(self.folder), reason)
