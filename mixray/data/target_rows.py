"""A target's rows: what proxies are scored on and models are judged by.

A document with tokens t_1..t_T is the sequence [end of document, t_1, ..., t_T]; every token of it is predicted once.
Window j of it holds ids j w .. j w + n of that sequence: the first n are inputs, the last n are labels, n <= w.

The split into a fit and a held-out part goes by the hash of the document alone, so it does not move when documents are
added, nor with the seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from mixray.data.pools import Pool
from mixray.data.reading.parts import Part
from mixray.data.tables import write_rows
from mixray.data.text.documents import HASH_BYTES
from mixray.data.text.encoding import Encoder
from mixray.data.text.selection import read_kept
from mixray.data.text.tokens import equal_shares
from mixray.errors import InputError
from mixray.store import Artifact, Draft, FileRecord, fingerprint

KIND = "rows"
FILE_ROWS = 2048
TOO_FEW = "more documents, another held_out, or a smaller document_chars, which cuts long ones into several"
SCHEMA = pa.schema(
    [
        ("document", pa.binary(HASH_BYTES)),
        ("window", pa.int32()),
        ("tokens", pa.list_(pa.int32())),
        ("count", pa.int32()),
    ]
)
Side = Literal["fit", "held_out"]
SIDES: tuple[Side, ...] = ("fit", "held_out")
Row = tuple[bytes, int, list[int], int]


@dataclass(frozen=True)
class RowsTask:
    """``tokens``: at most this many of the part, in whole documents; None: all."""

    pool: Pool
    part: Part
    index: int
    selected: FileRecord
    encoder: Encoder
    window: int
    held_out: float
    tokens: int | None
    draft: Draft


@dataclass
class SideResult:
    files: list[FileRecord] = field(default_factory=list)
    rows: int = 0
    documents: int = 0
    tokens: int = 0


RowsResult = dict[Side, SideResult]


def rows_id(encoder: Encoder, window: int, selection: Artifact, held_out: float, max_tokens: int | None) -> str:
    settings = {"tokenizer": encoder.digest, "window": window, "held_out": held_out, "max_tokens": max_tokens}
    return fingerprint({"rows": 1, **settings, "documents": selection.meta["digest"]})


def token_quotas(max_tokens: int | None, parts: int) -> Sequence[int | None]:
    return [None] * parts if max_tokens is None else equal_shares(max_tokens, parts)


def side_of(content: bytes, held_out: float) -> Side:
    """Which part of the target a document belongs to: a pure function of its text."""
    return "held_out" if int.from_bytes(content[:8], "little") < held_out * 2**64 else "fit"


def document_rows(content: bytes, ids: Sequence[int], end_of_document: int, window: int) -> Iterator[Row]:
    sequence = [end_of_document, *ids]
    for number, start in enumerate(range(0, len(ids), window)):
        piece = sequence[start : start + window + 1]
        yield content, number, piece, len(piece) - 1


def write_target_rows(task: RowsTask) -> RowsResult:
    """Tokenise a part's kept documents and write their rows, at most FILE_ROWS a file."""
    results: RowsResult = {side: SideResult() for side in SIDES}
    pending: dict[Side, list[Row]] = {side: [] for side in SIDES}
    for side, rows in _documents(task):
        results[side].documents += 1
        for row in rows:
            results[side].rows += 1
            results[side].tokens += row[3]
            pending[side].append(row)
            if len(pending[side]) == FILE_ROWS:
                _flush(task, side, pending[side], results[side])
    for side in SIDES:
        if pending[side]:
            _flush(task, side, pending[side], results[side])
    return results


def publish_rows(draft: Draft, tasks: Sequence[RowsTask], results: Sequence[RowsResult]) -> Artifact:
    """``meta``: window, and for ``fit`` and ``held_out``: files (names in order), rows, documents, tokens."""
    return publish(draft, tasks[0].window, results)


def publish(draft: Draft, window: int, results: Sequence[RowsResult]) -> Artifact:
    files: dict[str, FileRecord] = {}
    meta: dict[str, Any] = {"window": window}
    for side in SIDES:
        records = [record for result in results for record in result[side].files]
        named = {f"{side}-{index:05d}.parquet": record for index, record in enumerate(records)}
        files |= named
        sums = {key: sum(getattr(result[side], key) for result in results) for key in ("rows", "documents", "tokens")}
        meta[side] = {"files": list(named), **sums}
    return draft.publish(files, meta)


def check_rows(pool: Pool, rows: Artifact, remedy: str = TOO_FEW) -> None:
    """Raise InputError if a part of the split is empty."""
    fit, held_out = (rows.meta[side]["documents"] for side in SIDES)
    limit = pool.config.max_tokens
    if fit and held_out:
        return
    raise InputError(
        f"the {pool.label} is too small to split",
        where=pool.key("held_out"),
        got=f"{fit} documents to fit on and {held_out} held out"
        + (f", max_tokens {limit}" if limit is not None else ""),
        wanted="at least one document in each part",
        remedy=remedy,
    )


def _documents(task: RowsTask) -> Iterator[tuple[Side, Iterator[Row]]]:
    """Side and rows of every document that has tokens, while the quota lasts."""
    total = 0
    kept = read_kept(task.pool, task.part, task.draft.storage, task.selected)
    for document, ids in task.encoder.encode(kept):
        total += len(ids)
        if task.tokens is not None and total > task.tokens:
            return
        if ids:
            rows = document_rows(document.content, ids, task.encoder.end_of_document, task.window)
            yield side_of(document.content, task.held_out), rows


def _flush(task: RowsTask, side: Side, rows: list[Row], result: SideResult) -> None:
    name = f"{side}-{task.index:06d}-{len(result.files):05d}.parquet"
    result.files.append(write_rows(task.draft, name, SCHEMA, rows))
    rows.clear()
