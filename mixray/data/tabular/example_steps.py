"""The steps that read examples: the values of a pool's columns are looked at, and its rows encoded.

A source's row becomes a record that training reads by its number, a target's row one of the prediction cache. The rows
of a target are split by the hash of their values or, where a salt is given, of their inputs alone: then every pool with
the same salt holds out the same inputs, whatever their labels, and another salt holds out others.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import repeat
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixray.data import target_rows
from mixray.data.pools import Pool
from mixray.data.reading.parts import FilePart, Listing
from mixray.data.tabular.encoder import RowEncoder, TableSummary
from mixray.data.tabular.molecules import with_molecules
from mixray.data.tabular.tables import Table, TableColumns, read_part
from mixray.data.target_rows import FILE_ROWS, PartResult, part_of
from mixray.data.text.deduplicate import pool_changed
from mixray.data.text.windows import quotas
from mixray.errors import InputError
from mixray.store import Artifact, Draft, FileRecord, RunTasks, Step, encode, fingerprint
from mixray.store.step import Result
from mixray.store.target_parts import HASH_BYTES, MOLECULE, MOLECULES, PARENT_BYTES, PARTS

KIND = "examples"
LOOK = "look"
RANK_BYTES = 8
TOO_FEW = "more rows, or another held_out; rows that are alike stay together"


@dataclass(frozen=True)
class Split:
    """Which rows are held out: the fraction of them, and what their inputs are hashed with.

    ``salt``: None where rows are split by the hash of their inputs and labels. ``by_scaffold``: molecules with the same
    scaffold are in one part.
    """

    held_out: float
    salt: str | None
    by_scaffold: bool = False

    @property
    def identity(self) -> dict[str, object]:
        """What the parts depend on."""
        younger = {"by_scaffold": True} if self.by_scaffold else {}  # a setting that leaves no trace by default
        return {"held_out": self.held_out, "salt": self.salt, **younger}

    def documents(self, table: Table, place: str = "") -> list[bytes]:
        """Return an id of every row, whose first half decides its part. ``place``: of the part of the pool, so that
        equal rows have different ids."""
        contents = row_hashes(table)
        wholes = [
            hashlib.blake2b(content + f"{place}-{row}".encode(), digest_size=HASH_BYTES).digest()
            for row, content in enumerate(contents)
        ]
        if self.salt is None:
            return wholes
        parents = row_hashes(table, labels=False)
        if self.by_scaffold:
            assert table.scaffolds is not None, "they are looked up with the molecules"
            parents = list(map(bytes, table.scaffolds))
        salted = (hashlib.blake2b(parent + self.salt.encode(), digest_size=PARENT_BYTES).digest() for parent in parents)
        return [parent + whole[PARENT_BYTES:] for parent, whole in zip(salted, wholes, strict=True)]

    def is_held_out(self, table: Table) -> NDArray[np.bool_]:
        """Return whether every row is held out, shape (rows,)."""
        ids = row_hashes(table) if self.salt is None else self.documents(table)
        return np.array([part_of(each, self.held_out) == "held_out" for each in ids], np.bool_)


@dataclass(frozen=True)
class ReadTask:
    """Read part ``index`` of a pool. ``rows``: the first so many of the part; None: all. ``fingerprints``: those of the
    pool's molecules, where it has any. ``last_rank``: only rows up to this rank (see ``row_ranks``); None: all."""

    pool: Pool
    part: FilePart
    index: int
    columns: TableColumns
    draft: Draft
    rows: int | None
    fingerprints: Artifact | None = None
    last_rank: int | None = None

    def table(self) -> Table:
        """Read the rows, and look up their molecules."""
        table = read_part(self.part, self.columns, self.rows)
        if self.fingerprints is not None:
            table = with_molecules(table, self.draft.storage, self.fingerprints, self.index)
        return table if self.last_rank is None else table.take(row_ranks(table, self.index) <= self.last_rank)


@dataclass(frozen=True)
class LookAt(Step[ReadTask, TableSummary]):
    """What the values of a pool's columns are. It has no files; its metadata is a TableSummary."""

    kind = LOOK
    listing: Listing
    columns: TableColumns
    run_tasks: RunTasks
    fingerprints: Artifact | None = None

    @property
    def id(self) -> str:
        pool, columns = self.listing.pool.config, self.columns
        group = columns.groups[0] if columns.groups else None
        settings = [columns.inputs.model_dump(mode="json"), group, pool.reader, pool.where, pool.max_tokens]
        younger = ["labelled"] if columns.labelled else []  # settings that leave no trace by default
        if self.fingerprints is not None:
            younger.append(self.fingerprints.id)
        if self.listing.pool.role == "target" and pool.max_tokens is not None:
            younger.append("sample")
        return fingerprint([LOOK, 1, settings, self.listing.key, *younger])

    def tasks(self, draft: Draft) -> list[ReadTask]:
        """Return a task for each part. Of a target with ``max_tokens``, other tasks have ranked its rows by then."""
        tasks, limit = (
            _read_tasks(self.listing, self.columns, draft, self.fingerprints),
            self.listing.pool.config.max_tokens,
        )
        if self.listing.pool.role == "source" or limit is None:
            return tasks
        ranks = np.concatenate(list(self.run_tasks(rank_rows, tasks, "count")))
        return [replace(task, last_rank=highest_rank(ranks, limit)) for task in tasks]

    @staticmethod
    def run(task: ReadTask) -> TableSummary:
        table = task.table()
        rows, groups = _digests(table)
        summary = TableSummary.of(table, task.columns)
        return replace(summary, digests=[rows], group_digests=[groups], last_rank=task.last_rank)

    def publish(self, draft: Draft, results: Sequence[TableSummary]) -> Artifact:
        return draft.publish({}, asdict(TableSummary.joined(results, self.columns)))


@dataclass(frozen=True)
class EncodeTask:
    """Read rows again and encode them. ``digests``: what ``_digests`` returned when the values were looked at.
    ``split``: of a target, or of the target whose held-out rows a source leaves out."""

    source: ReadTask
    digests: tuple[str, str]
    encoder: RowEncoder
    split: Split | None

    def table(self) -> Table:
        """Read the rows. Raises StageError if they have changed."""
        table = self.source.table()
        if _digests(table) != self.digests:
            raise pool_changed(self.source.pool)
        return table


@dataclass(frozen=True)
class EncodePool(Step[EncodeTask, Result]):
    """The encoded rows of a pool. ``look``: the values of its columns. ``split``: as of EncodeTask."""

    listing: Listing
    look: TableSummary
    columns: TableColumns
    encoder: RowEncoder
    split: Split | None = None
    fingerprints: Artifact | None = None

    def tasks(self, draft: Draft) -> list[EncodeTask]:
        sources = [
            replace(task, last_rank=self.look.last_rank)
            for task in _read_tasks(self.listing, self.columns, draft, self.fingerprints)
        ]
        digests = zip(self.look.digests, self.look.group_digests, strict=True)
        return [
            EncodeTask(source, pair, self.encoder, self.split) for source, pair in zip(sources, digests, strict=True)
        ]

    @property
    def facts(self) -> dict[str, str]:
        """What the artifact's metadata says of its molecules: the artifact that holds them."""
        return {} if self.fingerprints is None else {MOLECULES: self.fingerprints.id}


@dataclass(frozen=True)
class EncodeSource(EncodePool[tuple[FileRecord, int]]):
    """The records of a source. Meta: ``tokens`` (the number of examples), ``shards`` ({file: examples}, in order) and
    ``content`` (the identity of the records without their groups)."""

    kind = KIND

    @property
    def content(self) -> str:
        split = [] if self.split is None else [self.split.identity]
        return fingerprint([KIND, 1, self.encoder.digest, self.look.digests, *_content(self.fingerprints), *split])

    @property
    def id(self) -> str:
        groups = self.encoder.group_names
        return fingerprint([self.content, groups, self.look.group_digests]) if groups else self.content

    @staticmethod
    def run(task: EncodeTask) -> tuple[FileRecord, int]:
        """Write a part's records, and return the file and how many there are."""
        table = task.table()
        if task.split is not None:
            table = table.take(~task.split.is_held_out(table))
        records = task.encoder.encode(table)
        sink = io.BytesIO()
        np.save(sink, records)
        return task.source.draft.write(f"{task.source.index:06d}.npy", sink.getvalue()), len(records)

    def publish(self, draft: Draft, results: Sequence[tuple[FileRecord, int]]) -> Artifact:
        files = {f"{index:06d}.npy": record for index, (record, count) in enumerate(results) if count}
        shards = {f"{index:06d}.npy": count for index, (_, count) in enumerate(results) if count}
        meta = {"tokens": sum(shards.values()), "shards": shards, "content": self.content, **self.facts}
        return draft.publish(files, meta)

    def check(self, artifact: Artifact) -> None:
        if not artifact.meta["tokens"]:
            raise InputError(
                f"the {self.listing.pool.label} has no rows that are not held out",
                where=self.listing.pool.files_key,
                got=f"{self.look.rows} rows",
                wanted="at least one row to train on",
            )


@dataclass(frozen=True)
class EncodeTarget(EncodePool[target_rows.RowsResult]):
    """The rows of a target. The meta is that of ``publish_rows``."""

    kind = target_rows.KIND

    @property
    def id(self) -> str:
        assert self.split is not None, "a target is split"
        salt = [] if self.split.salt is None else [self.split.salt]
        facts = [self.encoder.digest, self.look.digests, self.split.held_out, *_content(self.fingerprints), *salt]
        if self.split.by_scaffold:  # a setting that leaves no trace by default
            facts.append("by_scaffold")
        return fingerprint([target_rows.KIND, 1, *facts])

    @staticmethod
    def run(task: EncodeTask) -> target_rows.RowsResult:
        """Write a part's rows of the prediction cache, at most FILE_ROWS a file; equal rows fall into one part."""
        source, table = task.source, task.table()
        assert task.split is not None, "a target is split"
        records, documents = task.encoder.encode(table), task.split.documents(table, str(source.index))
        parts = np.where(task.split.is_held_out(table), "held_out", "fit")
        results: target_rows.RowsResult = {part: PartResult() for part in PARTS}
        for part, result in results.items():
            in_part = np.flatnonzero(parts == part)
            result.rows = result.documents = result.tokens = len(in_part)
            for number, start in enumerate(range(0, len(in_part), FILE_ROWS)):
                chosen = in_part[start : start + FILE_ROWS]
                name = f"{part}-{source.index:06d}-{number:05d}.parquet"
                rows = _cache_rows([documents[row] for row in chosen], records[chosen])
                result.files.append(source.draft.write(name, encode(rows)))
        return results

    def publish(self, draft: Draft, results: Sequence[target_rows.RowsResult]) -> Artifact:
        return target_rows.publish_rows(draft, 1, results, self.facts)

    def check(self, artifact: Artifact) -> None:
        target_rows.check_rows(self.listing.pool, artifact, remedy=TOO_FEW)


def no_rows(pool: Pool, filtered: int) -> InputError:
    return InputError(
        f"the {pool.label} has no rows",
        where=pool.files_key,
        got=f"{filtered} rows, none of which 'where' keeps and has a label" if filtered else "empty files",
        wanted="at least one row",
    )


def file_parts(listing: Listing) -> list[FilePart]:
    """Return the pool's parts. Raises InputError if there are none: Parquet files may have no row groups."""
    parts = [part for part in listing.parts if isinstance(part, FilePart)]
    if not parts:
        raise no_rows(listing.pool, 0)
    return parts


def _content(fingerprints: Artifact | None) -> list[str]:
    """Return the identity of the molecules that rows name by their numbers; nothing where there are none."""
    return [] if fingerprints is None else [fingerprints.meta["content"]]


def _read_tasks(listing: Listing, columns: TableColumns, draft: Draft, fingerprints: Artifact | None) -> list[ReadTask]:
    parts, is_target = file_parts(listing), listing.pool.role == "target"
    limits = quotas(None if is_target else listing.pool.config.max_tokens, len(parts))
    return [
        ReadTask(listing.pool, part, index, columns, draft, limit, fingerprints)
        for index, (part, limit) in enumerate(zip(parts, limits, strict=True))
    ]


def rank_rows(task: ReadTask) -> NDArray[np.uint64]:
    """Return the ranks of a part's rows."""
    return row_ranks(task.table(), task.index)


def row_ranks(table: Table, part: int) -> NDArray[np.uint64]:
    """Return the rank of every row, uint64, shape (rows,): a uniform number that its values and its place decide.

    The rows of the lowest ranks are a target's sample, however its rows are sorted or spread over files.
    """
    ranks = [
        hashlib.blake2b(content + f"{part}-{row}".encode(), digest_size=RANK_BYTES, person=b"rank").digest()
        for row, content in enumerate(row_hashes(table))
    ]
    return np.frombuffer(b"".join(ranks), "<u8")


def highest_rank(ranks: NDArray[np.uint64], limit: int) -> int | None:
    """Return the highest rank of the ``limit`` rows that are used; None where all of them are."""
    return None if len(ranks) <= limit else int(np.partition(ranks, limit - 1)[limit - 1])


def row_hashes(table: Table, *, labels: bool = True) -> list[bytes]:
    """Return a hash of every row's inputs and, with ``labels``, its label; 16 bytes each."""
    texts, numbers = list(table.categorical.values()), table.numeric
    if labels and table.numbers is not None:
        numbers = np.column_stack([numbers, table.numbers])
    elif labels:
        texts.append(table.labels)
    words = zip(*texts, strict=True) if texts else repeat((), len(table))
    molecules = repeat(b"", len(table)) if table.molecules is None else map(bytes, table.molecules["id"])
    return [
        hashlib.blake2b(molecule + row.tobytes() + json.dumps(words_of_row).encode(), digest_size=HASH_BYTES).digest()
        for molecule, row, words_of_row in zip(molecules, numbers, words, strict=True)
    ]


def _digests(table: Table) -> tuple[str, str]:
    """Return the identity of the rows' inputs and labels, and that of their groups."""
    groups = None if table.groups is None else table.groups.tolist()
    return hashlib.sha256(b"".join(row_hashes(table))).hexdigest(), fingerprint(groups)


def _cache_rows(documents: list[bytes], records: NDArray[np.void]) -> Any:
    ones = np.ones(len(records), np.int32)
    names = records.dtype.names or ()
    inputs = (
        {MOLECULE: records[MOLECULE]}
        if MOLECULE in names
        else {
            "features": pa.FixedSizeListArray.from_arrays(
                np.ascontiguousarray(records["features"]).ravel(), records["features"].shape[1]
            )
        }
    )
    return pa.table(
        {
            "document": pa.array(documents, pa.binary(HASH_BYTES)),
            "window": pa.array(0 * ones),
            **inputs,
            "label": records["label"],
            "count": ones,
        }
    )
