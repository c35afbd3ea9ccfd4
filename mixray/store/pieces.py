"""Pieces of stored files, by range: a training window is 8 kB of a file of 64 MB."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from mixray.errors import CorruptedArtifactError
from mixray.store.copies import find_copy
from mixray.store.storage import FileRecord, Storage

WORTH_A_COPY = 1 / 3
"""The share of a file that is read in pieces before it is worth a copy on this machine."""
REQUESTS_AT_ONCE = 32


class PiecedFile:
    """A stored file that is read in pieces.

    In an object store they are read by ranged requests until they amount to a third of the file. Then it is copied to
    this machine as a whole, and pieces come from the copy for as long as it is there. So, whatever is read, at most
    four times its bytes are downloaded.
    """

    def __init__(self, storage: Storage, record: FileRecord) -> None:
        self.storage, self.record = storage, record
        self._bytes_by_range = 0

    def begin(self, offsets: Sequence[int], size: int) -> list[bytes] | list[Future[bytes]]:
        """Return the ``size`` bytes at each offset, or the requests for them, which are under way."""
        path = self._path()
        if path is None:
            self._bytes_by_range += size * len(offsets)
            return [_requests().submit(self._request, offset, size) for offset in offsets]
        with path.open("rb", buffering=0) as file:
            return [os.pread(file.fileno(), size, offset) for offset in offsets]

    def _path(self) -> Path | None:
        """Return where the file or its copy lies on this machine; None where it has none yet."""
        if self.storage.is_local:  # not fetched, which would read all of it: pieces are checked by whoever reads them
            return Path(self.storage.full(self.record.path))
        if self._bytes_by_range < WORTH_A_COPY * self.record.bytes:
            return find_copy(self.record)
        self._bytes_by_range = 0  # should the copy be deleted, the next one must be worth it again
        return self.storage.fetch(self.record)

    def _request(self, offset: int, size: int) -> bytes:
        return self.storage.asked(lambda: bytes(self._remote.read_at(size, offset)), self.record.path)

    @cached_property
    def _remote(self) -> Any:
        return self.storage.filesystem.open_input_file(self.storage.full(self.record.path))


def read_pieces(places: Sequence[tuple[PiecedFile, Sequence[int]]], size: int) -> list[list[bytes]]:
    """Return, for each file and its offsets, the ``size`` bytes at each offset. All requests go out at once.

    Raises CorruptedArtifactError where a file ends before, StageError where one cannot be read.
    """
    begun = [file.begin(offsets, size) for file, offsets in places]
    pieces = [[part if isinstance(part, bytes) else part.result() for part in parts] for parts in begun]
    for (file, _), parts in zip(places, pieces, strict=True):
        if any(len(part) != size for part in parts):
            raise CorruptedArtifactError(
                "a stored file is shorter than its manifest says",
                where=file.storage.location(file.record.path),
                wanted=f"{file.record.bytes} bytes",
                remedy="run again with --rebuild to make it anew",
            )
    return pieces


@cache
def _requests() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="mixray-pieces")
