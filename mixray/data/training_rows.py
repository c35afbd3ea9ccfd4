"""Random access to a source's training rows: the windows of a tokens artifact, the records of an examples artifact."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mixray.store import Artifact, Storage

OPEN_SHARDS = 64


class TrainingRows(ABC):
    """A source's rows, in the order of its documents. They can be pickled; files are mapped when first read."""

    def __init__(self, storage: Storage, artifact: Artifact) -> None:
        self.storage, self.artifact = storage, artifact
        shards: dict[str, int] = artifact.meta["shards"]
        self._names = sorted(shards)
        self._ends = np.cumsum([shards[name] for name in self._names], dtype=np.int64)
        self._open = lru_cache(maxsize=OPEN_SHARDS)(self._map)

    def __reduce__(self) -> tuple[type[Self], tuple[Storage, Artifact]]:
        return type(self), (self.storage, self.artifact)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Return the rows at ``indices``, in O(1) a row."""
        indices = np.asarray(indices, dtype=np.int64)
        assert indices.size == 0 or (indices.min() >= 0 and indices.max() < len(self))
        result = self._empty(len(indices))
        shards = np.searchsorted(self._ends, indices, side="right")
        for shard in np.unique(shards).tolist():
            here = np.flatnonzero(shards == shard)
            rows = self._open(shard)
            result[here] = rows[indices[here] - (self._ends[shard] - len(rows))]
        return result

    @abstractmethod
    def _empty(self, rows: int) -> NDArray[Any]: ...

    @abstractmethod
    def _map(self, shard: int) -> NDArray[Any]:
        """Return all rows of a file."""


class Windows(TrainingRows):
    """Rows of token ids, int64, shape (rows, window)."""

    @property
    def window(self) -> int:
        window: int = self.artifact.meta["window"]
        return window

    def _empty(self, rows: int) -> NDArray[np.int64]:
        return np.empty((rows, self.window), dtype=np.int64)

    def _map(self, shard: int) -> NDArray[np.unsignedinteger]:
        path = self.storage.fetch(self.artifact.files[self._names[shard]])
        return np.memmap(path, dtype=self.artifact.meta["dtype"], mode="r").reshape(-1, self.window)


class ExampleRows(TrainingRows):
    """Records of features, label and group, shape (rows,); see ``mixray.data.tabular.encoder``."""

    def group_ids(self) -> NDArray[np.int64]:
        """Return the group id of every row, int64, shape (rows,)."""
        return np.concatenate([self._open(shard)["group"] for shard in range(len(self._names))])

    def _empty(self, rows: int) -> NDArray[np.void]:
        return np.empty(rows, dtype=self._open(0).dtype)

    def _map(self, shard: int) -> NDArray[np.void]:
        path = self.storage.fetch(self.artifact.files[self._names[shard]])
        records: NDArray[np.void] = np.load(path, mmap_mode="r")
        return records


def open_rows(storage: Storage, artifact: Artifact) -> TrainingRows:
    """Return a source's rows, windows or examples by the kind of its artifact."""
    return (Windows if artifact.kind == "tokens" else ExampleRows)(storage, artifact)


def group_shares(
    group_ids: Mapping[str, NDArray[np.int64]], source_shares: Mapping[str, float], groups: int
) -> NDArray[np.float64]:
    """Return the share of each group in a mixture of examples, float64, shape (groups,).

    ``group_ids``: source -> the group of each of its rows.
    """
    shares = np.zeros(groups)
    for source, share in source_shares.items():
        shares += share * np.bincount(group_ids[source], minlength=groups) / len(group_ids[source])
    return shares
