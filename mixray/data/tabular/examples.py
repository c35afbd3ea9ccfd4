"""Grouped rows as a table has them: read whole, every column that the run file names checked, nothing encoded yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mixray.config.robust import GroupedConfig
from mixray.data.reading.csv_rows import read_csv, with_gaps
from mixray.data.reading.locations import SourceFile, find_files, open_filesystem
from mixray.data.tabular.typed_columns import MISSING, Texts, check_columns, lists, numbers, texts
from mixray.errors import InputError, first_line

SPLITS = ("train", "validation", "test")
JOINER = "|"


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


def read_examples(config: GroupedConfig) -> Any:
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
            got = f"{file.location} ({first_line(error)})"
            raise InputError("a file cannot be read", where=key, got=got, wanted=f"a whole {kind} file") from error
    try:
        return pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    except pa.ArrowException as error:
        raise InputError("the files do not have the same columns", where=key, got=first_line(error)) from error


def examples_of(table: Any, config: GroupedConfig) -> Examples:
    """The table's columns in their roles. Raises InputError naming the column and what is wrong with it."""
    if not table.num_rows:
        raise InputError("there are no rows", where="data", wanted="one row per example")
    assert config.label is not None
    parts = [numbers(table, name, "data.numeric") for name in config.numeric]
    names = list(config.numeric)
    if config.features is not None:
        features = lists(table, config.features, "data.features")
        parts.append(features)
        names = [f"{config.features}.{place}" for place in range(features.shape[1])]
    numeric = np.column_stack(parts) if parts else np.empty((table.num_rows, 0))
    labels = texts(table, config.label, "data.label")
    columns = [texts(table, name, "data.group") for name in config.group_columns]
    groups = columns[0] if len(columns) == 1 else np.array([JOINER.join(row) for row in zip(*columns, strict=True)])
    splits = None if config.split is None else _splits(texts(table, config.split, "data.split"), config.split)
    return Examples(
        numeric,
        tuple(names),
        {name: texts(table, name, "data.categorical", missing=MISSING) for name in config.categorical},
        labels,
        groups,
        None if config.spurious is None else texts(table, config.spurious, "data.spurious"),
        splits,
    )


def _read(file: SourceFile, kind: str, config: GroupedConfig, columns: list[str]) -> Any:
    """The columns of a file, which must have them."""
    if kind == "csv":
        classes = [name for name in columns if name not in (*config.numeric, config.features)]
        table = read_csv(file, classes)
        check_columns(table.schema.names, _named(config), file.location)
        return with_gaps(table.select(columns), classes)
    with open_filesystem(file.filesystem)[0].open_input_file(file.path) as stream:
        parquet = pq.ParquetFile(stream)
        check_columns(parquet.schema_arrow.names, _named(config), file.location)
        return parquet.read(columns).select(columns)


def _named(config: GroupedConfig) -> dict[str, list[str]]:
    return {f"data.{key}": names for key, names in config.named_columns.items()}


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
