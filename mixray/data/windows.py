"""Random access to the windows of a tokens artifact."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mixray.store import Artifact, Storage

OPEN_SHARDS = 64


class Windows:
    """A source's windows, in the order of its documents. Picklable; files are mapped when first read.

    ``len``: how many there are. ``read(indices)`` -> int64, shape (len(indices), window), in O(1) a window.
    """

    def __init__(self, storage: Storage, artifact: Artifact) -> None:
        self.storage, self.artifact = storage, artifact
        self.window: int = artifact.meta["window"]
        shards: dict[str, int] = artifact.meta["shards"]
        self._names = sorted(shards)
        self._ends = np.cumsum([shards[name] for name in self._names], dtype=np.int64)
        self._open = lru_cache(maxsize=OPEN_SHARDS)(self._map)

    def __reduce__(self) -> tuple[type[Windows], tuple[Storage, Artifact]]:
        return Windows, (self.storage, self.artifact)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        indices = np.asarray(indices, dtype=np.int64)
        assert indices.size == 0 or (indices.min() >= 0 and indices.max() < len(self))
        result = np.empty((len(indices), self.window), dtype=np.int64)
        shards = np.searchsorted(self._ends, indices, side="right")
        for shard in np.unique(shards).tolist():
            here = np.flatnonzero(shards == shard)
            tokens = self._open(shard)
            result[here] = tokens[indices[here] - (self._ends[shard] - len(tokens))]
        return result

    def _map(self, shard: int) -> NDArray[np.unsignedinteger]:
        path = self.storage.fetch(self.artifact.files[self._names[shard]])
        return np.memmap(path, dtype=self.artifact.meta["dtype"], mode="r").reshape(-1, self.window)
