"""A source's tokens: documents joined by the end-of-document token and cut into windows of equal length.

A part's windows lie in raw little-endian files of at most 64 MiB, so that window i of a file stands at byte
i x window x itemsize. What is left at the end of a part and fills no window is dropped and counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mixray.data.pools import Pool
from mixray.data.reading.parts import Part
from mixray.data.text.encoding import Encoder
from mixray.data.text.selection import read_kept
from mixray.errors import InputError
from mixray.store import Artifact, Draft, FileRecord, fingerprint

KIND = "tokens"
SHARD_BYTES = 64 << 20
BLOCK_TOKENS = 1 << 18


@dataclass(frozen=True)
class TokensTask:
    """``windows``: at most this many of the part; None: all."""

    pool: Pool
    part: Part
    index: int
    selected: FileRecord
    encoder: Encoder
    window: int
    windows: int | None
    draft: Draft


@dataclass(frozen=True)
class TokensResult:
    """``shards``: file and number of windows. ``tail_tokens``: those that filled no window."""

    shards: tuple[tuple[FileRecord, int], ...]
    documents: int
    tail_tokens: int


@dataclass
class _Tally:
    documents: int = 0
    tail_tokens: int = 0


def tokens_id(encoder: Encoder, window: int, selection: Artifact, max_tokens: int | None) -> str:
    settings = {"tokenizer": encoder.digest, "window": window, "max_tokens": max_tokens}
    return fingerprint({"tokens": 1, **settings, "documents": selection.meta["digest"]})


def dtype_of(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def window_quotas(max_tokens: int | None, window: int, parts: int) -> Sequence[int | None]:
    """Windows each part may give: equal but for rounding, together ``max_tokens // window``."""
    return [None] * parts if max_tokens is None else equal_shares(max_tokens // window, parts)


def equal_shares(total: int, parts: int) -> list[int]:
    """Whole numbers that differ by one at most and sum to ``total``; the larger ones spread evenly from the first."""
    before = [-(-total * index // parts) for index in range(parts + 1)]
    return [high - low for low, high in pairwise(before)]


def write_tokens(task: TokensTask) -> TokensResult:
    """Tokenise a part's kept documents and write its windows."""
    tally = _Tally()
    windows = _windows(task, tally)
    dtype = dtype_of(task.encoder.vocab_size)
    shards: list[tuple[FileRecord, int]] = []
    per_shard = max(1, SHARD_BYTES // (task.window * dtype.itemsize))
    block = next(windows, None)
    while block is not None:
        written = 0
        with task.draft.storage.writer(task.draft.path(f"{task.index:06d}-{len(shards):03d}.bin")) as sink:
            while block is not None and written < per_shard:
                piece, rest = block[: per_shard - written], block[per_shard - written :]
                sink.write(np.ascontiguousarray(piece, dtype).tobytes())
                written += len(piece)
                block = rest if len(rest) else next(windows, None)
        shards.append((sink.record, written))
    return TokensResult(tuple(shards), tally.documents, tally.tail_tokens)


def publish_tokens(draft: Draft, tasks: Sequence[TokensTask], results: Sequence[TokensResult]) -> Artifact:
    """``meta``: window, dtype, tokens, windows (in all), shards ({file: windows}, in order), documents, tail_tokens."""
    window, encoder = tasks[0].window, tasks[0].encoder
    shards = [shard for result in results for shard in result.shards]
    names = [f"{index:06d}.bin" for index in range(len(shards))]
    windows = sum(count for _, count in shards)
    meta = {
        "window": window,
        "dtype": dtype_of(encoder.vocab_size).str,
        "windows": windows,
        "tokens": windows * window,
        "shards": {name: count for name, (_, count) in zip(names, shards, strict=True)},
        "documents": sum(result.documents for result in results),
        "tail_tokens": sum(result.tail_tokens for result in results),
    }
    return draft.publish({name: record for name, (record, _) in zip(names, shards, strict=True)}, meta)


def check_tokens(pool: Pool, tokens: Artifact) -> None:
    """Raise InputError if the source does not fill one window."""
    if tokens.meta["windows"]:
        return
    limit = pool.config.max_tokens
    raise InputError(
        f"the {pool.label} is shorter than one window",
        where=pool.files_key,
        got=f"{tokens.meta['tail_tokens']} tokens in {tokens.meta['documents']} documents"
        + (f", max_tokens {limit}" if limit is not None else ""),
        wanted=f"at least {tokens.meta['window']} tokens in one part",
        remedy="a smaller window, or more text",
    )


def _windows(task: TokensTask, tally: _Tally) -> Iterator[NDArray[np.int64]]:
    """Blocks of whole windows, (n, window), until the part or its quota ends."""
    left = task.windows
    if left == 0:
        return
    pending: list[int] = []
    for ids in _token_lists(task, tally):
        pending += ids
        pending.append(task.encoder.end_of_document)
        enough = left is not None and len(pending) >= left * task.window
        if enough or len(pending) >= BLOCK_TOKENS + task.window:
            whole = len(pending) // task.window if left is None else min(len(pending) // task.window, left)
            yield np.array(pending[: whole * task.window], np.int64).reshape(whole, task.window)
            pending = pending[whole * task.window :]
            left = None if left is None else left - whole
        if left == 0:
            return
    whole = len(pending) // task.window
    if whole:
        yield np.array(pending[: whole * task.window], np.int64).reshape(whole, task.window)
    tally.tail_tokens = len(pending) - whole * task.window


def _token_lists(task: TokensTask, tally: _Tally) -> Iterator[list[int]]:
    for _, ids in task.encoder.encode(read_kept(task.pool, task.part, task.draft.storage, task.selected)):
        tally.documents += 1
        yield ids
