"""Labelled rows of a mixture of examples: look at the values, learn the encoding from the sources, encode every pool.

A source's row becomes a record that training reads by its number. A target's row becomes a row of the prediction cache,
a document of one window that counts as one token. Equal rows are all kept, because tables repeat rows by chance.
Identity is content, as it is for texts: what is encoded depends on the values that were read and on the encoding.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixray.config.data import ExamplesConfig
from mixray.config.objective import GroupObjective
from mixray.config.schema import RunConfig
from mixray.data import target_rows
from mixray.data.pools import DataWarning, ExampleInputs, Notify, Pool, Prepared, pools_of
from mixray.data.reading.parts import FilePart, Listing, list_pool
from mixray.data.tabular.encoder import RowEncoder, TableSummary
from mixray.data.tabular.tables import NAMED, FileKind, Table, TableColumns, listed, read_part
from mixray.data.target_rows import FILE_ROWS, PartResult, part_of
from mixray.data.text.deduplicate import pool_changed
from mixray.data.text.windows import quotas
from mixray.errors import InputError
from mixray.store import Artifact, Artifacts, Draft, FileRecord, RunTasks, Step, encode, find_or_make, fingerprint
from mixray.store.retrying import retried
from mixray.store.step import Result
from mixray.store.target_parts import HASH_BYTES, PARTS

KIND = "examples"
LOOK = "look"
TOO_FEW = "more rows, or another held_out; rows that are alike stay together"


def prepare_examples(
    config: RunConfig, examples: ExamplesConfig, artifacts: Artifacts, run_tasks: RunTasks, notify: Notify
) -> Prepared:
    """Find or make everything that training and scoring read, as ``prepare`` does for texts."""
    listings = {pool.label: retried(partial(list_pool, pool), notify) for pool in pools_of(config)}
    columns = {label: columns_of_pool(listing.pool, examples, config) for label, listing in listings.items()}
    looking = {label: LookAt(listing, columns[label]) for label, listing in listings.items()}
    looks = {
        label: TableSummary(**artifact.meta)
        for label, artifact in find_or_make(looking, artifacts, run_tasks, "look").items()
    }
    for label, listing in listings.items():
        _check_not_empty(listing.pool, looks[label])
    sources = TableSummary.joined(
        [looks[f"source {name}"] for name in config.sources], columns[f"source {next(iter(config.sources))}"]
    )
    encoder = RowEncoder.of(sources)
    _check_sources(config, encoder)
    for label, listing in listings.items():
        _check_fit(listing.pool, looks[label], encoder)
    encoding: dict[str, EncodePool[Any]] = {
        label: (EncodeSource if listing.pool.role == "source" else EncodeTarget)(
            listing, looks[label], columns[label], encoder
        )
        for label, listing in listings.items()
    }
    encoded = find_or_make(encoding, artifacts, run_tasks, "encode")
    for label in listings:
        notify(f"{label}: {looks[label].rows} examples")
    classes = f", {len(encoder.label_names)} classes" if encoder.label_names else ""
    notify(f"{encoder.inputs.features} features{classes}")
    return Prepared(
        inputs=encoder.inputs,
        tokenizer=None,
        sources={name: encoded[f"source {name}"] for name in config.sources},
        targets={name: encoded[f"target {name}"] for name in config.targets},
        counts={label: _counts(listing, looks[label], encoded[label]) for label, listing in listings.items()},
        warnings=list(_warnings(looks, encoder)),
    )


def look_ahead(config: RunConfig, examples: ExamplesConfig) -> tuple[ExampleInputs, dict[str, int]]:
    """Return what models will read, and the number of rows of every pool ("source NAME", "target NAME"), estimated from
    the first part of each that has any. Raises InputError for unfit columns, and for pools without rows."""
    looks, counts = [], {}
    for pool in pools_of(config):
        columns, parts = columns_of_pool(pool, examples, config), file_parts(list_pool(pool))
        summaries: list[TableSummary] = []
        for part in parts:
            summaries.append(TableSummary.of(read_part(part, columns, None), columns))
            if summaries[-1].rows:
                break
        look = TableSummary.joined(summaries, columns)
        _check_not_empty(pool, look)
        if pool.role == "source":
            looks.append(look)
            source_columns = columns
        counts[pool.label] = round(look.rows * len(parts) / len(summaries))
    return RowEncoder.of(TableSummary.joined(looks, source_columns)).inputs, counts


def columns_of_pool(pool: Pool, examples: ExamplesConfig, config: RunConfig) -> TableColumns:
    """Return the columns to read. Only sources have groups: the split of a target does not depend on them."""
    column = config.retrain.group_column
    groups = (column,) if pool.role == "source" and column is not None else ()
    kind: FileKind = "parquet" if pool.config.reader == "parquet" else "csv"
    return TableColumns("examples", examples, kind, pool.section, groups, where=pool.config.where)


def _check_not_empty(pool: Pool, look: TableSummary) -> None:
    if not look.rows:
        raise _no_rows(pool, look.filtered)


def _no_rows(pool: Pool, filtered: int) -> InputError:
    return InputError(
        f"the {pool.label} has no rows",
        where=pool.files_key,
        got=f"{filtered} rows, none of which 'where' keeps" if filtered else "empty files",
        wanted="at least one row",
    )


def _check_sources(config: RunConfig, encoder: RowEncoder) -> None:
    """Raise InputError unless the sources have two classes, and all groups that the prior names."""
    assert config.examples is not None
    if config.examples.task == "classification" and len(encoder.label_names) < 2:
        raise InputError(
            "the label has one class only",
            where="examples.label",
            got=", ".join(encoder.label_names) or "no rows",
            wanted="two classes or more over all sources",
        )
    for key, objective in config.retrain.objectives.items():
        if not isinstance(objective, GroupObjective) or not objective.group_column:
            continue
        if isinstance(objective.prior, dict) and set(objective.prior) != set(encoder.group_names):
            raise InputError(
                "the prior does not fit the groups",
                where=f"{key}.prior",
                got=", ".join(objective.prior),
                wanted=f"a weight for every value of {objective.group_column}: {', '.join(encoder.group_names)}",
            )


def _check_fit(pool: Pool, look: TableSummary, encoder: RowEncoder) -> None:
    """Raise InputError unless the encoder knows a target's classes and the length of its features."""
    if pool.role == "target" and (unknown := sorted(set(look.labels) - set(encoder.label_names))):
        raise InputError(
            f"the {pool.label} has a class that no source has",
            where=f"examples.label, {pool.files_key}",
            got=listed(unknown),
            wanted=f"one of {listed(encoder.label_names)}",
            remedy="leave its rows out by 'where', or add a source that has it",
        )
    if len(look.mean) != len(encoder.mean):
        raise InputError(
            "the features differ in length",
            where=f"examples.features, {pool.files_key}",
            got=len(look.mean),
            wanted=f"{len(encoder.mean)}, as the sources have",
        )


def _counts(listing: Listing, look: TableSummary, encoded: Artifact) -> dict[str, int]:
    """Return the counts that texts have. A row is a document of one token, and no duplicates are dropped."""
    zeros = dict.fromkeys(("skipped_not_utf8", "skipped_empty", "split", "duplicates", "in_target"), 0)
    size = listing.size_bytes or 0
    read = {"documents_read": look.rows + look.filtered, "filtered": look.filtered, "bytes_read": size}
    counts = zeros | read | {"documents": look.rows, "bytes": size, "tokens": look.rows}
    if listing.pool.role == "source":
        return counts
    parts = {f"{part}_{name}": encoded.meta[part][name] for part in PARTS for name in ("documents", "tokens")}
    return counts | parts


def _warnings(looks: Mapping[str, TableSummary], encoder: RowEncoder) -> Iterator[DataWarning]:
    first_with: dict[str, str] = {}
    for label, look in looks.items():
        if (other := first_with.setdefault(fingerprint(look.digests), label)) != label:
            one_role = other.split()[0] == label.split()[0]
            so = "shares between them mean nothing" if one_role else "models are judged by what they have learnt"
            message = f"{other} and {label} hold the same rows: {so}"
            yield {"code": "identical_pools", "message": message, "pools": [other, label]}
        for column, values in look.categories.items():
            if unknown := sorted(set(values) - set(encoder.categories[column])):
                message = f"{label} has values of {column} that no source has, all zeros: {', '.join(unknown[:NAMED])}"
                yield {"code": "unknown_category", "message": message, "pools": [label], "column": column}


# ---------------------------------------------------------------------------------------------------------------- steps


@dataclass(frozen=True)
class ReadTask:
    """Read part ``index`` of a pool. ``rows``: at most so many of the part; None: all."""

    pool: Pool
    part: FilePart
    index: int
    columns: TableColumns
    draft: Draft
    rows: int | None


@dataclass(frozen=True)
class LookAt(Step[ReadTask, TableSummary]):
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

    def tasks(self, draft: Draft) -> list[ReadTask]:
        return _read_tasks(self.listing, self.columns, draft)

    @staticmethod
    def run(task: ReadTask) -> TableSummary:
        table = read_part(task.part, task.columns, task.rows)
        rows, groups = _digests(table)
        return replace(TableSummary.of(table, task.columns), digests=[rows], group_digests=[groups])

    def publish(self, draft: Draft, results: Sequence[TableSummary]) -> Artifact:
        return draft.publish({}, asdict(TableSummary.joined(results, self.columns)))


@dataclass(frozen=True)
class EncodeTask:
    """Read rows again and encode them. ``digests``: what ``_digests`` returned when the values were looked at."""

    source: ReadTask
    digests: tuple[str, str]
    encoder: RowEncoder

    def table(self) -> Table:
        """Read the rows. Raises StageError if they have changed."""
        table = read_part(self.source.part, self.source.columns, self.source.rows)
        if _digests(table) != self.digests:
            raise pool_changed(self.source.pool)
        return table


@dataclass(frozen=True)
class EncodePool(Step[EncodeTask, Result]):
    """The encoded rows of a pool. ``look``: the values of its columns."""

    listing: Listing
    look: TableSummary
    columns: TableColumns
    encoder: RowEncoder

    def tasks(self, draft: Draft) -> list[EncodeTask]:
        sources = _read_tasks(self.listing, self.columns, draft)
        digests = zip(self.look.digests, self.look.group_digests, strict=True)
        return [EncodeTask(source, pair, self.encoder) for source, pair in zip(sources, digests, strict=True)]


@dataclass(frozen=True)
class EncodeSource(EncodePool[tuple[FileRecord, int]]):
    """The records of a source. Meta: ``tokens`` (the number of examples), ``shards`` ({file: examples}, in order) and
    ``content`` (the identity of the records without their groups)."""

    kind = KIND

    @property
    def content(self) -> str:
        return fingerprint([KIND, 1, self.encoder.digest, self.look.digests])

    @property
    def id(self) -> str:
        groups = self.encoder.group_names
        return fingerprint([self.content, groups, self.look.group_digests]) if groups else self.content

    @staticmethod
    def run(task: EncodeTask) -> tuple[FileRecord, int]:
        """Write a part's records, and return the file and how many there are."""
        records = task.encoder.encode(task.table())
        sink = io.BytesIO()
        np.save(sink, records)
        return task.source.draft.write(f"{task.source.index:06d}.npy", sink.getvalue()), len(records)

    def publish(self, draft: Draft, results: Sequence[tuple[FileRecord, int]]) -> Artifact:
        files = {f"{index:06d}.npy": record for index, (record, count) in enumerate(results) if count}
        shards = {f"{index:06d}.npy": count for index, (_, count) in enumerate(results) if count}
        return draft.publish(files, {"tokens": sum(shards.values()), "shards": shards, "content": self.content})


@dataclass(frozen=True)
class EncodeTarget(EncodePool[target_rows.RowsResult]):
    """The rows of a target. The meta is that of ``publish_rows``."""

    kind = target_rows.KIND

    @property
    def id(self) -> str:
        held_out = target_rows.target_config(self.listing.pool).held_out
        return fingerprint([target_rows.KIND, 1, self.encoder.digest, self.look.digests, held_out])

    @staticmethod
    def run(task: EncodeTask) -> target_rows.RowsResult:
        """Write a part's rows of the prediction cache, at most FILE_ROWS a file; equal rows fall into one part."""
        source, table = task.source, task.table()
        held_out = target_rows.target_config(source.pool).held_out
        contents, records = row_hashes(table), task.encoder.encode(table)
        parts = np.array([part_of(content, held_out) for content in contents])
        # Equal rows are told apart by their place.
        documents = [
            hashlib.blake2b(content + f"{source.index}-{row}".encode(), digest_size=HASH_BYTES).digest()
            for row, content in enumerate(contents)
        ]
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
        return target_rows.publish_rows(draft, 1, results)

    def check(self, artifact: Artifact) -> None:
        target_rows.check_rows(self.listing.pool, artifact, remedy=TOO_FEW)


def file_parts(listing: Listing) -> list[FilePart]:
    """Return the pool's parts. Raises InputError if there are none: Parquet files may have no row groups."""
    parts = [part for part in listing.parts if isinstance(part, FilePart)]
    if not parts:
        raise _no_rows(listing.pool, 0)
    return parts


def _read_tasks(listing: Listing, columns: TableColumns, draft: Draft) -> list[ReadTask]:
    parts = file_parts(listing)
    limits = quotas(listing.pool.config.max_tokens, len(parts))
    return [
        ReadTask(listing.pool, part, index, columns, draft, limit)
        for index, (part, limit) in enumerate(zip(parts, limits, strict=True))
    ]


def row_hashes(table: Table) -> list[bytes]:
    """Return a hash of every row's inputs and label, 16 bytes each."""
    texts, numbers = list(table.categorical.values()), table.numeric
    if table.numbers is None:
        texts.append(table.labels)
    else:
        numbers = np.column_stack([numbers, table.numbers])
    words = zip(*texts, strict=True) if texts else repeat((), len(table))
    return [
        hashlib.blake2b(row.tobytes() + json.dumps(words_of_row).encode(), digest_size=HASH_BYTES).digest()
        for row, words_of_row in zip(numbers, words, strict=True)
    ]


def _digests(table: Table) -> tuple[str, str]:
    """Return the identity of the rows' inputs and labels, and that of their groups."""
    groups = None if table.groups is None else table.groups.tolist()
    return hashlib.sha256(b"".join(row_hashes(table))).hexdigest(), fingerprint(groups)


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
