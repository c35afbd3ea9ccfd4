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
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixray.config.data import ExamplesConfig, TargetConfig
from mixray.config.objective import GroupObjective
from mixray.config.schema import RunConfig
from mixray.data import target_rows
from mixray.data.pools import ExampleInputs, Notify, Pool, Prepared, pools_of
from mixray.data.reading.parts import FilePart, Listing, list_pool
from mixray.data.tabular.encoder import RowEncoder, TableSummary
from mixray.data.tabular.tables import NAMED, Table, TableColumns, read_part
from mixray.data.target_rows import FILE_ROWS, PARTS, PartResult, RowsResult, part_of
from mixray.data.text.deduplicate import pool_changed
from mixray.data.text.documents import HASH_BYTES
from mixray.errors import InputError
from mixray.store import Artifact, Artifacts, Draft, FileRecord, RunTasks, Step, encode, find_or_make, fingerprint


def prepare_examples(
    config: RunConfig, examples: ExamplesConfig, artifacts: Artifacts, run_tasks: RunTasks, notify: Notify
) -> Prepared:
    """Find or make everything that training and scoring read, as ``prepare`` does for texts."""
    listings = {pool.label: list_pool(pool) for pool in pools_of(config)}
    columns = {label: _columns_of(listing.pool, config, examples) for label, listing in listings.items()}
    looking = {label: LookAt(listing, columns[label]) for label, listing in listings.items()}
    looks = {
        label: TableSummary(**artifact.meta)
        for label, artifact in find_or_make(looking, artifacts, run_tasks, "look").items()
    }
    for label, listing in listings.items():
        _check_some(listing.pool, looks[label])
    sources = TableSummary.joined(
        [looks[f"source {name}"] for name in config.sources], columns[f"source {next(iter(config.sources))}"]
    )
    _check_classes(sources)
    encoder = RowEncoder.of(sources)
    _check_prior(config, encoder)
    for label, listing in listings.items():
        _check_fit(listing.pool, looks[label], encoder)
    encoding: dict[str, Step[Any, Any]] = {
        label: (EncodeSource if listing.pool.role == "source" else EncodeTarget)(
            listing, looks[label], columns[label], encoder
        )
        for label, listing in listings.items()
    }
    encoded = find_or_make(encoding, artifacts, run_tasks, "encode")
    for label in listings:
        notify(f"{label}: {looks[label].rows} examples")
    notify(f"{sources.inputs.features} features, {len(encoder.label_names)} classes")
    return Prepared(
        inputs=sources.inputs,
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
        columns, parts = _columns_of(pool, config, examples), file_parts(list_pool(pool))
        summaries: list[TableSummary] = []
        for part in parts:
            summaries.append(TableSummary.of(read_part(pool, part, columns, None), columns))
            if summaries[-1].rows:
                break
        look = TableSummary.joined(summaries, columns)
        _check_some(pool, look)
        if pool.role == "source":
            looks.append(look)
            source_columns = columns
        counts[pool.label] = round(look.rows * len(parts) / len(summaries))
    return TableSummary.joined(looks, source_columns).inputs, counts


def _columns_of(pool: Pool, config: RunConfig, examples: ExamplesConfig) -> TableColumns:
    """Return the columns to read. Only sources have groups: the split of a target does not depend on them."""
    objective = config.retrain.objective
    if pool.role == "target" or not isinstance(objective, GroupObjective):
        return TableColumns("examples", examples)
    return TableColumns("examples", examples, (objective.group_column,) if objective.group_column else ())


def _check_some(pool: Pool, look: TableSummary) -> None:
    if not look.rows:
        raise no_rows(pool, look.filtered)


def _check_classes(sources: TableSummary) -> None:
    if len(sources.labels) < 2:
        raise InputError(
            "the label has one class only",
            where="examples.label",
            got=", ".join(sources.labels) or "no rows",
            wanted="two classes or more over all sources",
        )


def _check_prior(config: RunConfig, encoder: RowEncoder) -> None:
    objective = config.retrain.objective
    if not isinstance(objective, GroupObjective) or not objective.group_column:
        return
    if isinstance(objective.prior, dict) and set(objective.prior) != set(encoder.group_names):
        raise InputError(
            "the prior does not fit the groups",
            where="retrain.objective.prior",
            got=", ".join(objective.prior),
            wanted=f"a weight for every value of {objective.group_column}: {', '.join(encoder.group_names)}",
        )


def _check_fit(pool: Pool, look: TableSummary, encoder: RowEncoder) -> None:
    if pool.role == "target" and (unknown := sorted(set(look.labels) - set(encoder.label_names))):
        raise InputError(
            f"the {pool.label} has a class that no source has",
            where=f"examples.label, {pool.files_key}",
            got=", ".join(map(repr, unknown[:NAMED])),
            wanted=f"one of {', '.join(map(repr, encoder.label_names[:NAMED]))}"
            + (", ..." if len(encoder.label_names) > NAMED else ""),
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


def _warnings(looks: Mapping[str, TableSummary], encoder: RowEncoder) -> Iterator[dict[str, Any]]:
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
