"""A training run's state on the way, so that a run which died goes on where it was.

A state that does not match the sha256 in its name is never used, and a storage that cannot be read is never taken for
an empty one.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, Self, TypeVar

import torch

from mixray.store import Draft, Storage
from mixray.store.retrying import retried

log = logging.getLogger(__name__)
T = TypeVar("T")
State = dict[str, Any]
"""Name -> tensor, number, string, list or dictionary of these: what ``torch.save`` writes and torch's objects take."""

_NAME = re.compile(r"step-[0-9]+-[0-9a-f]{64}\.pt")
STATES_KEPT = 2
"""The newest, and the one before it for when the newest is damaged."""


class Checkpoint(Protocol):
    """Where a run's state is kept. Only rank 0 calls it."""

    def latest(self) -> State | None: ...

    def save(self, step: int, state: State) -> None: ...


class StorageCheckpoint:
    """Keeps the last two states (tensors, numbers, strings, lists, dicts) in a folder of the storage.

    A state's file is named by its step and its sha256. Several runs that train the same artifact at once share the
    folder: every state in it is one of this training.
    """

    def __init__(self, storage: Storage, folder: str) -> None:
        self.storage, self.folder = storage, folder
        self._damaged: set[str] = set()

    @classmethod
    def of(cls, draft: Draft) -> Self:
        """Return the checkpoint of the training that makes ``draft``: one folder per artifact."""
        return cls(draft.storage, f"{_folder_of(draft.kind)}/{draft.id}")

    def latest(self) -> State | None:
        """Return the newest undamaged state, on the CPU; None where there is none.

        Damaged states are passed over with a warning. Raises StageError where the storage cannot be read.
        """
        for name in _newest_first(self._looked_for(self.storage.list, self.folder) or []):
            data = self._looked_for(self.storage.read, self._path(name))
            if data is not None and hashlib.sha256(data).hexdigest() == _digest(name):
                state: State = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
                return state
            log.warning(
                "a checkpoint in %s is damaged and not used: %s %s",
                self.storage.location(self.folder),
                name,
                "is missing" if data is None else f"has {len(data)} bytes of other content",
            )
            self._damaged.add(name)  # or the next save would keep it in place of a good one
        return None

    def save(self, step: int, state: State) -> None:
        """Write the state of ``step``, and delete all but the newest ones."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
        written = f"step-{step:06d}-{hashlib.sha256(data).hexdigest()}.pt"
        self.storage.write(self._path(written), data)
        stored = _newest_first(self.storage.list(self.folder))
        others = [name for name in stored if _step(name) != step and name not in self._damaged]
        kept = {written, *_newest_first([written, *others])[:STATES_KEPT]}
        for name in stored:
            if name not in kept:
                with suppress(FileNotFoundError):  # another run that trains the same has deleted it
                    self.storage.delete(self._path(name))

    def delete(self) -> None:
        """Delete every saved state."""
        self.storage.delete_folder(self.folder)

    def _looked_for(self, read: Callable[[str], T], path: str) -> T | None:
        """Return what ``read`` returns of a file or a folder; None where it is missing.

        What is missing is asked for again, too: stores can lag.
        """
        with suppress(FileNotFoundError):
            return retried(partial(read, path), log.warning, where=self.storage.location(path), lasting=())
        return None

    def _path(self, name: str) -> str:
        return f"{self.folder}/{name}"


def delete_states(drafts: Iterable[Draft]) -> None:
    """Delete the states of the trainings that have made these drafts, where a run was killed before it did so."""
    by_id = {(draft.kind, draft.id): draft for draft in drafts}
    storages = {draft.kind: draft.storage for draft in by_id.values()}
    for kind, storage in storages.items():
        for id in storage.list(_folder_of(kind)):
            if (kind, id) in by_id:
                StorageCheckpoint.of(by_id[kind, id]).delete()


def _folder_of(kind: str) -> str:
    return f"checkpoints/{kind}"


def _newest_first(names: Iterable[str]) -> list[str]:
    """Return the names of states among these, by step."""
    return sorted((name for name in names if _NAME.fullmatch(name)), key=_step, reverse=True)


def _step(name: str) -> int:
    return int(name.split("-")[1])


def _digest(name: str) -> str:
    return name.split("-")[2].removesuffix(".pt")
