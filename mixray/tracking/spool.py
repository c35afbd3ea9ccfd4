"""Undelivered records, kept in the run folder: numbered segments of JSON lines, one file each.

An object store cannot append, so every segment is written once and deleted when its records have been delivered.
The random end of a name keeps two processes from writing over each other.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from mixray.store import Storage
from mixray.tracking.records import Record, dump, load

FOLDER = "tracking"


class Spool:
    """The segments of one run. ``run_folder`` is relative to the storage root."""

    def __init__(self, storage: Storage, run_folder: str) -> None:
        self._storage, self._folder = storage, f"{run_folder}/{FOLDER}"

    def segments(self) -> list[str]:
        """Names in the order in which they were written."""
        return [name for name in self._storage.list(self._folder) if name.endswith(".jsonl")]

    def write(self, records: Sequence[Record]) -> str:
        """Keep the records as the newest segment; its name. Raises OSError where the storage cannot be written."""
        names = self.segments()
        number = int(names[-1].partition("-")[0]) + 1 if names else 1
        name = f"{number:08d}-{uuid.uuid4().hex[:8]}.jsonl"
        self._storage.write(f"{self._folder}/{name}", dump(records))
        return name

    def read(self, name: str) -> list[Record]:
        """Raises FileNotFoundError where another process was faster, ValueError where the file holds no records."""
        try:
            return load(self._storage.read(f"{self._folder}/{name}"))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a record of mixray: {error}") from error

    def delete(self, name: str) -> None:
        self._storage.delete(f"{self._folder}/{name}")

    def location(self) -> str:
        return self._storage.location(self._folder)
