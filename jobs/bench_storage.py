"""What a resumed run reads of its artifacts, and what the driver holds of a pool's files.

    python jobs/bench_storage.py --gigabytes 10 --files 1e3 1e4 1e5

A storage of synthetic artifacts is written, and all of them are found as a resumed run finds them; the bytes that the
process reads meanwhile (``/proc/self/io``) are given as a share of those stored. Then pools of so many small text files
are listed and scanned, the tasks in another process; the driver's memory is its highest resident size above that before
the listing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from mixray.config.data import SourceConfig
from mixray.data.pools import Pool
from mixray.data.reading.parts import list_pool
from mixray.data.text.scan import Scan
from mixray.store import Artifacts, Storage, find_or_make, fingerprint

FILE_BYTES, FILES_AN_ARTIFACT = 64 << 20, 4
SPAWN = multiprocessing.get_context("spawn")


def bytes_read() -> int:
    """Return how many bytes this process has read so far, from wherever."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar"))


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resume(gigabytes: float) -> None:
    with tempfile.TemporaryDirectory(prefix="mixray-") as folder:
        count = max(1, round(gigabytes * 1e9 / (FILE_BYTES * FILES_AN_ARTIFACT)))
        keys = [("tokens", fingerprint(number)) for number in range(count)]
        artifacts, content = Artifacts(Storage(folder), "bench"), bytes(FILE_BYTES)
        for key in keys:
            draft = artifacts.draft(*key)
            draft.publish({name: draft.write(name, content) for name in map(str, range(FILES_AN_ARTIFACT))}, {})
        stored, before = count * FILES_AN_ARTIFACT * FILE_BYTES, bytes_read()
        assert len(Artifacts(Storage(folder), "resumed").find_all(keys)) == count
        share = (bytes_read() - before) / stored
        print(f"a resume reads {share:.1e} of {stored / 1e9:.1f} GB in {count} artifacts", flush=True)


class Tasks:
    """Runs tasks in one other process."""

    def __call__(self, function: Callable[[Any], Any], items: Sequence[Any], _: str) -> Iterator[Any]:
        with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
            yield from pool.map(function, items)


def driver_megabytes(files: int) -> tuple[int, float]:
    """Return the parts that a pool of so many files has, and the memory that listing and scanning it take here."""
    with tempfile.TemporaryDirectory(prefix="mixray-") as name:
        folder = Path(name)
        for number in range(files):
            path = folder / "pool" / f"{number // 1000:03d}" / f"{number:06d}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"document {number}\n" * 20)
        before = peak_megabytes()
        listing = list_pool(Pool("source", "pool", SourceConfig(files=f"{folder}/pool/**/*.txt")))
        artifacts = Artifacts(Storage(str(folder / "store")), "bench")
        scan = find_or_make({"pool": Scan(listing)}, artifacts, Tasks(), "scan")["pool"]
        assert scan.meta["documents"] == files
        return len(listing.parts), peak_megabytes() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--files", type=float, nargs="+", default=[1e3, 1e4, 1e5])
    arguments = parser.parse_args()
    resume(arguments.gigabytes)
    for files in map(int, arguments.files):
        with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
            parts, megabytes = pool.submit(driver_megabytes, files).result()
        print(f"{files:9,} files in {parts:5,} parts: {megabytes:6.0f} MB in the driver", flush=True)


if __name__ == "__main__":
    main()
