"""A target's rows: what proxies are scored on and models are judged by.

A document with tokens t_1..t_T is the sequence [end of document, t_1, ..., t_T]. Every token of it is predicted once.
Window j of it holds ids j w .. j w + n of that sequence: the first n are inputs, the last n are labels, n <= w.

The hash of a document's parent, the text that it was cut from, alone decides whether it belongs to the ``fit`` or to
the ``held_out`` part. So pieces of one text stay together, and stay in their part when documents are added or the seed
changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import pyarrow as pa

from mixray.config.data import TargetConfig
from mixray.data.pools import Pool
from mixray.data.text.budget import Size, last_rank, rank
from mixray.data.text.windows import TokenizePool, TokenizeTask
from mixray.errors import InputError
from mixray.store import Artifact, Draft, FileRecord, RunTasks, fingerprint
from mixray.store.tables import write_rows
from mixray.store.target_parts import HASH_BYTES, PARENT_BYTES, PARTS, TargetPart, part_file

KIND = "rows"
FILE_ROWS = 2048
TOO_FEW = "more documents, or another held_out; pieces of one document stay together"
SCHEMA = pa.schema(
    [
        ("document", pa.binary(HASH_BYTES)),
        ("window", pa.int32()),
        ("tokens", pa.list_(pa.int32())),
        ("count", pa.int32()),
    ]
)
Row = tuple[bytes, int, list[int], int]
"""Id of the document, number of the window, token ids, number of labels: the columns of SCHEMA."""


@dataclass
class PartResult:
    """The files of one part of a target, and how much they hold. ``bytes``: of the documents' text; 0 of examples."""

    files: list[FileRecord] = field(default_factory=list)
    rows: int = 0
    documents: int = 0
    tokens: int = 0
    bytes: int = 0


RowsResult = dict[TargetPart, PartResult]


@dataclass(frozen=True)
class TargetRows(TokenizePool[RowsResult]):
    """The rows of a target of texts. The meta is that of ``publish_rows``."""

    kind = KIND
    run_tasks: RunTasks

    @property
    def id(self) -> str:
        held_out = target_config(self.listing.pool).held_out
        numbers = {"window": self.window, "held_out": held_out, "max_tokens": self.max_tokens}
        sample = {} if self.max_tokens is None else {"sample": 1}
        content = {"tokenizer": self.encoder.digest, "documents": self.selection.meta["digest"]}
        return fingerprint({"rows": 1, **numbers, **sample, **content})

    def tasks(self, draft: Draft) -> list[TokenizeTask]:
        """Return a task for each part. With ``max_tokens``, other tasks have counted the documents' tokens by then."""
        tasks = super().tasks(draft)
        if self.max_tokens is None:
            return tasks
        last = last_rank(chain.from_iterable(self.run_tasks(count_tokens, tasks, "count")), self.max_tokens)
        return [replace(task, last_rank=last) for task in tasks]

    @staticmethod
    def run(task: TokenizeTask) -> RowsResult:
        """Write the rows of the documents that are used, at most FILE_ROWS a file."""
        results: RowsResult = {part: PartResult() for part in PARTS}
        pending: dict[TargetPart, list[Row]] = {part: [] for part in PARTS}
        held_out = target_config(task.pool).held_out
        for document, ids in task.token_lists():
            part = part_of(document.id, held_out)
            results[part].documents += bool(ids)
            results[part].bytes += document.bytes
            for row in document_rows(document.id, ids, task.encoder.end_of_document, task.window):
                pending[part].append(row)
                if len(pending[part]) == FILE_ROWS:
                    _flush(task, part, pending[part], results[part])
        for part in PARTS:
            if pending[part]:
                _flush(task, part, pending[part], results[part])
        return results

    def publish(self, draft: Draft, results: Sequence[RowsResult]) -> Artifact:
        return publish_rows(draft, self.window, results)

    def check(self, artifact: Artifact) -> None:
        check_rows(self.listing.pool, artifact)


def target_config(pool: Pool) -> TargetConfig:
    """Return the settings of a pool that is a target."""
    assert isinstance(pool.config, TargetConfig)
    return pool.config


def count_tokens(task: TokenizeTask) -> list[Size]:
    """Return how many tokens every document has that may be used."""
    return [(rank(document.content), len(ids)) for document, ids in task.token_lists()]


def part_of(document: bytes, held_out: float) -> TargetPart:
    """Return the part of the target that a document belongs to, from its id, of which only the parent's half counts."""
    return "held_out" if int.from_bytes(document[:PARENT_BYTES], "little") < held_out * 2**64 else "fit"


def document_rows(document: bytes, ids: Sequence[int], end_of_document: int, window: int) -> Iterator[Row]:
    """Yield the rows of one document."""
    sequence = [end_of_document, *ids]
    for number, start in enumerate(range(0, len(ids), window)):
        piece = sequence[start : start + window + 1]
        yield document, number, piece, len(piece) - 1


def publish_rows(
    draft: Draft, window: int, results: Sequence[RowsResult], facts: Mapping[str, str] | None = None
) -> Artifact:
    """Publish a target's rows. Meta: ``window``, for each part ``files`` (in order), ``rows``, ``documents``,
    ``tokens`` and ``bytes``, and other ``facts``."""
    files: dict[str, FileRecord] = {}
    meta: dict[str, Any] = {"window": window, **(facts or {})}
    for part in PARTS:
        records = [record for result in results for record in result[part].files]
        named = {part_file(part, index): record for index, record in enumerate(records)}
        files |= named
        sums = {
            key: sum(getattr(result[part], key) for result in results)
            for key in ("rows", "documents", "tokens", "bytes")
        }
        meta[part] = {"files": list(named), **sums}
    return draft.publish(files, meta)


def check_rows(pool: Pool, rows: Artifact, remedy: str = TOO_FEW) -> None:
    """Raise InputError if one of the two parts is empty."""
    check_split(pool, {part: rows.meta[part]["documents"] for part in PARTS}, remedy)


def check_split(pool: Pool, documents: Mapping[TargetPart, int], remedy: str = TOO_FEW) -> None:
    """Raise InputError if one of the two parts has no documents. ``documents``: how many there are of each."""
    if documents["fit"] and documents["held_out"]:
        return
    limit = pool.config.max_tokens
    raise InputError(
        f"the {pool.label} is too small to split",
        where=pool.key("held_out"),
        got=f"{documents['fit']} documents to fit on and {documents['held_out']} held out"
        + (f", max_tokens {limit}" if limit is not None else ""),
        wanted="at least one document in each part",
        remedy=remedy,
    )


def _flush(task: TokenizeTask, part: TargetPart, rows: list[Row], result: PartResult) -> None:
    """Write the rows as one file and empty the list."""
    name = f"{part}-{task.index:06d}-{len(result.files):05d}.parquet"
    result.files.append(write_rows(task.draft, name, SCHEMA, rows))
    result.rows += len(rows)
    result.tokens += sum(count for _, _, _, count in rows)
    rows.clear()
