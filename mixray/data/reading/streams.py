"""Reading files as bytes in small blocks, decompressed by their ending, with errors that name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from mixray.data.pools import Pool
from mixray.data.reading.locations import SourceFile, open_filesystem
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
