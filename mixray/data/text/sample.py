"""The sample a tokenizer learns from: a source's documents in the order of a keyed hash until the quota is full."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixray.data.pools import Pool
from mixray.data.reading.parts import Part
from mixray.data.tables import read_table, write_rows
from mixray.data.text.selection import first_words, hash_bytes, part_of, read_kept
from mixray.store import Artifact, Draft, FileRecord

SCHEMA = pa.schema([("text", pa.string())])


@dataclass(frozen=True)
class SampleTask:
    """``quota``: bytes of text; the document that crosses it is the last one."""

    pool: Pool
    parts: tuple[Part, ...]
    selection: Artifact
    quota: int
    seed: int
    draft: Draft
    name: str


def sample(task: SampleTask) -> FileRecord:
    """Write the sampled texts as one table, in the order of the source."""
    chosen = _choose(task)
    texts = chain.from_iterable(_texts(task, index, chosen[index]) for index in sorted(chosen))
    return write_rows(task.draft, task.name, SCHEMA, ((text,) for text in texts))


def _choose(task: SampleTask) -> dict[int, set[int]]:
    """Part -> which of its kept documents. Memory: about 40 bytes a document of the source."""
    ranks: list[NDArray[np.uint64]] = []
    sizes: list[NDArray[np.int64]] = []
    for index in range(len(task.parts)):
        table = read_table(task.draft.storage, part_of(task.selection, index))
        kept = table.filter(table["keep"])
        ranks.append(first_words(hash_bytes(kept["content"])))
        sizes.append(kept["bytes"].to_numpy())
    starts = np.cumsum([0, *map(len, ranks)])
    order = np.argsort(_keyed(np.concatenate(ranks), task.seed), kind="stable")
    before = np.cumsum(np.concatenate(sizes)[order]) - np.concatenate(sizes)[order]
    chosen: dict[int, set[int]] = {}
    for document in order[before < task.quota].tolist():
        index = int(np.searchsorted(starts, document, side="right")) - 1
        chosen.setdefault(index, set()).add(document - int(starts[index]))
    return chosen


def _keyed(words: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Another uniform number for every word, a bijection chosen by the seed."""
    key = hashlib.blake2b(f"sample/{seed}".encode(), digest_size=16).digest()
    shift, factor = np.frombuffer(key, "<u8")
    words = (words ^ shift) * (factor | np.uint64(1))
    words = words ^ (words >> np.uint64(32))
    return np.asarray(words * (factor | np.uint64(1)), np.uint64)


def _texts(task: SampleTask, index: int, chosen: set[int]) -> Iterator[str]:
    last = max(chosen)
    kept = read_kept(task.pool, task.parts[index], task.draft.storage, part_of(task.selection, index))
    for position, document in enumerate(kept):
        if position in chosen:
            yield document.text
        if position == last:
            return
