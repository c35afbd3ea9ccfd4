"""Rows of a convex problem that can be read by their numbers, and those in a ``.npy`` file.

A description of rows is small and picklable: any process that has it reads any range of the rows from storage. The
number of a row depends on what is stored alone. ``cache_rows.py`` describes the rows of a prediction cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from mixray.errors import InputError
from mixray.store import Storage

CHUNK_BYTES = 2**20
Chunk = tuple[NDArray[np.floating], NDArray[np.float64], NDArray[np.int64] | None, NDArray[np.float64] | None]
"""Consecutive rows: log-probabilities ``(rows, sources)`` in nats; and, ``(rows,)``, row weights, the number of each
row's parent, None where every row is one, and row weight times tokens, None where that is the same for all."""


class RowRanges(Protocol):
    """Rows that can be read by their numbers."""

    @property
    def rows(self) -> int: ...

    @property
    def sources(self) -> int: ...

    @property
    def parents(self) -> int:
        """The number of documents that were read, those that were cut counting once: what a bootstrap draws."""
        ...

    def limited(self, start: int, stop: int) -> RowRanges:
        """Return a description of these rows alone, no larger than necessary."""
        ...

    def read(self, start: int, stop: int) -> Iterator[Chunk]:
        """Yield the rows [start, stop) in order, a few at a time. Raises InputError naming the file."""
        ...


@dataclass(frozen=True)
class NpyArray:
    """An array in a ``.npy`` file, as its header describes it. ``offset``: the byte at which the numbers begin."""

    storage: Storage
    path: str
    shape: tuple[int, ...]
    dtype: str
    offset: int

    @classmethod
    def open(cls, uri: str, axes: Sequence[str]) -> NpyArray:
        """Read the header. ``uri``: a path or anything that a storage may be; ``axes``: their names. Raises InputError
        for a file that is not such an array."""
        base, mark, options = uri.partition("?") if "://" in uri else (str(Path(uri).absolute()), "", "")
        folder, _, path = base.rpartition("/")
        storage = Storage(f"{folder or '/'}{mark}{options}")
        try:
            with storage.filesystem.open_input_file(storage.full(path)) as file:
                version = npy.read_magic(file)
                header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, by_columns, dtype = header(file)
                offset, size = file.tell(), file.size()
        except (OSError, ValueError) as error:
            raise _unreadable(storage, path, str(error)) from error
        expected = f"({', '.join(axes)}), float32 or float64, row by row"
        if len(shape) != len(axes) or 0 in shape or dtype.kind != "f" or dtype.itemsize < 4 or by_columns:
            order = ", column by column" if by_columns else ""
            got = f"shape {shape}, {dtype}{order}"
            raise InputError("a .npy file holds another table", where=storage.location(path), got=got, wanted=expected)
        whole = offset + int(np.prod(shape)) * dtype.itemsize
        if size != whole:
            raise _unreadable(storage, path, f"{size} bytes", f"{whole} bytes, as its header says")
        return cls(storage, path, shape, dtype.str, offset)

    def read(self, start: int, stop: int) -> Iterator[NDArray[np.floating]]:
        """Yield the rows, about ``CHUNK_BYTES`` at a time."""
        dtype = np.dtype(self.dtype)
        row_bytes = dtype.itemsize * int(np.prod(self.shape[1:]))
        step = max(1, CHUNK_BYTES // row_bytes)
        try:
            with self.storage.filesystem.open_input_file(self.storage.full(self.path)) as file:
                for first in range(start, stop, step):
                    count = min(step, stop - first)
                    data = file.read_at(count * row_bytes, self.offset + first * row_bytes)
                    if len(data) != count * row_bytes:
                        raise _unreadable(self.storage, self.path, "its end came early", f"{self.shape[0]} rows")
                    yield np.frombuffer(data, dtype).reshape(count, *self.shape[1:])
        except OSError as error:
            raise _unreadable(self.storage, self.path, str(error)) from error


@dataclass(frozen=True)
class NpyRows:
    """The rows of ``.npy`` files.

    ``log_probs``: ``(rows, sources)``, nats. ``row_weights``: ``(rows,)``, 1/rows each when None.
    """

    log_probs: NpyArray
    row_weights: NpyArray | None

    @classmethod
    def open(cls, log_probs: str, row_weights: str | None = None) -> NpyRows:
        """Open paths or URIs of ``.npy`` files that every machine can read. Raises InputError."""
        table = NpyArray.open(log_probs, ["rows", "sources"])
        weights = None if row_weights is None else NpyArray.open(row_weights, ["rows"])
        if weights is not None and weights.shape != table.shape[:1]:
            where = weights.storage.location(weights.path)
            raise InputError(
                "row_weights: one weight per row is needed",
                where=where,
                got=f"shape {weights.shape}",
                wanted=f"{table.shape[:1]}",
            )
        return cls(table, weights)

    @property
    def rows(self) -> int:
        return self.log_probs.shape[0]

    @property
    def sources(self) -> int:
        return self.log_probs.shape[1]

    @property
    def parents(self) -> int:
        """Every row is one."""
        return self.rows

    def limited(self, start: int, stop: int) -> NpyRows:
        return self

    def read(self, start: int, stop: int) -> Iterator[Chunk]:
        for table in self.log_probs.read(start, stop):
            last = start + len(table)
            if self.row_weights is None:
                weights = np.full(len(table), 1 / self.rows)
            else:
                weights = np.concatenate(list(self.row_weights.read(start, last))).astype(np.float64)
            yield table, weights, None, None
            start = last


def _unreadable(storage: Storage, path: str, got: str, wanted: str = "a .npy file") -> InputError:
    return InputError(
        "a file of log-probabilities cannot be read", where=storage.location(path), got=got, wanted=wanted
    )
