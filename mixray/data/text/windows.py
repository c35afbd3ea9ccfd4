"""Texts as token ids, and a source's windows: documents joined by the end-of-document token and cut into equal pieces.

The windows of a part lie in files of at most 64 MiB, in pieces of one size (``window_format``): the little-endian token
ids of a window and their CRC-32, so that a window can be read and checked alone. Tokens at the end of a part that do
not fill a window are dropped and counted. Prompts with completions are packed in another way: see ``completions.py``.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
from numpy.typing import NDArray

from mixray.data.pools import Pool
from mixray.data.reading.parts import Listing, Part
from mixray.data.text.budget import rank
from mixray.data.text.completions import example_pieces, packed
from mixray.data.text.deduplicate import read_selected, selected_part
from mixray.data.text.documents import Document
from mixray.data.text.tokenizer import Encoder
from mixray.errors import InputError
from mixray.store import Artifact, Draft, FileRecord, Step, fingerprint
from mixray.store.step import Result

KIND = "tokens"
SHARD_BYTES = 64 << 20
BLOCK_TOKENS = 1 << 18


@dataclass(frozen=True)
class TokenizeTask:
    """Encode the selected documents of part ``index`` of a pool.

    ``quota``: at most this many windows of a source; None: all. ``last_rank``: the highest rank of the documents that
    are used (see ``budget.py``); None: all.
    """

    pool: Pool
    part: Part
    index: int
    selected: FileRecord
    encoder: Encoder
    window: int
    quota: int | None
    draft: Draft
    last_rank: int | None = None

    def documents(self) -> Iterator[Document]:
        """Yield every document that is used."""
        documents = read_selected(self.pool, self.part, self.draft.storage, self.selected)
        last = self.last_rank
        return (each for each in documents if last is None or rank(each.content) <= last)


@dataclass(frozen=True)
class TokenizePool(Step[TokenizeTask, Result]):
    """The selected documents of a pool as token ids, in pieces of at most ``window`` tokens."""

    listing: Listing
    selection: Artifact
    encoder: Encoder
    window: int

    @property
    def quota(self) -> int | None:
        """The quota of all tasks together."""
        return None

    @property
    def max_tokens(self) -> int | None:
        return self.listing.pool.config.max_tokens

    def tasks(self, draft: Draft) -> list[TokenizeTask]:
        pool, parts = self.listing.pool, self.listing.parts
        files = [selected_part(self.selection, index) for index in range(len(parts))]
        return [
            TokenizeTask(pool, part, index, file, self.encoder, self.window, quota, draft)
            for index, (part, file, quota) in enumerate(zip(parts, files, quotas(self.quota, len(parts)), strict=True))
        ]


def quotas(total: int | None, parts: int) -> Sequence[int | None]:
    """Return whole numbers that differ by one at most and sum to ``total``, or None for each if there is no limit.

    The larger ones are evenly spread.
    """
    if total is None:
        return [None] * parts
    before = [-(-total * index // parts) for index in range(parts + 1)]
    return [high - low for low, high in pairwise(before)]


@dataclass(frozen=True)
class WindowsResult:
    """``shards``: each file with its number of windows. ``tail_tokens``: the number of tokens that fill no window.
    ``trained_tokens``: those of completions, where documents have prompts."""

    shards: tuple[tuple[FileRecord, int], ...]
    documents: int
    tail_tokens: int
    trained_tokens: int


@dataclass(frozen=True)
class WriteWindows(TokenizePool[WindowsResult]):
    """A source's windows of ``window`` tokens each.

    Meta: ``window``, ``dtype``, ``windows`` and ``tokens`` in all, ``shards`` ({file: windows}, in order),
    ``documents`` and ``tail_tokens``; of prompts with completions also ``trained_tokens``.
    """

    kind = KIND

    @property
    def id(self) -> str:
        settings = {"tokenizer": self.encoder.digest, "window": self.window, "max_tokens": self.max_tokens}
        if self.listing.pool.config.has_completions:
            answers = {} if self.listing.pool.config.messages is None else {"answers": "all"}
            settings |= {"completions": 1, "chat": self.encoder.chat, **answers}
        return fingerprint({"tokens": 2, **settings, "documents": self.selection.meta["digest"]})

    @property
    def quota(self) -> int | None:
        return None if self.max_tokens is None else self.max_tokens // self.window

    @staticmethod
    def run(task: TokenizeTask) -> WindowsResult:
        """Encode a part's selected documents and write its windows."""
        counts: Counter[str] = Counter()
        windows = (_packed_windows if task.pool.config.has_completions else _windows)(task, counts)
        dtype = dtype_of(task.encoder.vocab_size, has_prompts=task.pool.config.has_completions)
        shards: list[tuple[FileRecord, int]] = []
        per_shard = max(1, SHARD_BYTES // window_format(task.window, dtype).itemsize)
        block = next(windows, None)
        while block is not None:
            written = 0
            with task.draft.storage.writer(task.draft.path(f"{task.index:06d}-{len(shards):03d}.bin")) as sink:
                while block is not None and written < per_shard:
                    piece, rest = block[: per_shard - written], block[per_shard - written :]
                    sink.write(stored_windows(piece.astype(dtype)))
                    written += len(piece)
                    block = rest if len(rest) else next(windows, None)
            shards.append((sink.record, written))
        return WindowsResult(tuple(shards), counts["documents"], counts["tail_tokens"], counts["trained_tokens"])

    def publish(self, draft: Draft, results: Sequence[WindowsResult]) -> Artifact:
        shards = [shard for result in results for shard in result.shards]
        names = [f"{index:06d}.bin" for index in range(len(shards))]
        windows = sum(count for _, count in shards)
        meta = {
            "window": self.window,
            "dtype": dtype_of(self.encoder.vocab_size, has_prompts=self.listing.pool.config.has_completions).str,
            "windows": windows,
            "tokens": windows * self.window,
            "shards": {name: count for name, (_, count) in zip(names, shards, strict=True)},
            "documents": sum(result.documents for result in results),
            "tail_tokens": sum(result.tail_tokens for result in results),
        }
        if self.listing.pool.config.has_completions:
            meta["trained_tokens"] = sum(result.trained_tokens for result in results)
        return draft.publish({name: record for name, (record, _) in zip(names, shards, strict=True)}, meta)

    def check(self, artifact: Artifact) -> None:
        """Raise InputError if the source does not fill one window."""
        if artifact.meta["windows"]:
            return
        pool, limit = self.listing.pool, self.max_tokens
        raise InputError(
            f"the {pool.label} is shorter than one window",
            where=pool.files_key,
            got=f"{artifact.meta['tail_tokens']} tokens in {artifact.meta['documents']} documents"
            + (f", max_tokens {limit}" if limit is not None else ""),
            wanted=f"at least {artifact.meta['window']} tokens in one part",
            remedy="a smaller window, or more text",
        )


def dtype_of(vocab_size: int, *, has_prompts: bool = False) -> np.dtype[np.integer]:
    """Return the smallest dtype that holds every token id, and with prompts also their negative numbers."""
    if has_prompts:
        return np.dtype("<i2" if vocab_size <= 1 << 15 else "<i4")
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def window_format(window: int, dtype: np.dtype[np.integer]) -> np.dtype[np.void]:
    """Return how a window of so many tokens is stored: ``tokens``, and ``crc32`` of their bytes."""
    return np.dtype([("tokens", dtype, (window,)), ("crc32", "<u4")])


def checksums(windows: NDArray[np.integer]) -> NDArray[np.uint32]:
    """Return the CRC-32 of the bytes of each window, uint32, shape (windows,)."""
    return np.array([zlib.crc32(window.data) for window in windows], dtype=np.uint32)


def stored_windows(windows: NDArray[np.integer]) -> bytes:
    """Return windows of token ids, shape (windows, window), of the stored dtype, as they are stored."""
    rows = np.empty(len(windows), window_format(windows.shape[1], windows.dtype))
    rows["tokens"], rows["crc32"] = windows, checksums(windows)
    return rows.tobytes()


def _windows(task: TokenizeTask, counts: Counter[str]) -> Iterator[NDArray[np.int64]]:
    """Yield blocks of whole windows, int64, shape (windows, window), until the part or its quota ends.

    ``counts`` receives the number of ``documents`` and of ``tail_tokens``.
    """
    left = task.quota
    if left == 0:
        return
    pending: list[int] = []
    for _, ids in task.encoder.encode(task.documents()):
        counts["documents"] += 1
        pending += [*ids, task.encoder.end_of_document]
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
    counts["tail_tokens"] = len(pending) - whole * task.window


def _packed_windows(task: TokenizeTask, counts: Counter[str]) -> Iterator[NDArray[np.int64]]:
    """Yield blocks of windows as ``_windows`` does, of prompts with completions; the last ones may end in padding.

    ``counts`` receives the number of ``documents`` and of ``trained_tokens``.
    """
    end_of_document, window = task.encoder.end_of_document, task.window

    def pieces() -> Iterator[list[int]]:
        for _, ids in task.encoder.encode_answers(task.documents()):
            counts["documents"] += 1
            yield from example_pieces(ids, end_of_document, window)

    windows = islice(packed(pieces(), end_of_document, window), task.quota)
    while rows := list(islice(windows, max(1, BLOCK_TOKENS // window))):
        block = np.array(rows, np.int64)
        counts["trained_tokens"] += int((block >= 0).sum())
        yield block
