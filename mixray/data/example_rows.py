"""Tabular examples as files have them: read part by part, summed up, encoded.

A source's example becomes a record that training reads by its number; a target's becomes a row of the prediction cache,
a document of one window that counts as one token. Rows that are alike stay: tables repeat by chance.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mixray.config.data import ExamplesConfig, TargetConfig
from mixray.data.columns import column_at, missing_column, type_at, written
from mixray.data.documents import HASH_BYTES
from mixray.data.inputs import ExampleInputs
from mixray.data.locations import open_filesystem
from mixray.data.parts import FilePart, FileSlice
from mixray.data.pools import Pool
from mixray.data.rows import FILE_ROWS, SIDES, RowsResult, SideResult, side_of
from mixray.data.selection import changed
from mixray.data.streams import reading
from mixray.data.tables import write_table
from mixray.data.typed_columns import MISSING, Texts, check_columns, ids_in, lists, numbers, texts
from mixray.errors import InputError
from mixray.store import Draft, FileRecord, fingerprint

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

    def first(self, rows: int | None) -> ExampleTable:
        categorical = {name: values[:rows] for name, values in self.categorical.items()}
        groups = None if self.groups is None else self.groups[:rows]
        return ExampleTable(self.numeric[:rows], categorical, self.labels[:rows], groups, self.filtered)

    def contents(self) -> list[bytes]:
        """A hash of every row's values, 16 bytes each."""
        columns = [*self.categorical.values(), self.labels, *([] if self.groups is None else [self.groups])]
        words = zip(*columns, strict=True)
        return [
            hashlib.blake2b(row.tobytes() + "\x1f".join(texts).encode(), digest_size=HASH_BYTES).digest()
            for row, texts in zip(self.numeric, words, strict=True)
        ]


@dataclass(frozen=True)
class Columns:
    """What the run file says of the columns. ``group``: the column of groups, if there is one."""

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
    """A part of a pool. ``rows``: at most so many of it, None for all; ``digest``: of what was seen there."""

    pool: Pool
    part: FilePart
    index: int
    columns: Columns
    draft: Draft
    rows: int | None = None
    digest: str | None = None


# -------------------------------------------------------------------------------------------------------------- reading


def read_part(pool: Pool, part: FilePart, columns: Columns, rows: int | None) -> ExampleTable:
    """Raises InputError naming the column and what is wrong with it, or the file that cannot be read."""
    tables = [_filtered(_read(pool, piece, columns), pool) for piece in part.slices]
    filtered = sum(dropped for _, dropped in tables)
    try:
        table = pa.concat_tables([kept for kept, _ in tables], promote_options="permissive").combine_chunks()
    except pa.ArrowException as error:
        raise InputError("the files do not have the same columns", where=pool.files_key, got=str(error)) from error
    if not table.num_rows:
        table = table.slice(0, 0)
    config = columns.examples
    parts = [numbers(table, name, "examples.numeric") for name in config.numeric]
    if config.features is not None and table.num_rows:
        parts.append(lists(table, config.features, "examples.features"))
    return ExampleTable(
        np.column_stack(parts) if parts else np.empty((table.num_rows, 0)),
        {name: texts(table, name, "examples.categorical", missing=MISSING) for name in config.categorical},
        texts(table, config.label, "examples.label"),
        None if columns.group is None else texts(table, columns.group, "retrain.objective.groups"),
        filtered,
    ).first(rows)


def _read(pool: Pool, piece: FileSlice, columns: Columns) -> Any:
    """The columns that are named, and those that rows are filtered by."""
    file, place = piece.file, piece.file.location
    wanted = list(dict.fromkeys([name for names in columns.named.values() for name in names] + list(pool.config.where)))
    with reading(file, pool), open_filesystem(file.filesystem)[0].open_input_file(file.path) as stream:
        if pool.config.reader == "parquet":
            parquet = pq.ParquetFile(stream)
            _check(parquet.schema_arrow, pool, columns, place)
            groups = range(piece.start, parquet.num_row_groups if piece.stop is None else piece.stop)
            return parquet.read_row_groups(list(groups), columns=wanted)
        # A text that is empty is missing, as a number is; classes are not numbers, so that 01 and 1 differ.
        types = dict.fromkeys([*columns.texts, *pool.config.where], pa.string())
        options = pyarrow.csv.ConvertOptions(strings_can_be_null=True, column_types=types)
        table = pyarrow.csv.read_csv(stream, convert_options=options)
        _check(table.schema, pool, columns, place)
        return table.select(wanted)


def _check(schema: Any, pool: Pool, columns: Columns, place: str) -> None:
    check_columns(schema.names, columns.named, place)
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
    squares of the deviations from the mean; categories: column -> values; digests: of each part's rows in order."""

    rows: int
    filtered: int
    mean: list[float]
    squares: list[float]
    categories: dict[str, list[str]]
    labels: list[str]
    groups: list[str]
    digests: list[str]

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
    )


def together(looks: Sequence[Look]) -> Look:
    """The look at all their rows (Chan, Golub and LeVeque 1979 for the sums of squares)."""
    digests = [digest for look in looks for digest in look.digests]
    looks = [look for look in looks if look.rows] or list(looks[:1])
    widths = sorted({len(look.mean) for look in looks})
    if len(widths) > 1:
        raise InputError(
            "the features differ in length", where="examples.features", got=f"lengths {widths[:5]}", wanted="one length"
        )
    counts = np.array([look.rows for look in looks], dtype=np.float64)
    means = np.array([look.mean for look in looks])
    mean = counts @ means / max(counts.sum(), 1)
    squares = np.array([look.squares for look in looks]).sum(axis=0) + counts @ (means - mean) ** 2
    categories = {
        name: _union([look.categories[name] for look in looks], f"examples.categorical, column {name}")
        for name in looks[0].categories
    }
    return Look(
        int(counts.sum()),
        sum(look.filtered for look in looks),
        mean.tolist(),
        squares.tolist(),
        categories,
        _union([look.labels for look in looks], "examples.label"),
        _union([look.groups for look in looks], "retrain.objective.groups"),
        digests,
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
        deviation = np.sqrt(np.array(sources.squares) / sources.rows)
        categories = {name: tuple(values) for name, values in sources.categories.items()}
        names = tuple(sources.labels), tuple(sources.groups)
        return cls(tuple(sources.mean), tuple(deviation.tolist()), categories, *names)

    @property
    def digest(self) -> str:
        return fingerprint({"examples": 1, **asdict(self)})

    def encode(self, table: ExampleTable) -> NDArray[np.void]:
        """Records (rows,): features float32 (features,), label and group int64; a group that no source has is -1."""
        mean, deviation = np.array(self.mean), np.array(self.deviation)
        scaled = np.zeros_like(table.numeric)
        np.divide(table.numeric - mean, deviation, out=scaled, where=deviation > 0)
        columns = [scaled]
        for name, values in table.categorical.items():
            columns.append(ids_in(values, self.categories[name])[:, None] == np.arange(len(self.categories[name])))
        features = np.column_stack(columns)
        records = np.zeros(len(table), record_type(features.shape[1]))
        records["features"] = features
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
    sides = np.array([side_of(content, config.held_out) for content in contents])
    # What tells alike rows apart is where they stand.
    marks = [f"{source.index}-{row}".encode() for row in range(len(table))]
    pairs = zip(contents, marks, strict=True)
    documents = [hashlib.blake2b(content + mark, digest_size=HASH_BYTES).digest() for content, mark in pairs]
    results: RowsResult = {side: SideResult() for side in SIDES}
    for side in SIDES:
        mine, result = np.flatnonzero(sides == side), results[side]
        result.rows = result.documents = result.tokens = len(mine)
        for number, start in enumerate(range(0, len(mine), FILE_ROWS)):
            chosen = mine[start : start + FILE_ROWS]
            name = f"{side}-{source.index:06d}-{number:05d}.parquet"
            rows = _cache_rows([documents[row] for row in chosen], records[chosen])
            result.files.append(write_table(source.draft, name, rows))
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
    if _digest(table) != task.digest:
        raise changed(task.pool)
    return table
