"""Documents: what a pool's texts become before anything is counted, compared or tokenised.

Blank documents and those that are not UTF-8 are left out and counted. A document longer than ``document_chars`` becomes
several, cut after a line end where there is one, so that nothing is lost and no document takes too much memory. What
they were cut from, a file or the text of a row, is their parent.

A prompt and its completion are one document, which is never cut. What is scored of it is the completion, so that its
size is that of the completion. Its parent is the whole text, by which it is recognised in a source.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mixray.data.pools import Pool
from mixray.data.reading.files import json_rows, read_text_file, text_hash
from mixray.data.reading.hugging_face import dataset_rows
from mixray.data.reading.parquet import parquet_rows
from mixray.data.reading.parts import DatasetPart, FilePart, Part
from mixray.data.reading.row_texts import Example, Place, Row, row_example, row_text
from mixray.store.target_parts import PARENT_BYTES

Hash = bytes


class Document(NamedTuple):
    """A text with its identity. ``content``: the 16-byte BLAKE2b hash of the text as UTF-8; ``bytes``: its size;
    ``parent``: the same hash of the text that it was cut from, ``content`` where it was not cut.

    ``example``: where the text is a prompt with its completion, these two; then ``content`` is the hash of the example,
    ``bytes`` is the size of the completion and ``parent`` is the hash of the text."""

    text: str
    content: Hash
    bytes: int
    parent: Hash
    example: Example | None = None

    @property
    def id(self) -> Hash:
        """The identity of a target's document, which begins with its parent's: see ``target_parts.py``."""
        return self.parent[:PARENT_BYTES] + self.content[PARENT_BYTES:]


def read_documents(pool: Pool, part: Part, counts: Counter[str]) -> Iterator[Document]:
    """Yield the part's documents, always in the same order, up to its ``byte_limit``.

    ``counts`` receives how many documents and bytes are used, skipped, filtered and split, and of
    examples the bytes of their prompts and the number of their options. Raises InputError if a file
    cannot be read, a line is not a JSON object or a column is missing.
    """
    read = 0
    for document in _examples(pool, part, counts) if pool.config.has_completions else _pieces(pool, part, counts):
        counts["documents"] += 1
        counts["bytes"] += document.bytes
        read += document.bytes
        yield document
        if part.byte_limit is not None and read >= part.byte_limit:
            return


def _pieces(pool: Pool, part: Part, counts: Counter[str]) -> Iterator[Document]:
    """Yield the documents that texts are cut into."""
    for chunks, parent in _texts(pool, part, counts):
        pieces = 0
        for piece in split_text(chunks, pool.config.document_chars):
            if not piece or piece.isspace():
                counts["skipped_empty"] += 1
                continue
            data = piece.encode()
            pieces += 1
            counts["split"] += pieces == 2
            yield Document(piece, text_hash(data).digest(), len(data), parent)


def _examples(pool: Pool, part: Part, counts: Counter[str]) -> Iterator[Document]:
    """Yield the document of every prompt with its completion."""
    for row, place in _rows(pool, part):
        example = row_example(row, pool, counts, place)
        if example is not None:
            text = example.context + example.completion
            counts["prompt_bytes"] += len(example.context.encode())
            counts["options"] += len(example.options)
            # Identities are older than messages before the prompt, which leave no trace where there are none.
            content = text_hash(json.dumps(example if example.before else example[:4]).encode()).digest()
            yield Document(text, content, len(example.completion.encode()), text_hash(text.encode()).digest(), example)


def split_text(chunks: Iterable[str], limit: int) -> Iterator[str]:
    """Yield pieces of at most ``limit`` characters that together are the text. They do not depend on how the text is
    divided into ``chunks``."""
    rest = ""
    for chunk in chunks:
        rest, start = rest + chunk, 0
        while len(rest) - start > limit:
            cut = rest.rfind("\n", start, start + limit) + 1 or start + limit
            yield rest[start:cut]
            start = cut
        rest = rest[start:]
    yield rest


def _texts(pool: Pool, part: Part, counts: Counter[str]) -> Iterator[tuple[Iterable[str], bytes]]:
    """Yield the text of every file or row, in pieces, and its hash."""
    if isinstance(part, FilePart) and pool.config.reader == "files":
        for piece in part.slices:
            yield from read_text_file(piece.file, pool, counts)
        return
    for row, place in _rows(pool, part):
        text = row_text(row, pool, counts, place)
        if text is not None:
            yield [text], text_hash(text.encode()).digest()


def _rows(pool: Pool, part: Part) -> Iterator[tuple[Row | None, Place]]:
    if isinstance(part, DatasetPart):
        yield from dataset_rows(part.dataset, part.start, part.stop, pool)
        return
    read_rows = json_rows if pool.config.reader == "jsonl" else parquet_rows
    for piece in part.slices:
        yield from read_rows(piece.file, piece.start, piece.stop, pool)
