"""What a stream gives the training loop: rows at positions, in an order that every worker sees alike.

A stream of windows or of examples may give them bare; any other gives a ``Batch``: the arrays that the loss module is
called with, the rows' groups where something is told or weighed by group, and the rows' own weights where they have
some.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of a stream. All arrays have them as their first axis.

    inputs: of the loss module, in its order; for language models token ids, int64 (rows, window), and where not every
    token is trained on also which ones are, bool (rows, window).
    group_ids: int64 (rows,), from 0; None where rows have no groups.
    row_weights: float64 (rows,), what a row's loss is multiplied by, 1 on average over the stream (importance
    weighting); None: all 1.
    tokens_per_row: what a row counts as in budgets and curves; 1 where rows are no text.
    row_tokens: int64 (rows,), over how many tokens each row's loss is a mean. A step's loss, and that of a group, is
    then the mean over the tokens of the joint batch, not over its rows. None: the rows have equally many.
    """

    inputs: tuple[NDArray[Any], ...]
    group_ids: NDArray[np.int64] | None = None
    row_weights: NDArray[np.float64] | None = None
    tokens_per_row: int = 1
    row_tokens: NDArray[np.int64] | None = None

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


class CompletionsAlone:
    """A stream of windows that hold prompts, of which the completions are trained on: see ``data.text.completions``."""

    def __init__(self, stream: BatchStream | WindowStream) -> None:
        self._stream = stream

    def read(self, start: int, stop: int) -> Batch:
        batch = read_batch(self._stream, start, stop)
        ids, is_trained = without_marks(batch.inputs[0])
        return replace(batch, inputs=(ids, is_trained), row_tokens=is_trained[:, 1:].sum(1))


def without_marks(windows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the token ids of windows, and which of them are trained on: -1 - id is read only. (windows, window) all.

    A window's first token is never predicted, whatever its mark says."""
    is_trained = windows >= 0
    return np.where(is_trained, windows, ~windows), is_trained


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
