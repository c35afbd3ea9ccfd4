"""Text files: one document a file, read in blocks however long it is."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterable, Iterator

from mixray.data.pools import Pool
from mixray.data.reading.locations import SourceFile
from mixray.data.reading.streams import read_blocks, reading


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
