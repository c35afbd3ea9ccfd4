"""What a stream gives the training loop: rows at positions, in an order that every worker sees alike.

A stream of windows or of examples may give them bare; any other gives a ``Batch``: the arrays that the loss module is
called with, the rows' groups where something is told or weighed by group, and the rows' own weights where they have
some.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of a stream. All arrays have them as their first axis.

    inputs: of the loss module, in its order; for language models token ids, int64 (rows, window), alone.
    group_ids: int64 (rows,), from 0; None where rows have no groups.
    row_weights: float64 (rows,), what a row's loss is multiplied by, 1 on average over the stream (importance
    weighting); None: all 1.
    tokens_per_row: what a row counts as in budgets and curves; 1 where rows are no text.
    """

    inputs: tuple[NDArray[Any], ...]
    group_ids: NDArray[np.int64] | None = None
    row_weights: NDArray[np.float64] | None = None
    tokens_per_row: int = 1

    def __len__(self) -> int:
        return len(self.inputs[0])


class WindowStream(Protocol):
    """Training windows (or other rows) in a fixed order."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return those at positions [start, stop): token ids, int64 (windows, window), or records (rows,)."""
        ...


class SourcedStream(Protocol):
    """Training windows that come from sources."""

    def read_with_sources(self, start: int, stop: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return windows as a ``WindowStream`` does, and the number of each one's source, int64 (windows,)."""
        ...


class BatchStream(Protocol):
    """Training rows in a fixed order."""

    def read(self, start: int, stop: int) -> Batch:
        """Return the rows at positions [start, stop)."""
        ...


class ColumnAsGroups:
    """A stream of examples whose groups are those of their records that occur: ``present``, int64 (groups,)."""

    def __init__(self, stream: WindowStream, present: NDArray[np.int64]) -> None:
        self._stream, self._present = stream, present

    def read(self, start: int, stop: int) -> Batch:
        records = self._stream.read(start, stop)
        return row_batch(records, np.searchsorted(self._present, records["group"]))


class SourcesAsGroups:
    """A stream of windows whose groups are their sources."""

    def __init__(self, stream: SourcedStream) -> None:
        self._stream = stream

    def read(self, start: int, stop: int) -> Batch:
        return row_batch(*self._stream.read_with_sources(start, stop))


def read_batch(stream: BatchStream | WindowStream, start: int, stop: int) -> Batch:
    """Return the rows at positions [start, stop), whatever kind of stream it is."""
    rows = stream.read(start, stop)
    return rows if isinstance(rows, Batch) else row_batch(rows)


def row_batch(rows: NDArray[Any], group_ids: NDArray[np.int64] | None = None) -> Batch:
    """Return rows as a batch: windows of token ids (rows, window), or records (rows,) of features and label."""
    if rows.dtype.names:
        # Torch takes no columns whose stride is not a multiple of their item's size.
        features, labels = (np.ascontiguousarray(rows[name]) for name in ("features", "label"))
        return Batch((features, labels), group_ids)
    return Batch((rows,), group_ids, tokens_per_row=rows.shape[1])
