"""The selection: which documents of a pool are kept, and the digest that is the pool's identity from here on.

Of equal documents the first stays; a source's documents that also stand in a target are dropped. The digest is the
sha256 of the kept hashes in order, part by part: the same whenever the kept text is, whatever files it came from.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixray.data.pools import Pool
from mixray.data.reading.parts import Part
from mixray.data.tables import read_batches, read_table, write_rows
from mixray.data.text.documents import HASH_BYTES, Document, read_documents
from mixray.data.text.scan import part_file
from mixray.errors import InputError, StageError
from mixray.store import Artifact, Draft, FileRecord, Storage, fingerprint

KIND = "selection"
SCHEMA = pa.schema([("content", pa.binary(HASH_BYTES)), ("bytes", pa.int64()), ("keep", pa.bool_())])
SKETCH = 512
"""Hashes kept in the meta for comparing pools: the smallest ones."""


@dataclass(frozen=True)
class SelectTask:
    scan: Artifact
    targets: tuple[Artifact, ...]
    draft: Draft


@dataclass(frozen=True)
class Selected:
    files: dict[str, FileRecord]
    meta: dict[str, Any]


def selection_id(scan: Artifact, targets: Sequence[Artifact]) -> str:
    """``targets``: the scans whose documents are dropped; none for a target itself."""
    return fingerprint({"selection": 1, "scan": scan.id, "targets": sorted({target.id for target in targets})})


def select(task: SelectTask) -> Selected:
    """Write one table a part (SCHEMA). Memory: about 60 bytes a document of the pool, 40 a document of the targets."""
    storage = task.draft.storage
    names = [part_file(index) for index in range(task.scan.meta["parts"])]
    tables = [read_table(storage, task.scan.files[name]) for name in names]
    contents = _contents(tables)
    first = first_occurrences(contents)
    in_target = first & _in_targets(contents, storage, task.targets)
    keep = first & ~in_target
    files, ends = {}, np.cumsum([table.num_rows for table in tables])
    digest, kept_bytes = hashlib.sha256(), 0
    for name, table, end in zip(names, tables, ends.tolist(), strict=True):
        mask = keep[end - table.num_rows : end]
        kept = table.filter(pa.array(mask))
        digest.update(len(kept).to_bytes(8, "little"))
        digest.update(hash_bytes(kept["content"]).tobytes())
        kept_bytes += pc.sum(kept["bytes"]).as_py() or 0
        rows = zip(table["content"].to_pylist(), table["bytes"].to_pylist(), mask.tolist(), strict=True)
        files[name] = write_rows(task.draft, name, SCHEMA, rows)
    meta = {
        "documents": int(keep.sum()),
        "bytes": kept_bytes,
        "duplicates": int((~first).sum()),
        "in_target": int(in_target.sum()),
        "digest": digest.hexdigest(),
        "sketch": _sketch(hash_bytes(contents)[keep]),
        "parts": len(names),
    }
    return Selected(files, meta)


def publish_selection(draft: Draft, _: Sequence[SelectTask], results: Sequence[Selected]) -> Artifact:
    """``meta``: documents, bytes (kept), duplicates, in_target, digest, sketch, parts."""
    return draft.publish(results[0].files, results[0].meta)


def part_of(selection: Artifact, index: int) -> FileRecord:
    return selection.files[part_file(index)]


def check_selection(pool: Pool, scan: Artifact, selection: Artifact) -> None:
    """Raise InputError if nothing is left."""
    if selection.meta["documents"]:
        return
    found = {**scan.meta, **{name: selection.meta[name] for name in ("duplicates", "in_target")}}
    reasons = [f"{found[name]} {name}" for name in REASONS if found[name]]
    raise InputError(
        f"the {pool.label} has no documents left",
        where=pool.files_key,
        got=f"{found['documents']} documents read; {', '.join(reasons) or 'nothing was left out'}",
        wanted="at least one document of text",
    )


REASONS = ("skipped_not_utf8", "skipped_empty", "filtered", "duplicates", "in_target")


def read_kept(pool: Pool, part: Part, storage: Storage, selected: FileRecord) -> Iterator[Document]:
    """The kept documents of a part. Raises StageError if they are not those that were scanned."""
    rows = _selected_rows(storage, selected)
    for document in read_documents(pool, part, Counter()):
        content, keep = next(rows, (b"", False))
        if content != document.content:
            raise changed(pool)
        if keep:
            yield document
    if next(rows, None) is not None:
        raise changed(pool)


def overlaps(selections: Mapping[str, Artifact], at_least: float) -> Iterator[tuple[str, str, float]]:
    """Pairs of pools and the estimated share of the smaller one's documents that also stand in the other.

    From the sketches: below the smaller of two sketches' largest hashes both are complete, so the share there is an
    unbiased sample of the share everywhere; it is exact for pools that fit into their sketches.
    """
    names = list(selections)
    for position, one in enumerate(names):
        for other in names[position + 1 :]:
            share = _shared(selections[one].meta, selections[other].meta)
            if share >= at_least:
                yield one, other, share


def hash_bytes(contents: Any) -> NDArray[np.uint8]:
    """(documents, 16) bytes of a column of hashes."""
    column = contents.combine_chunks() if isinstance(contents, pa.ChunkedArray) else contents
    raw = np.frombuffer(column.buffers()[1] or b"", np.uint8).reshape(-1, HASH_BYTES)
    return raw[column.offset : column.offset + len(column)]


def first_occurrences(contents: Any) -> NDArray[np.bool_]:
    """Which elements of a column were not there before."""
    codes = contents.dictionary_encode().indices.to_numpy()  # numbered by first appearance
    before = np.maximum.accumulate(np.concatenate([[-1], codes]))[:-1]
    return np.asarray(codes > before)


def _contents(tables: Sequence[Any]) -> Any:
    chunks = [chunk for table in tables for chunk in table["content"].chunks]
    return pa.concat_arrays(chunks) if chunks else pa.array([], SCHEMA.field("content").type)


def _in_targets(contents: Any, storage: Storage, targets: Sequence[Artifact]) -> NDArray[np.bool_]:
    tables = [read_table(storage, record) for target in targets for record in target.files.values()]
    return np.asarray(pc.is_in(contents, value_set=_contents(tables)).to_numpy(zero_copy_only=False), dtype=bool)


def _sketch(kept: NDArray[np.uint8]) -> list[int]:
    return sorted(np.unique(first_words(kept)).tolist())[:SKETCH]


def first_words(hashes: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The first 8 bytes of every hash as a number: uniform over 0..2^64-1."""
    return np.ascontiguousarray(hashes[:, :8]).view("<u8").ravel()


def _shared(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    full = [pool["sketch"][-1] for pool in (one, other) if len(pool["sketch"]) == SKETCH]
    limit = min(full, default=2**64)
    seen = [{word for word in pool["sketch"] if word <= limit} for pool in (one, other)]
    return len(seen[0] & seen[1]) / max(1, min(map(len, seen)))


def _selected_rows(storage: Storage, selected: FileRecord) -> Iterator[tuple[bytes, bool]]:
    for batch in read_batches(storage, selected):
        yield from zip(batch.column("content").to_pylist(), batch.column("keep").to_pylist(), strict=True)


def changed(pool: Pool) -> StageError:
    """For what is not as it was when it was scanned."""
    return StageError(
        f"the {pool.label} has changed since it was scanned",
        where=pool.files_key,
        remedy="run again once nothing writes to it; touch a file that was changed without a new time",
    )
