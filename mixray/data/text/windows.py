"""A source's windows: documents joined by the end-of-document token and cut into pieces of equal length.

The windows of a part are raw little-endian files of at most 64 MiB: window i of a file starts at byte
i x window x itemsize. Tokens at the end of a part that do not fill a window are dropped and counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mixray.data.pools import Pool
from mixray.data.reading.parts import Listing, Part
from mixray.data.text.deduplicate import read_selected, selected_part
from mixray.data.text.tokenizer import Encoder
from mixray.errors import InputError
from mixray.store import Artifact, Draft, FileRecord, Step, fingerprint

KIND = "tokens"
SHARD_BYTES = 64 << 20
BLOCK_TOKENS = 1 << 18


@dataclass(frozen=True)
class WindowsTask:
    """Write part ``index`` of a pool. ``windows``: at most this many of the part; None: all."""

    pool: Pool
    part: Part
    index: int
    selected: FileRecord
    encoder: Encoder
    window: int
    windows: int | None
    draft: Draft


@dataclass(frozen=True)
class WindowsResult:
    """``shards``: each file with its number of windows. ``tail_tokens``: those that fill no window."""

    shards: tuple[tuple[FileRecord, int], ...]
    documents: int
    tail_tokens: int


@dataclass
class _Tally:
    documents: int = 0
    tail_tokens: int = 0


@dataclass(frozen=True)
class WriteWindows(Step[WindowsTask, WindowsResult]):
    """A source's windows of ``window`` tokens each.

    Meta: ``window``, ``dtype``, ``windows`` and ``tokens`` in all, ``shards`` ({file: windows}, in order),
    ``documents`` and ``tail_tokens``.
    """

    kind = KIND
    listing: Listing
    selection: Artifact
    encoder: Encoder
    window: int

    @property
    def id(self) -> str:
        settings = {"tokenizer": self.encoder.digest, "window": self.window, "max_tokens": self._max_tokens}
        return fingerprint({"tokens": 1, **settings, "documents": self.selection.meta["digest"]})

    def tasks(self, draft: Draft) -> list[WindowsTask]:
        pool, parts = self.listing.pool, self.listing.parts
        quotas = window_quotas(self._max_tokens, self.window, len(parts))
        return [
            WindowsTask(
                pool, part, index, selected_part(self.selection, index), self.encoder, self.window, quota, draft
            )
            for index, (part, quota) in enumerate(zip(parts, quotas, strict=True))
        ]

    @staticmethod
    def run(task: WindowsTask) -> WindowsResult:
        """Encode a part's selected documents and write its windows."""
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
        return WindowsResult(tuple(shards), tally.documents, tally.tail_tokens)

    def publish(self, draft: Draft, results: Sequence[WindowsResult]) -> Artifact:
        shards = [shard for result in results for shard in result.shards]
        names = [f"{index:06d}.bin" for index in range(len(shards))]
        windows = sum(count for _, count in shards)
        meta = {
            "window": self.window,
            "dtype": dtype_of(self.encoder.vocab_size).str,
            "windows": windows,
            "tokens": windows * self.window,
            "shards": {name: count for name, (_, count) in zip(names, shards, strict=True)},
            "documents": sum(result.documents for result in results),
            "tail_tokens": sum(result.tail_tokens for result in results),
        }
        return draft.publish({name: record for name, (record, _) in zip(names, shards, strict=True)}, meta)

    def check(self, artifact: Artifact) -> None:
        """Raise InputError if the source does not fill one window."""
        if artifact.meta["windows"]:
            return
        pool, limit = self.listing.pool, self._max_tokens
        raise InputError(
            f"the {pool.label} is shorter than one window",
            where=pool.files_key,
            got=f"{artifact.meta['tail_tokens']} tokens in {artifact.meta['documents']} documents"
            + (f", max_tokens {limit}" if limit is not None else ""),
            wanted=f"at least {artifact.meta['window']} tokens in one part",
            remedy="a smaller window, or more text",
        )

    @property
    def _max_tokens(self) -> int | None:
        return self.listing.pool.config.max_tokens


def dtype_of(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """Return the smallest unsigned dtype that holds every token id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def window_quotas(max_tokens: int | None, window: int, parts: int) -> Sequence[int | None]:
    """Return the number of windows that each part may write: equal up to rounding, ``max_tokens // window`` in all."""
    return [None] * parts if max_tokens is None else equal_shares(max_tokens // window, parts)


def equal_shares(total: int, parts: int) -> list[int]:
    """Return whole numbers that differ by one at most and sum to ``total``; the larger ones are spread evenly."""
    before = [-(-total * index // parts) for index in range(parts + 1)]
    return [high - low for low, high in pairwise(before)]


def _windows(task: WindowsTask, tally: _Tally) -> Iterator[NDArray[np.int64]]:
    """Yield blocks of whole windows, int64, shape (windows, window), until the part or its quota ends."""
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


def _token_lists(task: WindowsTask, tally: _Tally) -> Iterator[list[int]]:
    for _, ids in task.encoder.encode(read_selected(task.pool, task.part, task.draft.storage, task.selected)):
        tally.documents += 1
        yield ids
