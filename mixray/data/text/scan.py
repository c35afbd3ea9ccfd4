"""The scan: a row a document with the hash and size of its text, so that later steps compare without reading again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mixray.data.pools import Pool
from mixray.data.reading.parts import Listing, Part
from mixray.data.tables import write_rows
from mixray.data.text.documents import HASH_BYTES, read_documents
from mixray.store import Artifact, Draft, FileRecord, fingerprint

KIND = "scan"
SCHEMA = pa.schema([("content", pa.binary(HASH_BYTES)), ("bytes", pa.int64())])
COUNTS = ("documents", "bytes", "skipped_not_utf8", "skipped_empty", "filtered", "split")


@dataclass(frozen=True)
class ScanTask:
    pool: Pool
    part: Part
    index: int
    draft: Draft


@dataclass(frozen=True)
class ScanResult:
    file: FileRecord
    counts: dict[str, int]


def scan_id(listing: Listing) -> str:
    """Depends on how documents are read and on which files there are; not on the pool's name."""
    config = listing.pool.config
    names = {"text", "answer", "where", "document_chars", "max_tokens"}
    settings = config.model_dump(mode="json", include=names)
    return fingerprint({"scan": 1, "reader": config.reader, "settings": settings, "listing": listing.key})


def scan_part(task: ScanTask) -> ScanResult:
    """Write one part's table (SCHEMA). Raises InputError where the part cannot be read."""
    counts: Counter[str] = Counter()
    rows = ((document.content, document.bytes) for document in read_documents(task.pool, task.part, counts))
    file = write_rows(task.draft, part_file(task.index), SCHEMA, rows)
    return ScanResult(file, {name: counts[name] for name in COUNTS})


def publish_scan(draft: Draft, _: Sequence[ScanTask], results: Sequence[ScanResult]) -> Artifact:
    """``meta``: the COUNTS summed over parts, and how many parts there are."""
    files = {part_file(index): result.file for index, result in enumerate(results)}
    meta: dict[str, Any] = {name: sum(result.counts[name] for result in results) for name in COUNTS}
    return draft.publish(files, {**meta, "parts": len(results)})


def part_file(index: int) -> str:
    return f"{index:06d}.parquet"
