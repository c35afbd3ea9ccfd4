"""Parquet: row groups are read in small batches, the needed columns alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pyarrow.parquet as pq

from mixray.data.pools import Pool
from mixray.data.reading.locations import SourceFile, open_filesystem
from mixray.data.reading.streams import BLOCK_BYTES, reading
from mixray.data.reading.templates import named_columns
from mixray.data.reading.texts import check_schema, table_texts

ROWS = 64
FOOTER_THREADS = 16


def read_parquet(
    file: SourceFile, start: int, stop: int | None, pool: Pool, counts: Counter[str]
) -> Iterator[Iterable[str]]:
    """The documents of row groups [start, stop) of a file (all of them if stop is None)."""
    with reading(file, pool), _opened(file) as parquet:
        check_schema(parquet.schema_arrow, pool, file.location)
        groups = range(start, parquet.num_row_groups if stop is None else stop)
        for batch in parquet.iter_batches(batch_size=ROWS, row_groups=list(groups), columns=_columns(pool)):
            for text in table_texts(batch, pool, counts, file.location):
                yield [text]


def check_parquet(file: SourceFile, pool: Pool) -> None:
    """Raise InputError unless the file has the columns that the run file names."""
    with reading(file, pool), _opened(file) as parquet:
        check_schema(parquet.schema_arrow, pool, file.location)


def row_group_bytes(files: Iterable[SourceFile], pool: Pool) -> Iterator[list[int]]:
    """Uncompressed bytes of every row group of every file, from the footers alone."""

    def footer(file: SourceFile) -> list[int]:
        with reading(file, pool), _opened(file) as parquet:
            metadata = parquet.metadata
            return [metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)]

    with ThreadPoolExecutor(FOOTER_THREADS) as threads:
        yield from threads.map(footer, files)


@contextmanager
def _opened(file: SourceFile) -> Iterator[Any]:
    with open_filesystem(file.filesystem)[0].open_input_file(file.path) as stream:
        yield pq.ParquetFile(stream, buffer_size=BLOCK_BYTES, pre_buffer=False)


def _columns(pool: Pool) -> list[str]:
    return sorted({path for _, path in named_columns(pool)})
