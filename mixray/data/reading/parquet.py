"""Parquet: which files of a folder hold the data, what its folders' names say, and the rows, read in small blocks.

A folder is read as Spark, Hive and pyarrow write it: hidden files and those of unfinished writers are left out, and
``key=value`` in the name of a folder is a column of text, unless the file has a column of that name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from mixray.data.pools import Pool
from mixray.data.reading.files import BLOCK_BYTES, reading
from mixray.data.reading.locations import SourceFile, open_filesystem
from mixray.data.reading.row_texts import TABLE_ROWS, Place, Row, check_schema, named_columns, table_rows
from mixray.errors import InputError
from mixray.store.retrying import retried

log = logging.getLogger(__name__)

FOOTER_THREADS = 16
ENDINGS = (".parquet", ".parq", ".pq")
TABLE_LOGS = {"_delta_log": "Delta", ".hoodie": "Hudi"}
"""The folder in which a table's log says which of its files count -> the kind of table."""
NULL = "__HIVE_DEFAULT_PARTITION__"


def data_files(paths: Sequence[str]) -> list[str]:
    """Return which of the files of a folder hold its data, by their paths relative to it.

    These are the files with the ending of Parquet or, where there are none, those without an ending. Raises InputError
    for a table whose log alone says which files count.
    """
    for folder in {name for path in paths for name in path.split("/")[:-1]} & TABLE_LOGS.keys():
        raise InputError(
            f"a folder is a {TABLE_LOGS[folder]} table, in which files stay after their rows were deleted",
            got=f"a folder with {folder}",
            wanted="a folder of Parquet files all of which count",
            remedy=f"write the table's present version as Parquet, or exclude '**/{folder}/**' to read all files",
        )
    visible = [path for path in paths if not any(map(_is_hidden, path.split("/")))]
    return [path for path in visible if path.endswith(ENDINGS)] or [
        path for path in visible if "." not in path.rpartition("/")[2]
    ]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def partition_values(file: SourceFile) -> dict[str, str | None]:
    """Return column -> value for every folder in the file's path that is named ``key=value``; None for null."""
    pairs = (folder.partition("=") for folder in file.path.split("/")[:-1])
    return {unquote(key): None if value == NULL else unquote(value) for key, mark, value in pairs if key and mark}


def with_partitions(table: Any, file: SourceFile) -> Any:
    """Return a table or record batch of the file's rows with a column for each of its partition values."""
    for name, value in partition_values(file).items():
        if name not in table.schema.names:
            table = table.append_column(name, pa.array([value] * table.num_rows, pa.string()))
    return table


def file_schema(parquet: Any, file: SourceFile) -> Any:
    """Return the Arrow schema of the file's rows, partition values included."""
    return with_partitions(parquet.schema_arrow.empty_table(), file).schema


@contextmanager
def open_parquet(file: SourceFile) -> Iterator[Any]:
    """Open a file as a pyarrow ``ParquetFile`` whose pages are read one at a time."""
    with open_filesystem(file.filesystem)[0].open_input_file(file.path) as stream:
        yield pq.ParquetFile(stream, buffer_size=BLOCK_BYTES, pre_buffer=False)


def parquet_rows(file: SourceFile, start: int, stop: int | None, pool: Pool) -> Iterator[tuple[Row | None, Place]]:
    """Yield the rows of row groups [start, stop) of a file, all of them if ``stop`` is None; None for a row that is not
    UTF-8. Only the named columns are read."""
    with reading(file, pool.files_key), open_parquet(file) as parquet:
        check_schema(file_schema(parquet, file), pool, file.location)
        groups = list(range(start, parquet.num_row_groups if stop is None else stop))
        columns = sorted({path for _, path in named_columns(pool)})
        for batch in parquet.iter_batches(batch_size=TABLE_ROWS, row_groups=groups, columns=columns):
            for row in table_rows(with_partitions(batch, file), pool):
                yield row, lambda: file.location


def row_group_bytes(files: Iterable[SourceFile], pool: Pool) -> Iterator[list[int]]:
    """Yield the uncompressed bytes of every row group of every file, from the footers alone."""

    def footer(file: SourceFile) -> list[int]:
        with reading(file, pool.files_key), open_parquet(file) as parquet:
            metadata = parquet.metadata
            return [metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)]

    with ThreadPoolExecutor(FOOTER_THREADS) as threads:
        yield from threads.map(lambda file: retried(partial(footer, file), log.warning), files)
