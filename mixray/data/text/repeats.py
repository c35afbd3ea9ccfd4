"""Which documents of a pool repeat an earlier one, and which stand in a target: by their hashes alone.

A document stands in a target where its hash or its parent's is the hash of one of the target's documents or of a parent
of them. So a text is recognised however either pool cuts it.

A pool of more than BATCH_DOCUMENTS is compared in two rounds, so that the memory of a task does not grow with the pool:
a task for each batch of documents sorts their hashes into buckets, and a task for each bucket compares what all batches
have put into it. As equal hashes meet in one bucket, in their order, the outcome is that of a single task.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixray.data.text.budget import ranks
from mixray.store import Artifact, Draft, FileRecord, RunTasks, Storage
from mixray.store.tables import read_table
from mixray.store.target_parts import HASH_BYTES, hash_bytes

BATCH_DOCUMENTS = 1 << 21
"""At about 200 bytes a document, a task takes 400 MB."""
KEY = np.dtype([("hash", f"V{HASH_BYTES}"), ("row", "<u4"), ("is_parent", "<u4")])
"""A hash of a document, or of its parent where that differs, and the document's row in its batch."""
MARK = np.dtype([("row", "<u4"), ("code", "u1")])
REPEATED, IN_TARGET = 1, 2
"""The codes, which add up."""

Keys = NDArray[np.void]
Marks = NDArray[np.void]


@dataclass(frozen=True)
class Records:
    """Records [start, stop) of a stored file of KEY or MARK."""

    file: FileRecord
    start: int
    stop: int

    def read(self, storage: Storage, dtype: np.dtype[np.void]) -> NDArray[np.void]:
        size = dtype.itemsize
        with storage.filesystem.open_input_file(storage.full(self.file.path)) as stream:
            return np.frombuffer(stream.read_at((self.stop - self.start) * size, self.start * size), dtype)


@dataclass(frozen=True)
class Batch:
    """The ``documents`` of consecutive tables of a scan. ``number``: which of ``count`` batches of the pool it is."""

    tables: tuple[FileRecord, ...]
    documents: int
    number: int
    count: int
    draft: Draft


@dataclass(frozen=True)
class Bucket:
    """What every batch has put into bucket ``number``, and the scans of the targets to look into."""

    batches: tuple[Records, ...]
    targets: tuple[Artifact, ...]
    number: int
    draft: Draft


def mark_batches(
    batches: Sequence[Batch], targets: tuple[Artifact, ...], run_tasks: RunTasks
) -> list[tuple[Records, ...]]:
    """Compare the documents of several batches, and return for every batch where its marks lie."""
    by_batch = run_tasks(write_keys, batches, "compare")
    buckets = [
        Bucket(sections, targets, number, batches[0].draft)
        for number, sections in enumerate(zip(*by_batch, strict=True))
    ]
    return list(zip(*run_tasks(write_marks, buckets, "compare"), strict=True))


def batch_codes(batch: Batch, targets: tuple[Artifact, ...], marks: Sequence[Records] | None) -> NDArray[np.uint8]:
    """Return the codes of a batch's documents, shape (documents,). ``marks``: where they lie; None: compare here."""
    storage = batch.draft.storage
    if marks is None:
        keys = batch_keys(batch)
        sections = [marks_of(keys, compare(keys, target_hashes(storage, targets, 0, 1)))]
    else:
        sections = [records.read(storage, MARK) for records in marks]
    codes = np.zeros(batch.documents, np.uint8)
    for section in sections:
        np.bitwise_or.at(codes, section["row"], section["code"])
    return codes


def delete_marks(batches: int, draft: Draft) -> None:
    """Delete what ``mark_batches`` has written."""
    for number in range(batches if batches > 1 else 0):
        draft.storage.delete(draft.path(_keys_file(number)))
        draft.storage.delete(draft.path(_marks_file(number)))


def write_keys(batch: Batch) -> tuple[Records, ...]:
    """Write the keys of a batch bucket by bucket, and return where each bucket's lie."""
    keys = batch_keys(batch)
    buckets = _buckets(keys, batch.count)
    keys = keys[np.argsort(buckets, kind="stable")]
    return _written(batch.draft, _keys_file(batch.number), keys, np.bincount(buckets, minlength=batch.count))


def write_marks(bucket: Bucket) -> tuple[Records, ...]:
    """Compare the keys of a bucket. Write the marks batch by batch, and return where each batch's lie."""
    storage = bucket.draft.storage
    by_batch = [records.read(storage, KEY) for records in bucket.batches]
    codes = compare(np.concatenate(by_batch), target_hashes(storage, bucket.targets, bucket.number, len(by_batch)))
    ends = np.cumsum([len(keys) for keys in by_batch])
    marks = [marks_of(keys, codes[end - len(keys) : end]) for keys, end in zip(by_batch, ends.tolist(), strict=True)]
    return _written(bucket.draft, _marks_file(bucket.number), np.concatenate(marks), np.array(list(map(len, marks))))


def batch_keys(batch: Batch) -> Keys:
    """Return the keys of a batch's documents, in their order, and of their parents."""
    keys, first = [np.zeros(0, KEY)], 0
    for record in batch.tables:
        table = read_table(batch.draft.storage, record)
        keys.append(table_keys(table, first))
        first += len(table)
    return np.concatenate(keys)


def table_keys(table: Any, first: int = 0) -> Keys:
    """Return the keys of a scan's table: of the documents, in their order, and of their parents.

    ``first``: the row of the table's first document in its batch.
    """
    cut = np.flatnonzero(table["parent"].is_valid().to_numpy())
    keys = np.zeros(len(table) + len(cut), KEY)
    keys["row"] = first + np.concatenate([np.arange(len(table)), cut])
    keys["is_parent"][len(table) :] = 1
    hashes = [hash_bytes(table["content"]), hash_bytes(table["parent"].drop_null())]
    keys["hash"] = np.concatenate(hashes).view(f"V{HASH_BYTES}").ravel()
    return keys


def target_hashes(storage: Storage, targets: Iterable[Artifact], bucket: int, buckets: int) -> Any:
    """Return the hashes of a bucket, as an Arrow array, of the documents and the parents of targets."""
    hashes = [np.zeros(0, KEY)["hash"]]
    for target in targets:
        for record in target.files.values():
            table = read_table(storage, record)
            if target.meta["last_rank"] is not None:
                table = table.filter(pa.array(ranks(table["content"]) <= target.meta["last_rank"]))
            keys = table_keys(table)
            hashes.append(keys["hash"][_buckets(keys, buckets) == bucket])
    return _arrow(np.concatenate(hashes))


def compare(keys: Keys, in_targets: Any) -> NDArray[np.uint8]:
    """Return for every key the codes that it gives its document, shape (keys,). Keys of documents are in their order.

    ``in_targets``: an Arrow array of hashes.
    """
    hashes = _arrow(keys["hash"])
    codes = np.where(pc.is_in(hashes, value_set=in_targets).to_numpy(zero_copy_only=False), IN_TARGET, 0)
    of_documents = np.flatnonzero(keys["is_parent"] == 0)
    codes[of_documents] |= np.where(first_occurrences(hashes.take(pa.array(of_documents))), 0, REPEATED)
    return codes.astype(np.uint8)


def first_occurrences(hashes: Any) -> NDArray[np.bool_]:
    """Return True for each element of an array that does not occur before it, shape (elements,)."""
    codes = hashes.dictionary_encode().indices.to_numpy()  # numbered by first appearance
    before = np.maximum.accumulate(np.concatenate([[-1], codes]))[:-1]
    return np.asarray(codes > before)


def marks_of(keys: Keys, codes: NDArray[np.uint8]) -> Marks:
    """Return the rows that have a code, with it; a row may occur twice."""
    marked = np.flatnonzero(codes)
    marks = np.zeros(len(marked), MARK)
    marks["row"], marks["code"] = keys["row"][marked], codes[marked]
    return marks


def _keys_file(number: int) -> str:
    return f"keys-{number:06d}"


def _marks_file(number: int) -> str:
    return f"marks-{number:06d}"


def _buckets(keys: Keys, count: int) -> NDArray[np.intp]:
    words = np.ascontiguousarray(keys["hash"]).view("<u8")[::2]
    return (words % np.uint64(count)).astype(np.intp)


def _arrow(hashes: NDArray[np.void]) -> Any:
    data = pa.py_buffer(np.ascontiguousarray(hashes).tobytes())
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(HASH_BYTES), len(hashes), [None, data])


def _written(draft: Draft, name: str, records: NDArray[np.void], counts: NDArray[np.intp]) -> tuple[Records, ...]:
    """Write records as one file, and return where each section lies. ``counts``: of the records of every section."""
    file = draft.write(name, records.tobytes())
    ends = np.cumsum(counts).tolist()
    return tuple(Records(file, end - count, end) for count, end in zip(counts.tolist(), ends, strict=True))
