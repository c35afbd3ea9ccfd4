"""Rows that lie with shard actors: time and memory of a solve, by the number of rows.

    python jobs/bench_shards.py --rows 1e6 1e7 1e8 --shards 2 --memory 2

Synthetic log-probabilities of 20 sources, correlated as real proxies' are (a common base, six shared factors, noise
0.05), are written block by block as float32 and solved to a gap of 1e-8. Time per row, and the actors' processor time
per row, are given as ratios to those of the first number of rows: 1.0 means that time is linear. 1e8 rows take 8 GB of
disk, and 10 more where they do not fit the memory allowed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from mixray.cache import NpyRows
from mixray.cluster import Session
from mixray.cluster.shards import open_shards
from mixray.simplex import FeasibleSet, Problem, solve_problem

SOURCES, FACTORS, NOISE = 20, 6, 0.05
WRITTEN_ROWS = 100_000
HEAD = "   rows  load s  solve s  cpu s rounds      gap  actor MB  driver MB  per row  cpu per row"


def write_table(path: Path, rows: int) -> None:
    """The same numbers whenever it is asked."""
    loadings = np.random.default_rng(0).normal(0, 0.3, (FACTORS, SOURCES)).astype(np.float32)
    with path.open("wb") as sink:
        shape = (rows, SOURCES)
        np.lib.format.write_array_header_1_0(sink, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for start in range(0, rows, WRITTEN_ROWS):
            draw, count = np.random.default_rng([1, start]), min(WRITTEN_ROWS, rows - start)
            table = draw.standard_normal((count, FACTORS), np.float32) @ loadings
            table += NOISE * draw.standard_normal((count, SOURCES), np.float32)
            table += 30 * draw.standard_normal((count, 1), np.float32) - 100
            sink.write(table.astype("<f4").data)


def peak_megabytes(process: Path) -> float:
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def actors() -> list[Path]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cmdline").read_bytes().startswith(b"ray::ShardHolder"):
                found.append(entry)
        except OSError:
            continue
    return found


def processor_seconds(process: Path) -> float:
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(session: Session, path: Path, shards: int, memory: int, scratch: str) -> tuple[float, float, str]:
    """Seconds of the solve, those of its actors' processors, and the line of the table without its last columns."""
    before, start = set(actors()), time.perf_counter()
    ranges = NpyRows.open(str(path))
    with open_shards(session, ranges, shards=shards, memory=memory, scratch=scratch) as objective:
        processes, loaded = set(actors()) - before, time.perf_counter()
        spent = sum(map(processor_seconds, processes))
        solution = solve_problem(Problem((objective,), FeasibleSet.of(SOURCES)))
        seconds = time.perf_counter() - loaded
        spent = sum(map(processor_seconds, processes)) - spent
        actor = max(map(peak_megabytes, processes))
    driver = peak_megabytes(Path(f"/proc/{os.getpid()}"))
    line = (
        f"{ranges.rows:7.0e} {loaded - start:7.1f} {seconds:8.2f} {spent:6.1f} {solution.rounds:6d} {solution.gap:8.1e}"
    )
    return seconds, spent, f"{line} {actor:9.0f} {driver:10.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, nargs="+", default=[1e6, 1e7])
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--memory", type=float, default=2, help="GiB per actor; rows beyond it lie in a file")
    parser.add_argument("--folder", help="where tables and files are written, and removed; temporary by default")
    options = parser.parse_args()
    first = None
    print(HEAD, flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, Session(cpus=options.shards) as session:
        for rows in map(int, options.rows):
            path = Path(folder) / "log_probs.npy"
            write_table(path, rows)
            seconds, spent, line = measured(session, path, options.shards, int(options.memory * 2**30), folder)
            path.unlink()
            first = first or (seconds / rows, spent / rows)
            print(f"{line} {seconds / rows / first[0]:8.2f} {spent / rows / first[1]:12.2f}", flush=True)


if __name__ == "__main__":
    main()
