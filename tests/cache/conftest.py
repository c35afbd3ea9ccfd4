"""Caches made by hand: rows and columns as artifacts in a local storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mixray.cache import PredictionCache
from mixray.store import Artifact, Artifacts, Storage, encode

Key = int | tuple[int, int]
"""A document: its number, or its parent's number and its own."""
Row = tuple[Key, int, Any]
"""Document, window, and what the table says of it."""


def document_id(key: Key) -> bytes:
    """16 bytes that sort as the keys do; some end in zeros."""
    parent, piece = (key, 0) if isinstance(key, int) else key
    return ((parent << 64) + piece).to_bytes(16, "big")


class Shelf:
    """Where tests keep rows and columns; ``files``: file name -> its rows."""

    def __init__(self, folder: Path) -> None:
        self.storage = Storage(str(folder))
        self.artifacts = Artifacts(self.storage, "run-1")

    def rows(self, files: Mapping[str, Sequence[Row]], id: str = "rows") -> Artifact:
        return self._publish("rows", id, files, lambda counts: {"count": pa.array(counts, pa.int32())})

    def column(self, id: str, files: Mapping[str, Sequence[Row]]) -> Artifact:
        return self._publish("column", id, files, lambda values: {"log_prob": pa.array(values, pa.float64())})

    def segment_column(self, id: str, files: Mapping[str, Sequence[Row]], segment: int = 1) -> Artifact:
        """A column from the log-probability of every token."""

        def columns(values: Sequence[Sequence[float]]) -> dict[str, pa.Array]:
            totals = pa.array([float(sum(row)) for row in values], pa.float64())
            sums = [[sum(row[start : start + segment]) for start in range(0, len(row), segment)] for row in values]
            return {"log_prob": totals, "segment_log_probs": pa.array(sums, pa.list_(pa.float32()))}

        return self._publish("column", id, files, columns, {"segment": segment})

    def _publish(
        self,
        kind: str,
        id: str,
        files: Mapping[str, Sequence[Row]],
        columns: Callable[[list[Any]], dict[str, pa.Array]],
        meta: Mapping[str, Any] | None = None,
    ) -> Artifact:
        draft = self.artifacts.draft(kind, id)
        records = {}
        for name, rows in files.items():
            keys = {
                "document": pa.array([document_id(row[0]) for row in rows], pa.binary(16)),
                "window": pa.array([row[1] for row in rows], pa.int32()),
            }
            records[name] = draft.write(name, encode(pa.table(keys | columns([row[2] for row in rows]))))
        return draft.publish(records, meta or {})


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@pytest.fixture
def make_cache() -> Callable[..., PredictionCache]:
    """A cache from documents (rows,), counts (rows,) and model -> log_probs (rows,)."""

    def make(documents: Sequence[Key], counts: Sequence[int], **log_probs: Sequence[float]) -> PredictionCache:
        ids, numbers = np.unique([np.void(document_id(key)) for key in documents], return_inverse=True)
        return PredictionCache(
            models=tuple(log_probs),
            documents=numbers.astype(np.int64),
            document_ids=ids,
            windows=np.arange(len(counts), dtype=np.int32),
            counts=np.array(counts, np.int64),
            log_probs=np.array(list(log_probs.values()), np.float64).T,
        )

    return make
