"""Tabular examples as files have them: read part by part, summed up, encoded.

A source's example becomes a record that training reads by its number; a target's becomes a row of the prediction cache,
a document of one window that counts as one token. Rows that are alike stay: tables repeat by chance.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mixray.config.data import ExamplesConfig, TargetConfig
from mixray.data.pools import ExampleInputs, Pool
from mixray.data.reading.columns import column_at, missing_column, type_at, written
from mixray.data.reading.csv_rows import read_csv, with_gaps
from mixray.data.reading.locations import open_filesystem
from mixray.data.reading.parts import FilePart, FileSlice
from mixray.data.reading.streams import reading
from mixray.data.tabular.typed_columns import (
    MISSING,
    Texts,
    check_columns,
    ids_in,
    lists,
    numbers,
    texts,
    without_rounding,
)
from mixray.data.target_rows import FILE_ROWS, PARTS, PartResult, RowsResult, part_of
from mixray.data.text.deduplicate import pool_changed
from mixray.data.text.documents import HASH_BYTES
from mixray.errors import InputError
from mixray.store import Draft, FileRecord, encode, fingerprint

MOST_VALUES = 10_000
"""Of one categorical column, or classes of a label."""
NAMED = 5
"""Values that an error names."""


@dataclass(frozen=True, eq=False)
class ExampleTable:
    """Rows of one part, not encoded yet. numeric: float64 (rows, columns); categorical: column -> text (rows,);
    labels, groups: text (rows,), groups None where the run file names no column."""

    numeric: NDArray[np.float64]
    categorical: dict[str, Texts]
    labels: Texts
    groups: Texts | None
    filtered: int

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def joined(cls, tables: Sequence[ExampleTable]) -> ExampleTable:
        """All their rows. Raises InputError where features differ in length."""
        filtered = sum(table.filtered for table in tables)
        tables = [table for table in tables if len(table)] or list(tables[:1])
        check_widths(table.numeric.shape[1] for table in tables)
        return cls(
            np.concatenate([table.numeric for table in tables]),
            {name: np.concatenate([table.categorical[name] for table in tables]) for name in tables[0].categorical},
            np.concatenate([table.labels for table in tables]),
            np.concatenate([table.groups for table in tables]) if tables[0].groups is not None else None,
            filtered,
        )

    def first(self, rows: int | None) -> ExampleTable:
        categorical = {name: values[:rows] for name, values in self.categorical.items()}
        groups = None if self.groups is None else self.groups[:rows]
        return ExampleTable(self.numeric[:rows], categorical, self.labels[:rows], groups, self.filtered)

    def contents(self) -> list[bytes]:
        """A hash of every row's inputs and label, 16 bytes each."""
        words = zip(*self.categorical.values(), self.labels, strict=True)
        return [
            hashlib.blake2b(row.tobytes() + json.dumps(texts).encode(), digest_size=HASH_BYTES).digest()
            for row, texts in zip(self.numeric, words, strict=True)
        ]


@dataclass(frozen=True)
class Columns:
    """What the run file says of a pool's columns. ``group``: the column of groups, if there is one: of sources."""

    examples: ExamplesConfig
    group: str | None

    @property
    def named(self) -> dict[str, list[str]]:
        """Dotted key of the run file -> the columns it names."""
        named = {f"examples.{key}": list(columns) for key, columns in self.examples.inputs.items()}
        groups = {} if self.group is None else {"retrain.objective.groups": [self.group]}
        return named | {"examples.label": [self.examples.label]} | groups

    @property
    def texts(self) -> list[str]:
        """Those that hold classes, whatever they look like."""
        return [*self.examples.categorical, self.examples.label, *([] if self.group is None else [self.group])]


@dataclass(frozen=True)
class ExamplePart:
    """A part of a pool. ``rows``: at most so many of it, None for all; ``digests``: of the rows and their groups, as
    they were seen there."""

    pool: Pool
    part: FilePart
    index: int
    columns: Columns
    draft: Draft
    rows: int | None = None
    digests: tuple[str, str] | None = None


# -------------------------------------------------------------------------------------------------------------- reading


def read_part(pool: Pool, part: FilePart, columns: Columns, rows: int | None) -> ExampleTable:
    """Raises InputError naming the column and what is wrong with it, or the file that cannot be read."""
    return ExampleTable.joined([_read_piece(pool, piece, columns) for piece in part.slices]).first(rows)


def _read_piece(pool: Pool, piece: FileSlice, columns: Columns) -> ExampleTable:
    read = _read_parquet if pool.config.reader == "parquet" else _read_csv
    with reading(piece.file, pool):
        table = read(pool, piece, columns)
    kept, filtered = _filtered(table, pool)
    try:
        return _typed(kept, columns, filtered)
    except InputError as error:
        got = f"{error.got}, in {piece.file.location}"
        raise InputError(error.what, where=error.where, got=got, wanted=error.wanted, remedy=error.remedy) from error


def _typed(table: Any, columns: Columns, filtered: int) -> ExampleTable:
    """The columns in their roles. Where there are no rows their types say nothing."""
    config = columns.examples
    if not table.num_rows:
        nothing = np.empty(0, dtype=np.str_)
        categorical = dict.fromkeys(config.categorical, nothing)
        groups = None if columns.group is None else nothing
        return ExampleTable(np.empty((0, len(config.numeric))), categorical, nothing, groups, filtered)
    parts = [numbers(table, name, "examples.numeric") for name in config.numeric]
    if config.features is not None:
        parts.append(lists(table, config.features, "examples.features"))
    return ExampleTable(
        np.column_stack(parts) if parts else np.empty((table.num_rows, 0)),
        {name: texts(table, name, "examples.categorical", missing=MISSING) for name in config.categorical},
        texts(table, config.label, "examples.label"),
        None if columns.group is None else texts(table, columns.group, "retrain.objective.groups"),
        filtered,
    )


def _read_parquet(pool: Pool, piece: FileSlice, columns: Columns) -> Any:
    """The columns that are named, and those that rows are filtered by."""
    file = piece.file
    with open_filesystem(file.filesystem)[0].open_input_file(file.path) as stream:
        parquet = pq.ParquetFile(stream)
        _check(parquet.schema_arrow, pool, columns, file.location)
        groups = range(piece.start, parquet.num_row_groups if piece.stop is None else piece.stop)
        return parquet.read_row_groups(list(groups), columns=_wanted(pool, columns))


def _read_csv(pool: Pool, piece: FileSlice, columns: Columns) -> Any:
    """The same."""
    numeric = set(columns.examples.numeric)
    classes = [*columns.texts, *(name for name in pool.config.where if name not in numeric)]
    table = read_csv(piece.file, classes)
    _check(table.schema, pool, columns, piece.file.location)
    return with_gaps(table.select(_wanted(pool, columns)), columns.texts)


def _wanted(pool: Pool, columns: Columns) -> list[str]:
    return list(dict.fromkeys([name for names in columns.named.values() for name in names] + list(pool.config.where)))


def _check(schema: Any, pool: Pool, columns: Columns, place: str) -> None:
    heads = [path if path in schema.names else path.partition(".")[0] for path in pool.config.where]
    filtered_by = {pool.key("where"): [head for head in heads if head in schema.names]}
    check_columns(schema.names, columns.named | filtered_by, place)
    for path in pool.config.where:
        if type_at(schema, path) is None:
            raise missing_column(pool, "where", path, schema.names, place)


def _filtered(table: Any, pool: Pool) -> tuple[Any, int]:
    """The rows that ``where`` keeps, and how many it does not."""
    keep = np.ones(table.num_rows, dtype=np.bool_)
    for path, wanted in pool.config.where.items():
        keep &= np.array([written(value) == wanted for value in column_at(table, path).to_pylist()], dtype=np.bool_)
    return (table, 0) if keep.all() else (table.filter(pa.array(keep)), int((~keep).sum()))


# -------------------------------------------------------------------------------------------------------------- looking


@dataclass(frozen=True)
class Look:
    """What is known of some rows before they are encoded. mean, squares: of each numeric column, the latter summed
    squares of the deviations from the mean; categories: column -> values; digests, group_digests: of each part's rows
    in order, and of their groups."""

    rows: int
    filtered: int
    mean: list[float]
    squares: list[float]
    categories: dict[str, list[str]]
    labels: list[str]
    groups: list[str]
    digests: list[str]
    group_digests: list[str]

    @property
    def inputs(self) -> ExampleInputs:
        features = len(self.mean) + sum(map(len, self.categories.values()))
        return ExampleInputs(features, tuple(self.labels), tuple(self.groups))


def look_at(task: ExamplePart) -> Look:
    return look_of(read_part(task.pool, task.part, task.columns, task.rows))


def look_of(table: ExampleTable) -> Look:
    centred = table.numeric - (mean := table.numeric.mean(axis=0) if len(table) else np.zeros(table.numeric.shape[1]))
    return Look(
        len(table),
        table.filtered,
        mean.tolist(),
        (centred**2).sum(axis=0).tolist(),
        {name: _values(values, f"examples.categorical, column {name}") for name, values in table.categorical.items()},
        _values(table.labels, "examples.label"),
        [] if table.groups is None else _values(table.groups, "retrain.objective.groups"),
        [_digest(table)],
        [_group_digest(table)],
    )


def together(looks: Sequence[Look]) -> Look:
    """The look at all their rows (Chan, Golub and LeVeque 1979 for the sums of squares)."""
    digests = [digest for look in looks for digest in look.digests]
    group_digests = [digest for look in looks for digest in look.group_digests]
    filtered = sum(look.filtered for look in looks)
    looks = [look for look in looks if look.rows] or list(looks[:1])
    check_widths(len(look.mean) for look in looks)
    counts = np.array([look.rows for look in looks], dtype=np.float64)
    means = np.array([look.mean for look in looks])
    mean = _sum(counts[:, None] * means) / max(counts.sum(), 1)
    squares = _sum(np.array([look.squares for look in looks]) + counts[:, None] * (means - mean) ** 2)
    categories = {
        name: _union([look.categories[name] for look in looks], f"examples.categorical, column {name}")
        for name in looks[0].categories
    }
    return Look(
        int(counts.sum()),
        filtered,
        mean.tolist(),
        squares.tolist(),
        categories,
        _union([look.labels for look in looks], "examples.label"),
        _union([look.groups for look in looks], "retrain.objective.groups"),
        digests,
        group_digests,
    )


def _sum(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the first axis; exactly rounded, so that the order of parts and sources touches no bit."""
    return np.array([math.fsum(column) for column in values.T])


def check_widths(widths: Iterable[int]) -> None:
    found = sorted(set(widths))
    if len(found) > 1:
        raise InputError(
            "the features differ in length", where="examples.features", got=f"lengths {found[:NAMED]}", wanted="one"
        )


def _values(values: Texts, where: str) -> list[str]:
    return _union([np.unique(values).tolist()], where)


def _union(values: Sequence[Sequence[str]], where: str) -> list[str]:
    found = sorted({value for some in values for value in some})
    if len(found) > MOST_VALUES:
        raise InputError(
            "a column has too many values",
            where=where,
            got=f"{len(found)}, for instance {', '.join(map(repr, found[:NAMED]))}",
            wanted=f"at most {MOST_VALUES}",
            remedy="name it under numeric, or leave it out",
        )
    return found


def _digest(table: ExampleTable) -> str:
    return hashlib.sha256(b"".join(table.contents())).hexdigest()


def _group_digest(table: ExampleTable) -> str:
    return fingerprint(None if table.groups is None else table.groups.tolist())


# ------------------------------------------------------------------------------------------------------------- encoding


@dataclass(frozen=True)
class ExampleEncoder:
    """Numbers less the mean over the deviation (a constant column becomes 0), categories one-hot, classes by number."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    categories: Mapping[str, tuple[str, ...]]
    label_names: tuple[str, ...]
    group_names: tuple[str, ...]

    @classmethod
    def of(cls, sources: Look) -> ExampleEncoder:
        """What the sources' rows say. Raises InputError where the label has one class."""
        if len(sources.labels) < 2:
            raise InputError(
                "the label has one class only",
                where="examples.label",
                got=", ".join(sources.labels) or "no rows",
                wanted="two classes or more over all sources",
            )
        mean = np.array(sources.mean)
        deviation = without_rounding(np.sqrt(np.array(sources.squares) / sources.rows), mean)
        categories = {name: tuple(values) for name, values in sources.categories.items()}
        names = tuple(sources.labels), tuple(sources.groups)
        return cls(tuple(mean.tolist()), tuple(deviation.tolist()), categories, *names)

    @property
    def digest(self) -> str:
        """Of what features and labels are made by; groups are no part of either."""
        settings = asdict(self)
        del settings["group_names"]
        return fingerprint({"examples": 1, **settings})

    @property
    def features(self) -> int:
        return len(self.mean) + sum(map(len, self.categories.values()))

    def encode(self, table: ExampleTable) -> NDArray[np.void]:
        """Records (rows,): features float32 (features,), label and group int64; a group that no source has is -1."""
        mean, deviation = np.array(self.mean), np.array(self.deviation)
        records = np.zeros(len(table), record_type(self.features))
        if not len(table):  # nor does such a table say how long its features are
            return records
        features, first = records["features"], len(mean)
        features[:, :first] = np.divide(
            table.numeric - mean, deviation, out=np.zeros_like(table.numeric), where=deviation > 0
        )
        for name, values in table.categorical.items():
            ids = ids_in(values, self.categories[name])
            known = np.flatnonzero(ids >= 0)
            features[known, first + ids[known]] = 1
            first += len(self.categories[name])
        records["label"] = ids_in(table.labels, self.label_names)
        records["group"] = -1 if table.groups is None else ids_in(table.groups, self.group_names)
        return records


def record_type(features: int) -> np.dtype[np.void]:
    return np.dtype([("features", "<f4", (features,)), ("label", "<i8"), ("group", "<i8")])


@dataclass(frozen=True)
class EncodeTask:
    source: ExamplePart
    encoder: ExampleEncoder


def write_examples(task: EncodeTask) -> tuple[FileRecord, int]:
    """Write a part's records; the file and how many there are."""
    records = task.encoder.encode(_read_again(task.source))
    sink = io.BytesIO()
    np.save(sink, records)
    return task.source.draft.write(f"{task.source.index:06d}.npy", sink.getvalue()), len(records)


def write_target_examples(task: EncodeTask) -> RowsResult:
    """Write a part's rows of the prediction cache, at most FILE_ROWS a file; alike rows fall on one side."""
    source, config = task.source, task.source.pool.config
    assert isinstance(config, TargetConfig)
    table = _read_again(source)
    contents, records = table.contents(), task.encoder.encode(table)
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


def _read_again(task: ExamplePart) -> ExampleTable:
    table = read_part(task.pool, task.part, task.columns, task.rows)
    if (_digest(table), _group_digest(table)) != task.digests:
        raise pool_changed(task.pool)
    return table
