"""Grouped rows as a table has them: read whole, every column that the run file names checked, nothing encoded yet."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mixray.config.robust import ExamplesConfig
from mixray.data.locations import SourceFile, find_files, open_filesystem
from mixray.data.wording import said
from mixray.errors import InputError

SPLITS = ("train", "validation", "test")
MISSING = "(missing)"
"""The value of a categorical column where there is none."""
JOINER = "|"
Texts = NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class Examples:
    """All rows. numeric: float64 (rows, columns), NaN nowhere; the others: text (rows,).

    categorical: column -> its values; spurious, splits: None where the run file names no such column.
    """

    numeric: NDArray[np.float64]
    numeric_names: tuple[str, ...]
    categorical: dict[str, Texts]
    labels: Texts
    groups: Texts
    spurious: Texts | None
    splits: Texts | None

    def __len__(self) -> int:
        return len(self.labels)


def read_examples(config: ExamplesConfig) -> Any:
    """The named columns of all files as one Arrow table. Raises InputError: no file, no such column, unreadable."""
    kind, locations = ("parquet", config.parquet) if config.parquet is not None else ("csv", config.csv)
    assert locations is not None
    key = f"data.{kind}"
    patterns = [locations] if isinstance(locations, str) else list(locations)
    files = find_files(patterns, [], folder_glob=f"**/*.{kind}")
    if not files:
        raise InputError("no file matches", where=key, got=", ".join(patterns), wanted=f"{kind} files")
    columns = list(dict.fromkeys(name for names in config.named_columns.values() for name in names))
    tables = []
    for file in files:
        try:
            tables.append(_read(file, kind, config, columns))
        except (OSError, pa.ArrowException) as error:
            got = f"{file.location} ({said(error)})"
            raise InputError("a file cannot be read", where=key, got=got, wanted=f"a whole {kind} file") from error
    try:
        return pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    except pa.ArrowException as error:
        raise InputError("the files do not have the same columns", where=key, got=said(error)) from error


def examples_of(table: Any, config: ExamplesConfig) -> Examples:
    """The table's columns in their roles. Raises InputError naming the column and what is wrong with it."""
    if not table.num_rows:
        raise InputError("there are no rows", where="data", wanted="one row per example")
    assert config.label is not None
    parts = [_numbers(table, name) for name in config.numeric]
    names = list(config.numeric)
    if config.features is not None:
        features = _lists(table, config.features)
        parts.append(features)
        names = [f"{config.features}.{place}" for place in range(features.shape[1])]
    numeric = np.column_stack(parts) if parts else np.empty((table.num_rows, 0))
    labels = _texts(table, config.label, "label")
    columns = [_texts(table, name, "group") for name in config.group_columns]
    groups = columns[0] if len(columns) == 1 else np.array([JOINER.join(row) for row in zip(*columns, strict=True)])
    splits = None if config.split is None else _splits(_texts(table, config.split, "split"), config.split)
    return Examples(
        numeric,
        tuple(names),
        {name: _texts(table, name, "categorical", missing=MISSING) for name in config.categorical},
        labels,
        groups,
        None if config.spurious is None else _texts(table, config.spurious, "spurious"),
        splits,
    )


def _read(file: SourceFile, kind: str, config: ExamplesConfig, columns: list[str]) -> Any:
    """The columns of a file, which must have them."""
    with open_filesystem(file.filesystem)[0].open_input_file(file.path) as stream:
        if kind == "parquet":
            parquet = pq.ParquetFile(stream)
            _check_columns(parquet.schema_arrow.names, config, file.location)
            return parquet.read(columns).select(columns)
        # A text that is empty is missing, as a number is.
        table = pyarrow.csv.read_csv(stream, convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True))
        _check_columns(table.schema.names, config, file.location)
        return table.select(columns)


def _check_columns(present: Iterable[str], config: ExamplesConfig, place: str) -> None:
    known = set(present)
    for key, names in config.named_columns.items():
        for name in names:
            if name not in known:
                raise InputError(
                    "a column is missing",
                    where=f"data.{key}",
                    got=f"{name}, but {place} has the columns {', '.join(sorted(known)) or '(none)'}",
                    wanted="the name of a column",
                )


def _numbers(table: Any, name: str) -> NDArray[np.float64]:
    column = table.column(name)
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise InputError(
            "a numeric column does not hold numbers",
            where=f"data.numeric, column {name}",
            got=f"{kind}, for instance {_first_value(column)!r}",
            wanted="integers, floating-point numbers or booleans",
            remedy="name it under categorical, or mend the column",
        )
    values: NDArray[np.float64] = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    _refuse_not_finite(values[:, None], f"data.numeric, column {name}")
    return values


def _lists(table: Any, name: str) -> NDArray[np.float64]:
    column = table.column(name).combine_chunks()
    kind, where = column.type, f"data.features, column {name}"
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    numbers = lists and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))
    wanted = "lists of numbers, all of one length"
    if not numbers:
        raise InputError("the features are not lists of numbers", where=where, got=str(kind), wanted=wanted)
    if column.null_count:
        raise InputError("a row has no features", where=where, got=f"{column.null_count} missing", wanted=wanted)
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) != 1 or not lengths[0]:
        raise InputError(
            "the features differ in length", where=where, got=f"lengths {sorted(lengths)[:5]}", wanted=wanted
        )
    flat = pc.cast(column.flatten(), pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    values: NDArray[np.float64] = flat.reshape(len(column), lengths[0])
    _refuse_not_finite(values, where)
    return values


def _refuse_not_finite(values: NDArray[np.float64], where: str) -> None:
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise InputError(
            "a number is missing or not finite",
            where=f"{where}, row {bad[0]}",
            got=f"{len(bad)} of {len(values)} rows with null, NaN or infinity",
            wanted="a finite number in every row",
            remedy="fill the gaps or drop the rows before; a categorical column may have gaps",
        )


def _texts(table: Any, name: str, key: str, *, missing: str | None = None) -> Texts:
    """A column as text. ``missing``: what stands for null; None: null is refused."""
    column = table.column(name)
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    plain = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind)
    if not (plain or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise InputError(
            "a column does not hold classes",
            where=f"data.{key}, column {name}",
            got=f"{kind}, for instance {_first_value(column)!r}",
            wanted="text, integers or booleans",
            remedy="name it under numeric, or cut it into classes before" if key == "categorical" else None,
        )
    values = column.to_pylist()
    if missing is None and column.null_count:
        raise InputError(
            "a value is missing",
            where=f"data.{key}, column {name}, row {values.index(None)}",
            got=f"{column.null_count} of {len(values)} rows without one",
            wanted="a value in every row",
            remedy="drop the rows or fill the gaps before",
        )
    return np.array([missing if value is None else _written(value) for value in values])


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _splits(values: Texts, name: str) -> Texts:
    known = np.unique(values)
    other = sorted(set(known.tolist()) - set(SPLITS))
    if other:
        raise InputError(
            "a row belongs to no part",
            where=f"data.split, column {name}",
            got=", ".join(map(repr, other[:5])),
            wanted=" | ".join(SPLITS),
            remedy="rename the parts, or leave out data.split",
        )
    lacking = [part for part in ("train", "test") if part not in known]
    if lacking:
        raise InputError(
            f"no row belongs to the part {lacking[0]!r}",
            where=f"data.split, column {name}",
            got=", ".join(known.tolist()),
            wanted="train and test, and validation or a share of train for it",
        )
    return values


def _first_value(column: Any) -> Any:
    return next((value for value in column.to_pylist()[:100] if value is not None), None)
