"""The scan of a pool: the hash and the size of every document, so that later steps compare documents without reading
them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa

from mixray.data.pools import Pool
from mixray.data.reading.parts import TOKEN_BYTES, Listing, Part
from mixray.data.text.budget import Size, last_rank, rank, sample
from mixray.data.text.documents import read_documents
from mixray.store import Artifact, Draft, FileRecord, Step, fingerprint
from mixray.store.tables import write_rows
from mixray.store.target_parts import HASH_BYTES

SCAN_SCHEMA = pa.schema([("content", pa.binary(HASH_BYTES)), ("parent", pa.binary(HASH_BYTES)), ("bytes", pa.int64())])
"""``parent`` is null where the document was not cut."""
SETTINGS = {"text", "prompt", "completion", "system", "messages", "answer", "where", "document_chars", "max_tokens"}
"""What decides how a pool's documents are read."""
COUNTS = ("documents", "bytes", "skipped_not_utf8", "skipped_empty", "filtered", "split")


@dataclass(frozen=True)
class ScanTask:
    """Scan part ``index`` of a pool. ``sample_bytes``: how much text may be used of all parts; None: all."""

    pool: Pool
    part: Part
    index: int
    sample_bytes: int | None
    draft: Draft


@dataclass(frozen=True)
class ScanResult:
    """One part's table with its COUNTS, and the documents that may be used if not all are."""

    file: FileRecord
    counts: Counter[str]
    sizes: list[Size]


@dataclass(frozen=True)
class Scan(Step[ScanTask, ScanResult]):
    """The documents of a pool.

    Files: one table a part (SCAN_SCHEMA). Meta: the COUNTS summed over parts; ``part_documents``, the number of
    documents of every part; ``last_rank``, that of the documents that a target with ``max_tokens`` may use (see
    ``budget.py``), or None.
    """

    kind = "scan"
    listing: Listing

    @property
    def id(self) -> str:
        """Depends on how documents are read and on which files there are, not on the pool's name."""
        config = self.listing.pool.config
        settings = config.model_dump(mode="json", include=SETTINGS)
        content = {"settings": settings, "samples": self.sample_bytes, "listing": self.listing.key}
        return fingerprint({"scan": 2, "reader": config.reader, **content})

    @property
    def sample_bytes(self) -> int | None:
        pool = self.listing.pool
        return None if pool.role == "source" or pool.config.max_tokens is None else TOKEN_BYTES * pool.config.max_tokens

    def tasks(self, draft: Draft) -> list[ScanTask]:
        parts = enumerate(self.listing.parts)
        return [ScanTask(self.listing.pool, part, index, self.sample_bytes, draft) for index, part in parts]

    @staticmethod
    def run(task: ScanTask) -> ScanResult:
        """Write one part's table. Raises InputError if the part cannot be read."""
        counts: Counter[str] = Counter()
        sizes: list[Size] = []

        def rows() -> Iterator[tuple[Any, ...]]:
            for document in read_documents(task.pool, task.part, counts):
                if task.sample_bytes is not None:
                    sizes.append((rank(document.content), document.bytes))
                yield document.content, None if document.parent == document.content else document.parent, document.bytes

        file = write_rows(task.draft, part_file(task.index), SCAN_SCHEMA, rows())
        return ScanResult(file, counts, sample(sizes, task.sample_bytes or 0))

    def publish(self, draft: Draft, results: Sequence[ScanResult]) -> Artifact:
        files = {part_file(index): result.file for index, result in enumerate(results)}
        counts = {name: sum(result.counts[name] for result in results) for name in COUNTS}
        sizes = chain.from_iterable(result.sizes for result in results)
        last = None if self.sample_bytes is None else last_rank(sizes, self.sample_bytes)
        part_documents = [result.counts["documents"] for result in results]
        return draft.publish(files, {**counts, "part_documents": part_documents, "last_rank": last})


def part_file(index: int) -> str:
    """Return the name of the table of a part, in a scan and in a selection."""
    return f"{index:06d}.parquet"
