"""Random access to a source's training rows: the windows of a tokens artifact, the records of an examples artifact."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mixray.data.tabular.encoder import record_type
from mixray.data.tabular.molecules import molecule_features
from mixray.data.text.windows import checksums, window_format
from mixray.errors import CorruptedArtifactError
from mixray.store import Artifact, FileRecord, Storage
from mixray.store.pieces import PiecedFile, read_pieces
from mixray.store.target_parts import MOLECULE, MOLECULES

OPEN_FILES = 64


class TrainingRows(ABC):
    """A source's rows, in the order of its documents. They can be pickled; files are opened when first read."""

    def __init__(self, storage: Storage, artifact: Artifact) -> None:
        self.storage, self.artifact = storage, artifact
        shards: dict[str, int] = artifact.meta["shards"]
        self._names = sorted(shards)
        self._ends = np.cumsum([shards[name] for name in self._names], dtype=np.int64)

    def __reduce__(self) -> tuple[type[Self], tuple[Storage, Artifact]]:
        return type(self), (self.storage, self.artifact)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Any:
        """Return one row."""
        return self.read(np.array([index]))[0]

    @abstractmethod
    def read(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Return the rows at ``indices``, in O(1) a row."""

    def _by_file(self, indices: NDArray[np.int64]) -> list[tuple[FileRecord, NDArray[np.int64], NDArray[np.int64]]]:
        """Return each file that holds rows of these indices, the places of these in ``indices``, and their numbers
        within the file."""
        assert indices.size == 0 or (indices.min() >= 0 and indices.max() < len(self))
        shards = np.searchsorted(self._ends, indices, side="right")
        firsts = np.concatenate([[0], self._ends])
        parts = []
        for shard in np.unique(shards).tolist():
            here = np.flatnonzero(shards == shard)
            parts.append((self.artifact.files[self._names[shard]], here, indices[here] - firsts[shard]))
        return parts


class Windows(TrainingRows):
    """Rows of token ids, int64, shape (rows, window). A token of a prompt, which is read but not trained on, stands as
    -1 - id (see ``mixray.data.text.completions``)."""

    def __init__(self, storage: Storage, artifact: Artifact) -> None:
        super().__init__(storage, artifact)
        self._format = window_format(self.window, np.dtype(artifact.meta["dtype"]))
        self._file = cache(lambda record: PiecedFile(storage, record))

    @property
    def window(self) -> int:
        window: int = self.artifact.meta["window"]
        return window

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows at ``indices``: their bytes are read, and no others of a file.

        Raises CorruptedArtifactError where they are not those that were written.
        """
        parts, size = self._by_file(indices), self._format.itemsize
        pieces = read_pieces([(self._file(record), (rows * size).tolist()) for record, _, rows in parts], size)
        windows = np.empty((len(indices), self.window), dtype=np.int64)
        for (record, here, _), stored in zip(parts, pieces, strict=True):
            rows = np.frombuffer(b"".join(stored), self._format)
            if (rows["crc32"] != checksums(rows["tokens"])).any():
                raise CorruptedArtifactError(
                    "a stored window is corrupted",
                    where=self.storage.location(record.path),
                    remedy="run again with --rebuild to make it anew",
                )
            windows[here] = rows["tokens"]
        return windows


class ExampleRows(TrainingRows):
    """Records of features, label and group, shape (rows,); see ``mixray.data.tabular.encoder``.

    A record is a few bytes, so files are fetched whole. Where the inputs are molecules, records hold their numbers, and
    ``read`` puts the fingerprints in their place.
    """

    def __init__(self, storage: Storage, artifact: Artifact) -> None:
        super().__init__(storage, artifact)
        self._open = lru_cache(maxsize=OPEN_FILES)(self._map)

    @property
    def molecules(self) -> str | None:
        """The id of the artifact with the molecules' fingerprints; None where inputs are others."""
        return self.artifact.meta.get(MOLECULES)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.void]:
        records = self.read_stored(indices)
        if self.molecules is None:
            return records
        fingerprints = molecule_features(self.storage, self.molecules)
        kind = record_type(fingerprints.shape[1], label="<f8" if records.dtype["label"].kind == "f" else "<i8")
        dense = np.empty(len(indices), dtype=kind)
        dense["features"] = fingerprints[records[MOLECULE]].toarray()
        dense["label"], dense["group"] = records["label"], records["group"]
        return dense

    def read_stored(self, indices: NDArray[np.int64]) -> NDArray[np.void]:
        """Return the rows at ``indices`` as they are stored."""
        records = np.empty(len(indices), dtype=self._open(self.artifact.files[self._names[0]]).dtype)
        for record, here, rows in self._by_file(indices):
            records[here] = self._open(record)[rows]
        return records

    def group_ids(self) -> NDArray[np.int64]:
        """Return the group id of every row, int64, shape (rows,)."""
        return np.concatenate([self._open(self.artifact.files[name])["group"] for name in self._names])

    def _map(self, record: FileRecord) -> NDArray[np.void]:
        records: NDArray[np.void] = np.load(self.storage.fetch(record), mmap_mode="r")
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
