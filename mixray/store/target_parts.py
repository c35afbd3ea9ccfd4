"""What writers and readers of a target's rows agree on: the two parts, their files, and the key of a row.

A row is a window of a document or, for tables, an example. Rows and the columns of the prediction cache are joined by
their keys, never by the order in which they arrive.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixray.store.artifacts import Artifact

TargetPart = Literal["fit", "held_out"]
PARTS: tuple[TargetPart, ...] = ("fit", "held_out")
OPTIONS: Literal["options"] = "options"
"""Of multiple-choice items, the rows of all options of the held-out ones, which lie beside those of the two parts."""
RowGroup = TargetPart | Literal["options"]
"""The rows that have files of their own."""
ROW_KEY = ("document", "window")
"""The columns that identify a row: the hash of its document, and the number of the window in the document."""
HASH_BYTES = 16
"""The size of a document's hash: BLAKE2b of the text as UTF-8, or of an example's values."""
PARENT_BYTES = HASH_BYTES // 2
"""So many bytes of a document's id are those of its parent's hash, and the others are of its own. The parent is what
was read as one text: documents that were cut from it share its part and are drawn together by a bootstrap."""

MOLECULES, MOLECULE = "molecules", "molecule"
"""The kind of the artifacts that hold fingerprints, and the key under which other artifacts name theirs; the field of a
record, and the column of a target's rows, that holds a molecule's number."""


def part_file(part: RowGroup, number: int) -> str:
    """Return the name of a file of rows."""
    return f"{part}-{number:05d}.parquet"


def part_files(rows: Artifact, part: RowGroup) -> list[str]:
    """Return the names of the files that hold a part of a target's rows, in order."""
    return sorted(name for name in rows.files if name.startswith(f"{part}-"))


def tokens_read(rows: Artifact, part: TargetPart) -> int:
    """Return how many tokens a model reads that scores a part: those that are scored, and those of their prompts."""
    meta = rows.meta[part]
    return int(meta["tokens"]) + int(meta.get("context_tokens", 0))


def hash_bytes(hashes: Any) -> NDArray[np.uint8]:
    """Return an Arrow column of hashes as bytes, uint8, shape (rows, 16)."""
    column = hashes.combine_chunks() if isinstance(hashes, pa.ChunkedArray) else hashes
    raw = np.frombuffer(column.buffers()[1] or b"", np.uint8).reshape(-1, HASH_BYTES)
    return raw[column.offset : column.offset + len(column)]


def document_ids(table: Any) -> NDArray[np.void]:
    """Return the document of every row as bytes that sort, zeros at the end included, V16, shape (rows,)."""
    return hash_bytes(table["document"]).view(f"V{HASH_BYTES}").ravel()


def parent_ids(documents: NDArray[np.void]) -> NDArray[np.uint64]:
    """Return the parent of every document as a number that sorts as the ids do, shape (documents,)."""
    return np.ascontiguousarray(documents).view(f">u{PARENT_BYTES}")[::2].astype(np.uint64)


def row_keys(table: Any) -> NDArray[np.void]:
    """Return the key of every row as a record that sorts, shape (rows,)."""
    keys = np.empty(len(table), dtype=[("high", ">u8"), ("low", ">u8"), ("window", "<i8")])
    halves = hash_bytes(table["document"]).view(">u8")
    keys["high"], keys["low"], keys["window"] = halves[:, 0], halves[:, 1], table["window"].to_numpy()
    return keys
