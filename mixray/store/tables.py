"""Tables in the store as Parquet files: whole, or written in row groups as they grow and read in batches."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mixray.store.artifacts import Draft
from mixray.store.storage import FileRecord, Storage

ROWS = 8192


def encode(table: Any) -> bytes:
    """Return the bytes of an Arrow table's Parquet file. Equal tables give equal bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def write_rows(draft: Draft, name: str, schema: Any, rows: Iterable[Sequence[Any]]) -> FileRecord:
    """Stream rows (one value a column) into one Parquet file; memory holds one row group."""
    pending = iter(rows)
    with tempfile.TemporaryDirectory(prefix="mixray-") as folder:
        path = Path(folder) / "table.parquet"
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            while group := list(islice(pending, ROWS)):
                columns = [
                    pa.array(values, field.type) for values, field in zip(zip(*group, strict=True), schema, strict=True)
                ]
                writer.write_table(pa.table(columns, schema=schema))
        return draft.storage.put(draft.path(name), path)


def read_batches(storage: Storage, record: FileRecord) -> Iterator[Any]:
    """Yield the record batches of a stored Parquet file."""
    with pq.ParquetFile(storage.fetch(record)) as table:
        yield from table.iter_batches(batch_size=ROWS)


def read_table(storage: Storage, record: FileRecord) -> Any:
    """Return a stored Parquet file as an Arrow table."""
    return pq.read_table(storage.fetch(record))
