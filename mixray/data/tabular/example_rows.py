"""The steps that turn a pool of labelled rows into artifacts: look at the values, encode a source, encode a target.

A source's row becomes a record that training reads by its number. A target's row becomes a row of the prediction cache,
a document of one window that counts as one token. Equal rows are all kept, because tables repeat rows by chance.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixray.config.data import TargetConfig
from mixray.data import target_rows
from mixray.data.pools import Pool
from mixray.data.reading.parts import FilePart, Listing
from mixray.data.tabular.encoder import RowEncoder, TableSummary
from mixray.data.tabular.tables import Table, TableColumns, read_part
from mixray.data.target_rows import FILE_ROWS, PARTS, PartResult, RowsResult, part_of
from mixray.data.text.deduplicate import pool_changed
from mixray.data.text.documents import HASH_BYTES
from mixray.errors import InputError
from mixray.store import Artifact, Draft, FileRecord, Step, encode, fingerprint

KIND = "examples"
LOOK = "look"
TOO_FEW = "more rows, or another held_out; rows that are alike stay together"


@dataclass(frozen=True)
class ExamplePart:
    """A part of a pool. ``rows``: at most so many of it, None for all; ``digests``: of the rows and of their groups, as
    they were when the values were looked at."""

    pool: Pool
    part: FilePart
    index: int
    columns: TableColumns
    draft: Draft
    rows: int | None = None
    digests: tuple[str, str] | None = None


@dataclass(frozen=True)
class EncodeTask:
    source: ExamplePart
    encoder: RowEncoder


def row_hashes(table: Table) -> list[bytes]:
    """Return a hash of every row's inputs and label, 16 bytes each."""
    words = zip(*table.categorical.values(), table.labels, strict=True)
    return [
        hashlib.blake2b(row.tobytes() + json.dumps(texts).encode(), digest_size=HASH_BYTES).digest()
        for row, texts in zip(table.numeric, words, strict=True)
    ]


def rows_digest(table: Table) -> str:
    return hashlib.sha256(b"".join(row_hashes(table))).hexdigest()


def groups_digest(table: Table) -> str:
    return fingerprint(None if table.groups is None else table.groups.tolist())


def file_parts(listing: Listing) -> list[FilePart]:
    """Return the pool's parts. Raises InputError where there are none: Parquet files may have no row groups."""
    parts = [part for part in listing.parts if isinstance(part, FilePart)]
    if not parts:
        raise no_rows(listing.pool, 0)
    return parts


def no_rows(pool: Pool, filtered: int) -> InputError:
    return InputError(
        f"the {pool.label} has no rows",
        where=pool.files_key,
        got=f"{filtered} rows, none of which 'where' keeps" if filtered else "empty files",
        wanted="at least one row",
    )


@dataclass(frozen=True)
class LookAt(Step[ExamplePart, TableSummary]):
    """What the values of a pool's columns are. It has no files; its metadata is a TableSummary."""

    kind = LOOK
    listing: Listing
    columns: TableColumns

    @property
    def id(self) -> str:
        pool, columns = self.listing.pool.config, self.columns
        group = columns.groups[0] if columns.groups else None
        settings = [columns.inputs.model_dump(mode="json"), group, pool.reader, pool.where, pool.max_tokens]
        return fingerprint([LOOK, 1, settings, self.listing.key])

    def tasks(self, draft: Draft) -> list[ExamplePart]:
        return _parts(self.listing, self.columns, draft)

    @staticmethod
    def run(task: ExamplePart) -> TableSummary:
        table = read_part(task.pool, task.part, task.columns, task.rows)
        summary = TableSummary.of(table, task.columns)
        return replace(summary, digests=[rows_digest(table)], group_digests=[groups_digest(table)])

    def publish(self, draft: Draft, results: Sequence[TableSummary]) -> Artifact:
        return draft.publish({}, asdict(TableSummary.joined(results, self.columns)))


@dataclass(frozen=True)
class EncodeSource(Step[EncodeTask, tuple[FileRecord, int]]):
    """The records of a source. Meta: ``tokens`` (the number of examples), ``shards`` ({file: examples}, in order) and
    ``content`` (the identity of the records without their groups)."""

    kind = KIND
    listing: Listing
    look: TableSummary
    columns: TableColumns
    encoder: RowEncoder

    @property
    def content(self) -> str:
        return fingerprint([KIND, 1, self.encoder.digest, self.look.digests])

    @property
    def id(self) -> str:
        groups = self.encoder.group_names
        return fingerprint([self.content, groups, self.look.group_digests]) if groups else self.content

    def tasks(self, draft: Draft) -> list[EncodeTask]:
        return _encode_tasks(self.listing, self.look, self.columns, self.encoder, draft)

    @staticmethod
    def run(task: EncodeTask) -> tuple[FileRecord, int]:
        return write_examples(task)

    def publish(self, draft: Draft, results: Sequence[tuple[FileRecord, int]]) -> Artifact:
        files = {f"{index:06d}.npy": record for index, (record, count) in enumerate(results) if count}
        shards = {f"{index:06d}.npy": count for index, (_, count) in enumerate(results) if count}
        return draft.publish(files, {"tokens": sum(shards.values()), "shards": shards, "content": self.content})


@dataclass(frozen=True)
class EncodeTarget(Step[EncodeTask, target_rows.RowsResult]):
    """The rows of a target. The meta is that of ``publish_rows``."""

    kind = target_rows.KIND
    listing: Listing
    look: TableSummary
    columns: TableColumns
    encoder: RowEncoder

    @property
    def id(self) -> str:
        config = self.listing.pool.config
        assert isinstance(config, TargetConfig)
        return fingerprint([target_rows.KIND, 1, self.encoder.digest, self.look.digests, config.held_out])

    def tasks(self, draft: Draft) -> list[EncodeTask]:
        return _encode_tasks(self.listing, self.look, self.columns, self.encoder, draft)

    @staticmethod
    def run(task: EncodeTask) -> target_rows.RowsResult:
        return write_target_examples(task)

    def publish(self, draft: Draft, results: Sequence[target_rows.RowsResult]) -> Artifact:
        return target_rows.publish_rows(draft, 1, results)

    def check(self, artifact: Artifact) -> None:
        target_rows.check_rows(self.listing.pool, artifact, remedy=TOO_FEW)


def _encode_tasks(
    listing: Listing, look: TableSummary, columns: TableColumns, encoder: RowEncoder, draft: Draft
) -> list[EncodeTask]:
    parts, digests = _parts(listing, columns, draft), zip(look.digests, look.group_digests, strict=True)
    return [EncodeTask(replace(part, digests=pair), encoder) for part, pair in zip(parts, digests, strict=True)]


def _parts(listing: Listing, columns: TableColumns, draft: Draft) -> list[ExamplePart]:
    parts = file_parts(listing)
    quotas = target_rows.token_quotas(listing.pool.config.max_tokens, len(parts))
    return [
        ExamplePart(listing.pool, part, index, columns, draft, quota)
        for index, (part, quota) in enumerate(zip(parts, quotas, strict=True))
    ]


# -------------------------------------------------------------------------------------------------------------- writing


def write_examples(task: EncodeTask) -> tuple[FileRecord, int]:
    """Write a part's records, and return the file and how many there are."""
    records = task.encoder.encode(_read_again(task.source))
    sink = io.BytesIO()
    np.save(sink, records)
    return task.source.draft.write(f"{task.source.index:06d}.npy", sink.getvalue()), len(records)


def write_target_examples(task: EncodeTask) -> RowsResult:
    """Write a part's rows of the prediction cache, at most FILE_ROWS a file; alike rows fall on one side."""
    source, config = task.source, task.source.pool.config
    assert isinstance(config, TargetConfig)
    table = _read_again(source)
    contents, records = row_hashes(table), task.encoder.encode(table)
    sides = np.array([part_of(content, config.held_out) for content in contents])
    # What tells alike rows apart is where they stand.
    marks = [f"{source.index}-{row}".encode() for row in range(len(table))]
    pairs = zip(contents, marks, strict=True)
    documents = [hashlib.blake2b(content + mark, digest_size=HASH_BYTES).digest() for content, mark in pairs]
    results: RowsResult = {side: PartResult() for side in PARTS}
    for side in PARTS:
        mine, result = np.flatnonzero(sides == side), results[side]
        result.rows = result.documents = result.tokens = len(mine)
        for number, start in enumerate(range(0, len(mine), FILE_ROWS)):
            chosen = mine[start : start + FILE_ROWS]
            name = f"{side}-{source.index:06d}-{number:05d}.parquet"
            rows = _cache_rows([documents[row] for row in chosen], records[chosen])
            result.files.append(source.draft.write(name, encode(rows)))
    return results


def _cache_rows(documents: list[bytes], records: NDArray[np.void]) -> Any:
    ones = np.ones(len(records), np.int32)
    return pa.table(
        {
            "document": pa.array(documents, pa.binary(HASH_BYTES)),
            "window": pa.array(0 * ones),
            "features": pa.FixedSizeListArray.from_arrays(
                np.ascontiguousarray(records["features"]).ravel(), records["features"].shape[1]
            ),
            "label": records["label"],
            "count": ones,
        }
    )


def _read_again(task: ExamplePart) -> Table:
    table = read_part(task.pool, task.part, task.columns, task.rows)
    if (rows_digest(table), groups_digest(table)) != task.digests:
        raise pool_changed(task.pool)
    return table
