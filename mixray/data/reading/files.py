"""The rows and the text in a piece of a file of plain text or JSON lines, read in small blocks.

Text and JSON lines are decompressed by the ending of the file name. Every error names the file.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import lzma
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa

from mixray.data.pools import Pool
from mixray.data.reading.locations import SourceFile, open_filesystem
from mixray.data.reading.row_texts import Place, Row, check_row
from mixray.errors import InputError, first_line
from mixray.store.target_parts import HASH_BYTES

BLOCK_BYTES = 1 << 20
COMPRESSION = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}
COUNTED_BYTES = 256 << 20
"""How far into a file its lines are counted to name one in an error."""


def compression_of(file: SourceFile) -> str | None:
    """Return the name of the compression by the ending of the file's name, or None if it is not compressed."""
    return next((kind for ending, kind in COMPRESSION.items() if file.path.lower().endswith(ending)), None)


def open_file(file: SourceFile) -> Any:
    """Open the file's bytes, decompressed; seekable where it is not compressed."""
    stream = open_filesystem(file.filesystem)[0].open_input_file(file.path)
    return decompressed(stream, file) if compression_of(file) else stream


def decompressed(stream: Any, file: SourceFile) -> Any:
    """Return a stream of the decompressed bytes of a compressed file, from a stream of its stored ones."""
    kind = compression_of(file)
    return lzma.LZMAFile(stream) if kind == "xz" else pa.CompressedInputStream(stream, kind)


def read_blocks(file: SourceFile) -> Iterator[bytes]:
    """Yield the file's bytes, decompressed."""
    with open_file(file) as stream:
        while block := stream.read(BLOCK_BYTES):
            yield block


@contextmanager
def reading(file: SourceFile, key: str) -> Iterator[None]:
    """Turn errors of the file system and of decoders into an InputError that names the file and ``key``, the dotted key
    of the run file that names its place."""
    try:
        yield
    except (OSError, EOFError, lzma.LZMAError, pa.ArrowException) as error:
        raise InputError(
            "a file cannot be read",
            where=key,
            got=f"{file.location} ({first_line(error)})",
            wanted="a whole file that every machine of the cluster sees under this name",
        ) from error


# ----------------------------------------------------------------------------------------------------------- text files


def text_hash(text: bytes = b"") -> hashlib.blake2b:
    """Return the hash of a text as UTF-8, to which more of the text can be added."""
    return hashlib.blake2b(text, digest_size=HASH_BYTES)


def read_text_file(file: SourceFile, pool: Pool, counts: Counter[str]) -> Iterator[tuple[Iterable[str], bytes]]:
    """Yield the file's text as an iterable of pieces, and its hash; nothing (and counted) if it is not UTF-8.

    A file longer than a block is read twice, because all of it has to be UTF-8 before its first piece is used.
    """
    with reading(file, pool.files_key):
        blocks = read_blocks(file)
        first = next(blocks, b"")
        try:
            if not next(blocks, b""):
                yield [first.decode()], text_hash(first).digest()
            else:
                whole = text_hash()
                for piece in _decoded(read_blocks(file)):
                    whole.update(piece.encode())
                yield _decoded(read_blocks(file)), whole.digest()
        except UnicodeDecodeError:
            counts["skipped_not_utf8"] += 1


def _decoded(blocks: Iterable[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    for block in blocks:
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


# ----------------------------------------------------------------------------------------------------------- JSON lines


# pyarrow.json is not used: it gives all rows one type, so that a value of another type stops it, and names no line.
def json_rows(file: SourceFile, start: int, stop: int | None, pool: Pool) -> Iterator[tuple[Row | None, Place]]:
    """Yield the rows of the lines that start in bytes [start, stop) of a file, all of it if ``stop`` is None.

    A line that is not UTF-8 is None. Raises InputError for one that is not a JSON object.
    """
    with reading(file, pool.files_key):
        for offset, line in _lines(file, start, stop):
            place = partial(_place, file, offset)
            yield _parsed(line, pool, place), place


def check_json_lines(file: SourceFile, pool: Pool) -> None:
    """Raise InputError unless the first line that is UTF-8 is an object with the columns that the run file names."""
    for row, place in json_rows(file, 0, None, pool):
        if row is not None:
            check_row(row, pool, place)
            return


def _lines(file: SourceFile, start: int, stop: int | None) -> Iterator[tuple[int, bytes]]:
    """Yield (offset in bytes, line) of the lines that start in [start, stop) and are not blank."""
    offset = max(start - 1, 0)  # from the byte before, so that a line that starts at ``start`` is seen to start there
    with open_file(file) as stream:
        if offset:
            stream.seek(offset)
        for line in io.BufferedReader(stream, BLOCK_BYTES):
            if stop is not None and offset >= stop:
                return
            if offset >= start and line.strip():
                yield offset, line.removesuffix(b"\n")
            offset += len(line)


def _parsed(line: bytes, pool: Pool, place: Place) -> Row | None:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return None
    except (ValueError, RecursionError) as error:  # brackets in a thousand brackets
        raise _not_an_object(pool, place, str(error)) from error
    if not isinstance(row, dict):
        raise _not_an_object(pool, place, f"a {type(row).__name__}")
    return row


def _not_an_object(pool: Pool, place: Place, got: str) -> InputError:
    return InputError(
        "a line is not a JSON object", where=pool.files_key, got=f"{place()}: {got}", wanted="one JSON object a line"
    )


def _place(file: SourceFile, offset: int) -> str:
    """Return the file and the number of the line at an offset, or the offset itself where it is far into the file."""
    if offset > COUNTED_BYTES:
        return f"{file.location}, byte {offset:,}"
    number, left = 1, offset
    for block in read_blocks(file):
        number += block[:left].count(b"\n")
        left -= len(block)
        if left <= 0:
            break
    return f"{file.location}, line {number}"
