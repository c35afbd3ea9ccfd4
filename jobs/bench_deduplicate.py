"""Deduplication: time of all tasks and memory of the largest one, by the number of documents.

    python jobs/bench_deduplicate.py --documents 1e6 3e6 1e7

Scans of synthetic hashes, of which a tenth are repeated and a hundredth stand in a target, are selected from by the
tasks of the data stage, each in a process of its own, one after another. Processor time per document is given as a
ratio to that of the first number: 1.0 means that time is linear. Memory is the highest resident size above that of a
process that does nothing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from mixray.config.data import SourceConfig
from mixray.data.pools import Pool
from mixray.data.text import repeats
from mixray.data.text.deduplicate import Deduplicate
from mixray.data.text.scan import SCAN_SCHEMA, part_file
from mixray.store import Artifact, Artifacts, Storage, encode, find_or_make

PART_DOCUMENTS = 20_000
HEAD = "documents  tasks  largest task MB  driver MB  seconds  us/document  ratio"


def write_scan(artifacts: Artifacts, name: str, documents: int, first: int = 0) -> Artifact:
    """Publish a scan of the documents numbered from ``first``; every tenth repeats the one 10,000 before it."""
    draft, files, counts = artifacts.draft("scan", name), {}, []
    for part, start in enumerate(range(first, first + documents, PART_DOCUMENTS)):
        numbers = np.arange(start, min(start + PART_DOCUMENTS, first + documents), dtype=np.uint64)
        numbers[::10] -= np.minimum(numbers[::10], 10_000)
        halves = np.stack([numbers, numbers * np.uint64(0x9E3779B97F4A7C15)], axis=1) + np.uint64(1)
        halves *= np.uint64(0xBF58476D1CE4E5B9)
        halves ^= halves >> np.uint64(29)
        hashes = [pa.py_buffer(np.ascontiguousarray(halves).tobytes())]
        content = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(numbers), [None, *hashes])
        columns = [content, pa.nulls(len(numbers), pa.binary(16)), pa.array(np.full(len(numbers), 4000))]
        files[part_file(part)] = draft.write(part_file(part), encode(pa.table(columns, schema=SCAN_SCHEMA)))
        counts.append(len(numbers))
    return draft.publish(files, {"documents": documents, "part_documents": counts, "last_rank": None})


def measured(call: tuple[Callable[[Any], Any], Any]) -> tuple[Any, float, float]:
    """Do a task, and return its result, its processor seconds and the megabytes that it added to the process."""
    function, item = call
    before, start = peak_megabytes(), time.process_time()
    return function(item), time.process_time() - start, peak_megabytes() - before


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Tasks:
    """Runs every task in a new process, and adds up what they take."""

    def __init__(self) -> None:
        self.count, self.seconds, self.megabytes = 0, 0.0, 0.0

    def __call__(self, function: Callable[[Any], Any], items: Sequence[Any], _: str) -> Iterator[Any]:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
            for result, seconds, megabytes in pool.map(measured, [(function, item) for item in items]):
                self.count, self.seconds = self.count + 1, self.seconds + seconds
                self.megabytes = max(self.megabytes, megabytes)
                yield result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=float, nargs="+", default=[1e6, 3e6, 1e7])
    parser.add_argument("--batch", type=float, default=repeats.BATCH_DOCUMENTS, help="documents of a task")
    arguments = parser.parse_args()
    repeats.BATCH_DOCUMENTS = int(arguments.batch)
    pool, first = Pool("source", "pool", SourceConfig(jsonl="pool.jsonl")), None
    print(HEAD)
    for documents in map(int, arguments.documents):
        with tempfile.TemporaryDirectory(prefix="mixray-") as folder:
            artifacts, tasks, driver = Artifacts(Storage(folder), "bench"), Tasks(), peak_megabytes()
            target = write_scan(artifacts, "target", 20_000, first=documents - documents // 100)
            step = Deduplicate(pool, write_scan(artifacts, "source", documents), (target,), tasks)
            meta = find_or_make({"pool": step}, artifacts, tasks, "select")["pool"].meta
            assert meta["documents"] + meta["duplicates"] + meta["in_target"] == documents
            per_document = tasks.seconds / documents
            first = first or per_document
            print(
                f"{documents:9,}  {tasks.count:5}  {tasks.megabytes:15.0f}  {peak_megabytes() - driver:9.0f}  "
                f"{tasks.seconds:7.1f}  {per_document * 1e6:11.2f}  {per_document / first:5.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
