"""JSON lines, plain or compressed. A plain file can be read in byte ranges: a line belongs to where it starts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from mixray.data.pools import Pool
from mixray.data.reading.locations import SourceFile
from mixray.data.reading.streams import read_blocks, reading
from mixray.data.reading.texts import check_row, row_text
from mixray.errors import InputError


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
