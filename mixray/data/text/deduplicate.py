"""Deduplication: a selection says which of the scanned documents of a pool are used.

Of equal documents the first is used; a source's documents that also stand in a target are dropped. The selection's
digest identifies the pool in all later steps. It is the sha256 of the hashes of the used documents in order, part by
part, so it is the same whenever the used text is, whatever files that came from.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixray.data.pools import Pool
from mixray.data.reading.parts import Part
from mixray.data.text import repeats
from mixray.data.text.budget import ranks
from mixray.data.text.documents import Document, read_documents
from mixray.data.text.repeats import IN_TARGET, REPEATED, Batch, Records, batch_codes, delete_marks, mark_batches
from mixray.data.text.scan import SCAN_SCHEMA, part_file
from mixray.errors import InputError, StageError
from mixray.store import Artifact, Draft, FileRecord, RunTasks, Step, Storage, encode, fingerprint
from mixray.store.tables import read_batches, read_table
from mixray.store.target_parts import hash_bytes

SCHEMA = pa.schema([SCAN_SCHEMA.field("content"), SCAN_SCHEMA.field("bytes"), ("keep", pa.bool_())])
LEFT_OUT = ("skipped_not_utf8", "skipped_empty", "filtered", "duplicates", "in_target")
"""The counts of documents that are not used, in the meta of the scan and of the selection."""
SKETCH = 512
"""How many of the smallest hashes the meta holds, for comparing pools."""


@dataclass(frozen=True)
class SelectTask:
    """Select among the documents of a batch.

    ``first_part``: the number of its first table. ``targets``: the scans whose documents are dropped. ``marks``: where
    other tasks have written what they are; None: compare them here. ``last_rank``: the highest rank that is used; None:
    all. ``with_parents``: whether the parents of documents are part of the pool's identity.
    """

    batch: Batch
    first_part: int
    targets: tuple[Artifact, ...]
    marks: tuple[Records, ...] | None
    last_rank: int | None
    with_parents: bool


@dataclass(frozen=True)
class BatchSelection:
    """A batch's tables, the COUNTED of its documents, its smallest hashes and the file that the digest is made of."""

    tables: tuple[FileRecord, ...]
    counts: Counter[str]
    sketch: list[int]
    digested: FileRecord


COUNTED = ("documents", "bytes", "duplicates", "in_target")
"""In the meta: ``documents`` and ``bytes`` (of UTF-8) are used, the others count documents that are not."""


@dataclass(frozen=True)
class Deduplicate(Step[SelectTask, BatchSelection]):
    """Which documents of a pool are used. ``targets``: the scans whose documents are dropped; none for a target.

    Files: one table a part (SCHEMA). Meta: COUNTED, ``digest`` and ``sketch``.
    """

    kind = "selection"
    pool: Pool
    scan: Artifact
    targets: tuple[Artifact, ...]
    run_tasks: RunTasks

    @property
    def id(self) -> str:
        targets = sorted({target.id for target in self.targets})
        return fingerprint({"selection": 2, "role": self.pool.role, "scan": self.scan.id, "targets": targets})

    def tasks(self, draft: Draft) -> list[SelectTask]:
        """Return a task for each batch. Where there are several, other tasks have compared all documents by then."""
        counts: list[int] = self.scan.meta["part_documents"]
        spans = _batches(counts)
        batches = [
            Batch(
                tables=tuple(self.scan.files[part_file(index)] for index in span),
                documents=sum(counts[span.start : span.stop]),
                number=number,
                count=len(spans),
                draft=draft,
            )
            for number, span in enumerate(spans)
        ]
        marks: Sequence[tuple[Records, ...] | None] = [None]
        if len(batches) > 1:
            marks = mark_batches(batches, self.targets, self.run_tasks)
        last_rank, is_target = self.scan.meta["last_rank"], self.pool.role == "target"
        return [
            SelectTask(batch, span.start, self.targets, marked, last_rank, is_target)
            for batch, span, marked in zip(batches, spans, marks, strict=True)
        ]

    @staticmethod
    def run(task: SelectTask) -> BatchSelection:
        """Write one table a part."""
        batch, storage = task.batch, task.batch.draft.storage
        codes = batch_codes(batch, task.targets, task.marks)
        counts, sketch, files, start = Counter[str](), np.empty(0, np.uint64), [], 0
        with storage.writer(batch.draft.path(f"digested-{batch.number:06d}")) as digested:
            for index, record in enumerate(batch.tables, task.first_part):
                table = read_table(storage, record)
                part_codes = codes[start : start + len(table)]
                start += len(table)
                repeated = (part_codes & REPEATED) != 0
                in_target = ~repeated & ((part_codes & IN_TARGET) != 0)
                keep = part_codes == 0
                if task.last_rank is not None:
                    keep &= ranks(table["content"]) <= np.uint64(task.last_rank)
                used = table.filter(pa.array(keep))
                digested.write(len(used).to_bytes(8, "little"))
                digested.write(hash_bytes(used["content"]).tobytes())
                if task.with_parents:
                    digested.write(hash_bytes(used["parent"].drop_null()).tobytes())
                sizes = {"documents": len(used), "bytes": pc.sum(used["bytes"]).as_py() or 0}
                counts.update({**sizes, "duplicates": int(repeated.sum()), "in_target": int(in_target.sum())})
                sketch = np.unique(np.concatenate([sketch, first_words(hash_bytes(used["content"]))]))[:SKETCH]
                selected = table.select(["content", "bytes"]).append_column("keep", pa.array(keep))
                files.append(batch.draft.write(part_file(index), encode(selected.cast(SCHEMA))))
        return BatchSelection(tuple(files), counts, sketch.tolist(), digested.record)

    def publish(self, draft: Draft, results: Sequence[BatchSelection]) -> Artifact:
        digest = hashlib.sha256()
        for result in results:
            with draft.storage.filesystem.open_input_stream(draft.storage.full(result.digested.path)) as stream:
                while block := stream.read(1 << 22):
                    digest.update(block)
            draft.storage.delete(result.digested.path)
        tables = [table for result in results for table in result.tables]
        files = {part_file(index): table for index, table in enumerate(tables)}
        delete_marks(len(results), draft)
        meta = {name: sum(result.counts[name] for result in results) for name in COUNTED}
        sketch = sorted({word for result in results for word in result.sketch})[:SKETCH]
        return draft.publish(files, {**meta, "digest": digest.hexdigest(), "sketch": sketch})

    def check(self, artifact: Artifact) -> None:
        """Raise InputError if no document is left."""
        if artifact.meta["documents"]:
            return
        counts = {**self.scan.meta, **artifact.meta, "documents": self.scan.meta["documents"]}
        raise no_documents(self.pool, counts)


def no_documents(pool: Pool, counts: Mapping[str, int]) -> InputError:
    """Return the error for a pool none of whose documents are used. ``counts``: ``documents`` read, and LEFT_OUT."""
    reasons = [f"{counts[name]} {name}" for name in LEFT_OUT if counts[name]]
    return InputError(
        f"the {pool.label} has no documents left",
        where=pool.files_key,
        got=f"{counts['documents']} documents read; {', '.join(reasons) or 'nothing was left out'}",
        wanted="at least one document of text",
    )


def selected_part(selection: Artifact, index: int) -> FileRecord:
    """Return the table of part ``index`` of a selection."""
    return selection.files[part_file(index)]


def read_selected(pool: Pool, part: Part, storage: Storage, selected: FileRecord) -> Iterator[Document]:
    """Yield the selected documents of a part. Raises StageError if the documents are not those that were scanned."""
    rows = _selected_rows(storage, selected)
    for document in read_documents(pool, part, Counter()):
        content, keep = next(rows, (b"", False))
        if content != document.content:
            raise pool_changed(pool)
        if keep:
            yield document
    if next(rows, None) is not None:
        raise pool_changed(pool)


def overlaps(selections: Mapping[str, Artifact], at_least: float) -> Iterator[tuple[str, str, float]]:
    """Yield pairs of pools and the estimated share of the smaller pool's documents that also occur in the other.

    Below the smaller of two sketches' largest hashes both sketches are complete, so the share there is an unbiased
    estimate of the share everywhere. It is exact for pools that fit into their sketches.
    """
    names = list(selections)
    for position, one in enumerate(names):
        for other in names[position + 1 :]:
            share = _shared(selections[one].meta, selections[other].meta)
            if share >= at_least:
                yield one, other, share


def first_words(hashes: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the first 8 bytes of every hash as a number, which is uniform over 0..2^64-1."""
    return np.ascontiguousarray(hashes[:, :8]).view("<u8").ravel()


def pool_changed(pool: Pool) -> StageError:
    """Return the error for a pool whose files differ from those that were scanned."""
    return StageError(
        f"the {pool.label} has changed since it was scanned",
        where=pool.files_key,
        remedy="run again once nothing writes to it; touch a file that was changed without a new time",
    )


def _batches(part_documents: Sequence[int]) -> list[range]:
    """Return ranges of parts with about BATCH_DOCUMENTS documents each, one at least."""
    starts, documents = [0], 0
    for part, count in enumerate(part_documents):
        if documents and documents + count > repeats.BATCH_DOCUMENTS:
            starts.append(part)
            documents = 0
        documents += count
    return [range(*ends) for ends in pairwise([*starts, len(part_documents)])]


def _shared(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    full = [pool["sketch"][-1] for pool in (one, other) if len(pool["sketch"]) == SKETCH]
    limit = min(full, default=2**64)
    words = [{word for word in pool["sketch"] if word <= limit} for pool in (one, other)]
    return len(words[0] & words[1]) / max(1, min(map(len, words)))


def _selected_rows(storage: Storage, selected: FileRecord) -> Iterator[tuple[bytes, bool]]:
    for batch in read_batches(storage, selected):
        yield from zip(batch.column("content").to_pylist(), batch.column("keep").to_pylist(), strict=True)
