"""Deduplication: a scan hashes every document of a pool, and a selection says which documents are used.

Of equal documents the first is used; a source's documents that also occur in a target are dropped. The selection's
digest identifies the pool in all later steps. It is the sha256 of the hashes of the used documents in order, part by
part, so it is the same whenever the used text is, whatever files that came from.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixray.data.pools import Pool
from mixray.data.reading.parts import Listing, Part
from mixray.data.text.documents import Document, read_documents
from mixray.errors import InputError, StageError
from mixray.store import Artifact, Draft, FileRecord, Step, Storage, fingerprint
from mixray.store.tables import read_batches, read_table, write_rows
from mixray.store.target_parts import HASH_BYTES, hash_bytes

SCAN_SCHEMA = pa.schema([("content", pa.binary(HASH_BYTES)), ("bytes", pa.int64())])
SCHEMA = pa.schema([*SCAN_SCHEMA, ("keep", pa.bool_())])
COUNTS = ("documents", "bytes", "skipped_not_utf8", "skipped_empty", "filtered", "split")
LEFT_OUT = ("skipped_not_utf8", "skipped_empty", "filtered", "duplicates", "in_target")
"""The counts of documents that are not used, in the meta of the scan and of the selection."""
SKETCH = 512
"""How many of the smallest hashes the meta holds, for comparing pools."""


@dataclass(frozen=True)
class ScanTask:
    """Scan part ``index`` of a pool."""

    pool: Pool
    part: Part
    index: int
    draft: Draft


@dataclass(frozen=True)
class Scan(Step[ScanTask, tuple[FileRecord, Counter[str]]]):
    """The hash and the size of every document of a pool, so that later steps compare documents without reading them.

    Files: one table a part (SCAN_SCHEMA). Meta: the COUNTS summed over parts, and ``parts``, the number of parts.
    """

    kind = "scan"
    listing: Listing

    @property
    def id(self) -> str:
        """Depends on how documents are read and on which files there are, not on the pool's name."""
        config = self.listing.pool.config
        names = {"text", "answer", "where", "document_chars", "max_tokens"}
        settings = config.model_dump(mode="json", include=names)
        return fingerprint({"scan": 1, "reader": config.reader, "settings": settings, "listing": self.listing.key})

    def tasks(self, draft: Draft) -> list[ScanTask]:
        return [ScanTask(self.listing.pool, part, index, draft) for index, part in enumerate(self.listing.parts)]

    @staticmethod
    def run(task: ScanTask) -> tuple[FileRecord, Counter[str]]:
        """Write one part's table, and return it with its COUNTS. Raises InputError if the part cannot be read."""
        counts: Counter[str] = Counter()
        rows = ((document.content, document.bytes) for document in read_documents(task.pool, task.part, counts))
        return write_rows(task.draft, _part_file(task.index), SCAN_SCHEMA, rows), counts

    def publish(self, draft: Draft, results: Sequence[tuple[FileRecord, Counter[str]]]) -> Artifact:
        files = {_part_file(index): file for index, (file, _) in enumerate(results)}
        meta = {name: sum(counts[name] for _, counts in results) for name in COUNTS}
        return draft.publish(files, {**meta, "parts": len(results)})


@dataclass(frozen=True)
class DeduplicateTask:
    """Select among the documents of ``scan`` those that occur in none of ``targets``, which are scans too."""

    scan: Artifact
    targets: tuple[Artifact, ...]
    draft: Draft


@dataclass(frozen=True)
class SelectionMeta:
    """What the manifest of a selection says about the documents.

    ``documents`` and ``bytes`` (of UTF-8) are used; ``duplicates`` and ``in_target`` count documents that are not.
    """

    documents: int
    bytes: int
    duplicates: int
    in_target: int
    digest: str
    sketch: list[int]
    parts: int


@dataclass(frozen=True)
class Deduplicate(Step[DeduplicateTask, tuple[dict[str, FileRecord], SelectionMeta]]):
    """Which documents of a pool are used. ``targets``: the scans whose documents are dropped; none for a target.

    Files: one table a part (SCHEMA). Meta: SelectionMeta.
    """

    kind = "selection"
    pool: Pool
    scan: Artifact
    targets: tuple[Artifact, ...]

    @property
    def id(self) -> str:
        targets = sorted({target.id for target in self.targets})
        return fingerprint({"selection": 1, "scan": self.scan.id, "targets": targets})

    def tasks(self, draft: Draft) -> list[DeduplicateTask]:
        return [DeduplicateTask(self.scan, self.targets, draft)]

    @staticmethod
    def run(task: DeduplicateTask) -> tuple[dict[str, FileRecord], SelectionMeta]:
        """Write one table a part, and return them with the meta.

        Memory: about 60 bytes a document of the pool and 40 a document of the targets.
        """
        storage = task.draft.storage
        names = [_part_file(index) for index in range(task.scan.meta["parts"])]
        tables = [read_table(storage, task.scan.files[name]) for name in names]
        contents = _contents(tables)
        first = first_occurrences(contents)
        in_target = first & _in_targets(contents, storage, task.targets)
        keep = first & ~in_target
        files, ends = {}, np.cumsum([table.num_rows for table in tables])
        digest, used_bytes = hashlib.sha256(), 0
        for name, table, end in zip(names, tables, ends.tolist(), strict=True):
            mask = keep[end - table.num_rows : end]
            used = table.filter(pa.array(mask))
            digest.update(len(used).to_bytes(8, "little"))
            digest.update(hash_bytes(used["content"]).tobytes())
            used_bytes += pc.sum(used["bytes"]).as_py() or 0
            rows = zip(table["content"].to_pylist(), table["bytes"].to_pylist(), mask.tolist(), strict=True)
            files[name] = write_rows(task.draft, name, SCHEMA, rows)
        meta = SelectionMeta(
            documents=int(keep.sum()),
            bytes=used_bytes,
            duplicates=int((~first).sum()),
            in_target=int(in_target.sum()),
            digest=digest.hexdigest(),
            sketch=_sketch(hash_bytes(contents)[keep]),
            parts=len(names),
        )
        return files, meta

    def publish(self, draft: Draft, results: Sequence[tuple[dict[str, FileRecord], SelectionMeta]]) -> Artifact:
        ((files, meta),) = results
        return draft.publish(files, asdict(meta))

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
    return selection.files[_part_file(index)]


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


def first_occurrences(contents: Any) -> NDArray[np.bool_]:
    """Return True for each element of a column that does not occur before it, shape (elements,)."""
    codes = contents.dictionary_encode().indices.to_numpy()  # numbered by first appearance
    before = np.maximum.accumulate(np.concatenate([[-1], codes]))[:-1]
    return np.asarray(codes > before)


def _contents(tables: Sequence[Any]) -> Any:
    chunks = [chunk for table in tables for chunk in table["content"].chunks]
    return pa.concat_arrays(chunks) if chunks else pa.array([], SCHEMA.field("content").type)


def _in_targets(contents: Any, storage: Storage, targets: Sequence[Artifact]) -> NDArray[np.bool_]:
    tables = [read_table(storage, record) for target in targets for record in target.files.values()]
    return np.asarray(pc.is_in(contents, value_set=_contents(tables)).to_numpy(zero_copy_only=False), dtype=bool)


def _sketch(used: NDArray[np.uint8]) -> list[int]:
    return sorted(np.unique(first_words(used)).tolist())[:SKETCH]


def first_words(hashes: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the first 8 bytes of every hash as a number, which is uniform over 0..2^64-1."""
    return np.ascontiguousarray(hashes[:, :8]).view("<u8").ravel()


def _shared(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    full = [pool["sketch"][-1] for pool in (one, other) if len(pool["sketch"]) == SKETCH]
    limit = min(full, default=2**64)
    words = [{word for word in pool["sketch"] if word <= limit} for pool in (one, other)]
    return len(words[0] & words[1]) / max(1, min(map(len, words)))


def _selected_rows(storage: Storage, selected: FileRecord) -> Iterator[tuple[bytes, bool]]:
    for batch in read_batches(storage, selected):
        yield from zip(batch.column("content").to_pylist(), batch.column("keep").to_pylist(), strict=True)


def pool_changed(pool: Pool) -> StageError:
    """Return the error for a pool whose files differ from those that were scanned."""
    return StageError(
        f"the {pool.label} has changed since it was scanned",
        where=pool.files_key,
        remedy="run again once nothing writes to it; touch a file that was changed without a new time",
    )


def _part_file(index: int) -> str:
    return f"{index:06d}.parquet"
