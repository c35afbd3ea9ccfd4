"""A target's rows: what proxies are scored on and models are judged by.

A document with tokens t_1..t_T is the sequence [end of document, t_1, ..., t_T]. Every token of it is predicted once.
Window j of it holds ids j w .. j w + n of that sequence: the first n are inputs, the last n are labels, n <= w.

Of a prompt with its completion only the completion's tokens are labels: of a row, the last ``count``. A prompt is cut
at its beginning so that its completion fits into the first window, or, where the completion alone does not, to half of
it. What then remains goes on in further windows, as a document does. The prompt of a multiple-choice item is cut for
its longest option, and all of its options follow the same piece of it.

The hash of a document's parent, the text that it was cut from, alone decides whether it belongs to the ``fit`` or to
the ``held_out`` part. So pieces of one text stay together, and stay in their part when documents are added or the seed
changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import pyarrow as pa

from mixray.config.data import TargetConfig
from mixray.data.pools import Pool
from mixray.data.text.budget import Size, last_rank, rank
from mixray.data.text.completions import cut_into_windows, first_token
from mixray.data.text.windows import TokenizePool, TokenizeTask
from mixray.errors import InputError
from mixray.store import Artifact, Draft, FileRecord, RunTasks, fingerprint
from mixray.store.tables import write_rows
from mixray.store.target_parts import HASH_BYTES, OPTIONS, PARENT_BYTES, PARTS, RowGroup, TargetPart, part_file

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
OptionRow = tuple[bytes, int, list[int], int, int, bool]
OPTION_SCHEMA = pa.schema([*SCHEMA, ("option", pa.int32()), ("is_right", pa.bool_())])
"""Of the rows of an item's options, whose windows are numbered one option after another."""


@dataclass
class PartResult:
    """The files of one part of a target, and how much they hold. ``bytes``: of the documents' text; 0 of examples.
    ``context_tokens``: of prompts."""

    files: list[FileRecord] = field(default_factory=list)
    rows: int = 0
    documents: int = 0
    tokens: int = 0
    bytes: int = 0
    context_tokens: int = 0


RowsResult = dict[RowGroup, PartResult]


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
        if self.listing.pool.config.has_completions:
            sample |= {"completions": 1}
        chat = {} if self.encoder.chat is None else {"chat": self.encoder.chat}
        if has_options(self.listing.pool):
            sample |= {"options": 2}
        content = {"tokenizer": self.encoder.digest, "documents": self.selection.meta["digest"]}
        return fingerprint({"rows": 1, **numbers, **sample, **chat, **content})

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
        writer = _RowWriter(task)
        held_out, end_of_document = target_config(task.pool).held_out, task.encoder.end_of_document
        for document, ids, context in task.encoder.encode_examples(task.documents()):
            if len(ids) == context:
                continue  # the tokenizer finds nothing in it
            part = part_of(document.id, held_out)
            writer.results[part].documents += 1
            writer.results[part].bytes += document.bytes
            writer.add(part, document_rows(document.id, ids, end_of_document, task.window, context))
            if part == "held_out" and document.example is not None and document.example.options:
                options, right = task.encoder.encode_options(document.example), document.example.right
                writer.add(OPTIONS, option_rows(document.id, options, right, end_of_document, task.window))
        return writer.close()

    def publish(self, draft: Draft, results: Sequence[RowsResult]) -> Artifact:
        return publish_rows(draft, self.window, results)

    def check(self, artifact: Artifact) -> None:
        check_rows(self.listing.pool, artifact)


def target_config(pool: Pool) -> TargetConfig:
    """Return the settings of a pool that is a target."""
    assert isinstance(pool.config, TargetConfig)
    return pool.config


def has_options(pool: Pool) -> bool:
    """Return whether a pool holds multiple-choice items whose options are scored."""
    return pool.config.answer is not None and pool.config.has_completions


def count_tokens(task: TokenizeTask) -> list[Size]:
    """Return how many tokens every document has that may be used."""
    encoded = task.encoder.encode_examples(task.documents())
    return [(rank(document.content), len(ids) - context) for document, ids, context in encoded]


def part_of(document: bytes, held_out: float) -> TargetPart:
    """Return the part of the target that a document belongs to, from its id, of which only the parent's half counts."""
    return "held_out" if int.from_bytes(document[:PARENT_BYTES], "little") < held_out * 2**64 else "fit"


def document_rows(
    document: bytes, ids: Sequence[int], end_of_document: int, window: int, context: int = 0
) -> Iterator[Row]:
    """Yield the rows of one document. ``context``: how many tokens at its beginning are its prompt's."""
    begin = first_token(context, len(ids) - context, window)
    for number, (piece, count) in enumerate(cut_into_windows([end_of_document, *ids], begin, context, window)):
        yield document, number, piece, count


def option_rows(
    document: bytes, encoded: Sequence[tuple[Sequence[int], int]], right: int, end_of_document: int, window: int
) -> Iterator[OptionRow]:
    """Yield the rows of all options of a multiple-choice item; none where there is nothing to choose from, or where an
    option has no token, so that it cannot be compared.

    ``encoded``: the token ids of the prompt with every option, and how many at their beginning are the prompt's alone.
    """
    if len(encoded) < 2 or any(len(ids) == context for ids, context in encoded):
        return
    shared = min(context for _, context in encoded)
    begin = first_token(shared, max(len(ids) for ids, _ in encoded) - shared, window)
    number = 0
    for option, (ids, context) in enumerate(encoded):
        for piece, count in cut_into_windows([end_of_document, *ids], begin, context, window):
            yield document, number, piece, count, option, option == right
            number += 1


def publish_rows(
    draft: Draft, window: int, results: Sequence[RowsResult], facts: Mapping[str, str] | None = None
) -> Artifact:
    """Publish a target's rows. Meta: ``window``, for each part ``files`` (in order), ``rows``, ``documents``,
    ``tokens`` and ``bytes``, and other ``facts``."""
    files: dict[str, FileRecord] = {}
    meta: dict[str, Any] = {"window": window, **(facts or {})}
    for part in dict.fromkeys([*PARTS, *(part for result in results for part in result)]):
        records = [record for result in results for record in result[part].files]
        named = {part_file(part, index): record for index, record in enumerate(records)}
        files |= named
        sums = {
            key: sum(getattr(result[part], key) for result in results)
            for key in ("rows", "documents", "tokens", "bytes", "context_tokens")
        }
        if not sums["context_tokens"]:  # Metas are older than prompts.
            del sums["context_tokens"]
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


class _RowWriter:
    """Writes rows into the files of their parts, at most FILE_ROWS a file."""

    def __init__(self, task: TokenizeTask) -> None:
        self.task = task
        groups: list[RowGroup] = [*PARTS, *([OPTIONS] if has_options(task.pool) else [])]
        self.results: RowsResult = {part: PartResult() for part in groups}
        self.pending: dict[RowGroup, list[Row | OptionRow]] = {part: [] for part in groups}

    def add(self, part: RowGroup, rows: Iterable[Row | OptionRow]) -> None:
        for row in rows:
            self.pending[part].append(row)
            if len(self.pending[part]) == FILE_ROWS:
                self._flush(part)

    def close(self) -> RowsResult:
        """Write what is left, and return what all files hold."""
        for part, rows in self.pending.items():
            if rows:
                self._flush(part)
        return self.results

    def _flush(self, part: RowGroup) -> None:
        rows, result = self.pending[part], self.results[part]
        name = f"{part}-{self.task.index:06d}-{len(result.files):05d}.parquet"
        schema = OPTION_SCHEMA if part == OPTIONS else SCHEMA
        result.files.append(write_rows(self.task.draft, name, schema, rows))
        result.rows += len(rows)
        result.tokens += sum(row[3] for row in rows)
        result.context_tokens += sum(len(row[2]) - 1 - row[3] for row in rows)
        rows.clear()
