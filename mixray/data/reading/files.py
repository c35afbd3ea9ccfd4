"""The texts in a piece of a file: plain text, JSON lines or Parquet, read in small blocks.

Text and JSON lines are decompressed by the ending of the file name. Every error names the file.
"""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mixray.data.pools import Pool
from mixray.data.reading.locations import SourceFile, open_filesystem
from mixray.data.reading.row_texts import check_row, check_schema, named_columns, row_text, table_texts
from mixray.errors import InputError, first_line

BLOCK_BYTES = 1 << 20
COMPRESSION = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}


def compression_of(file: SourceFile) -> str | None:
    return next((kind for ending, kind in COMPRESSION.items() if file.path.endswith(ending)), None)


def read_blocks(file: SourceFile, start: int = 0) -> Iterator[bytes]:
    """The file's bytes, decompressed, from byte ``start`` (which needs a file that is not compressed)."""
    with opened(file) as stream:
        if start:
            stream.seek(start)
        while block := stream.read(BLOCK_BYTES):
            yield block


@contextmanager
def reading(file: SourceFile, pool: Pool) -> Iterator[None]:
    """Errors of the file system and of decoders inside become an InputError that names the file."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            "a file cannot be read",
            where=pool.files_key,
            got=f"{file.location} ({first_line(error)})",
            wanted="a whole file that every machine of the cluster sees under this name",
        ) from error


def opened(file: SourceFile) -> Any:
    """The file's bytes, decompressed; seekable where it is not compressed."""
    filesystem, compression = open_filesystem(file.filesystem)[0], compression_of(file)
    if compression is None:
        return filesystem.open_input_file(file.path)
    return filesystem.open_input_stream(file.path, compression=compression)


# ----------------------------------------------------------------------------------------------------------- text files


def read_text_file(file: SourceFile, pool: Pool, counts: Counter[str]) -> Iterator[Iterable[str]]:
    """The file's one document as an iterable of pieces of text; nothing (and counted) if it is not UTF-8.

    A file longer than a block is decoded twice: all of it has to be UTF-8 before its first piece is worth anything.
    """
    with reading(file, pool):
        blocks = read_blocks(file)
        first = next(blocks, b"")
        try:
            if not next(blocks, b""):
                yield [first.decode()]
            else:
                for _ in _decoded(read_blocks(file)):
                    pass
                yield _decoded(read_blocks(file))
        except UnicodeDecodeError:
            counts["skipped_not_utf8"] += 1


def _decoded(blocks: Iterable[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    for block in blocks:
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


# ----------------------------------------------------------------------------------------------------------- JSON lines


def read_json_lines(
    file: SourceFile, start: int, stop: int | None, pool: Pool, counts: Counter[str]
) -> Iterator[Iterable[str]]:
    """The documents of the lines that start in bytes [start, stop) of a file (all of it if stop is None)."""
    with reading(file, pool):
        for offset, line in _lines(file, start, stop):
            try:
                row = _parse(line, file, offset, pool)
            except UnicodeDecodeError:
                counts["skipped_not_utf8"] += 1
                continue
            text = row_text(row, pool, counts, partial(_place, file, offset))
            if text is not None:
                yield [text]


def check_json_lines(file: SourceFile, pool: Pool) -> None:
    """Raise InputError unless the first line that is UTF-8 is an object with the columns that the run file names."""
    with reading(file, pool):
        for offset, line in _lines(file, 0, None):
            with suppress(UnicodeDecodeError):
                check_row(_parse(line, file, offset, pool), pool, partial(_place, file, offset))
                return


def _lines(file: SourceFile, start: int, stop: int | None) -> Iterator[tuple[int, bytes]]:
    """(offset in bytes, line) of the lines that start in [start, stop) and are not blank."""
    offset = max(start - 1, 0)  # from the byte before, so that a line that starts at ``start`` is seen to start there
    pieces: list[bytes] = []
    for block in read_blocks(file, offset):
        *ends, rest = block.split(b"\n")
        for end in ends:
            line = b"".join([*pieces, end])
            if stop is not None and offset >= stop:
                return
            if offset >= start and line.strip():
                yield offset, line
            offset += len(line) + 1
            pieces = []
        pieces.append(rest)
    line = b"".join(pieces)
    if start <= offset and (stop is None or offset < stop) and line.strip():
        yield offset, line


def _parse(line: bytes, file: SourceFile, offset: int, pool: Pool) -> dict[str, Any]:
    """The object of a line. Raises UnicodeDecodeError if it is not UTF-8, InputError if it is no JSON object."""
    text = line.decode("utf-8-sig")
    try:
        row = json.loads(text)
    except ValueError as error:
        raise _broken(pool, file, offset, str(error)) from error
    if not isinstance(row, dict):
        raise _broken(pool, file, offset, f"a {type(row).__name__}")
    return row


def _broken(pool: Pool, file: SourceFile, offset: int, got: str) -> InputError:
    return InputError(
        "a line is not a JSON object",
        where=pool.files_key,
        got=f"{_place(file, offset)}: {got}",
        wanted="one JSON object a line",
    )


def _place(file: SourceFile, offset: int) -> str:
    """File and line number of the line at an offset, counted only when there is an error to tell."""
    number, left = 1, offset
    for block in read_blocks(file):
        number += block[:left].count(b"\n")
        left -= len(block)
        if left <= 0:
            break
    return f"{file.location}, line {number}"


# -------------------------------------------------------------------------------------------------------------- Parquet


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
