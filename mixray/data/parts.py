"""A pool's parts: pieces of about 16 MiB of stored data, the same on every machine, each the work of one task."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from mixray.data import hf_dataset
from mixray.data.hf_dataset import DatasetRef
from mixray.data.locations import SourceFile, find_files
from mixray.data.parquet import row_group_bytes
from mixray.data.pools import Pool
from mixray.data.streams import compression_of
from mixray.errors import InputError
from mixray.store import fingerprint

PART_BYTES = 16 << 20
FILE_BYTES = 16 << 10
"""What a file counts for at least: opening it is work too."""


@dataclass(frozen=True)
class FileSlice:
    """A piece of a file: bytes [start, stop) of JSON lines, row groups [start, stop) of Parquet; None: to the end."""

    file: SourceFile
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class FilePart:
    slices: tuple[FileSlice, ...]


@dataclass(frozen=True)
class DatasetPart:
    """Rows [start, stop) of a map-style data set; shard ``start`` of a streaming one."""

    dataset: DatasetRef
    start: int
    stop: int


Part = FilePart | DatasetPart


@dataclass(frozen=True)
class Listing:
    """What a pool is made of, seen without reading it.

    ``key`` changes whenever a file's place, size or time does. It only saves reading again: no result depends on it.
    ``size_bytes``: as stored; None where only reading would tell.
    """

    pool: Pool
    files: tuple[SourceFile, ...]
    dataset: DatasetRef | None
    key: str

    @property
    def size_bytes(self) -> int | None:
        return sum(file.size for file in self.files) if self.files else None


def list_pool(pool: Pool) -> Listing:
    """Look at the pool's files, or its revision on the hub. Raises InputError if there are none."""
    dataset = hf_dataset.dataset_ref(pool) if pool.config.reader == "dataset" else None
    patterns = _patterns(pool, dataset)
    folder_glob = "**/*.parquet" if pool.config.reader == "parquet" else None
    try:
        files = find_files(patterns, pool.config.exclude, folder_glob=folder_glob)
    except InputError as error:
        raise InputError(
            error.what, where=pool.files_key, got=error.got, wanted=error.wanted, remedy=error.remedy
        ) from error
    if not files and (dataset is None or dataset.is_local):
        raise InputError(
            f"the {pool.label} has no files",
            where=pool.files_key,
            got=", ".join(pool.config.locations)
            + (f", without {', '.join(excluded)}" if (excluded := pool.config.exclude) else ""),
            wanted="patterns that match at least one file",
            remedy="** spans folders: folder/**/*.txt; relative patterns start in the current folder",
        )
    key = fingerprint({"files": [asdict(file) for file in files], "dataset": asdict(dataset) if dataset else None})
    return Listing(pool, tuple(files), dataset, key)


def split_into_parts(listing: Listing) -> list[Part]:
    """The pool's parts, in the order of its files."""
    if listing.dataset is not None:
        ranges = hf_dataset.row_ranges(listing.dataset, listing.pool, PART_BYTES)
        return [DatasetPart(listing.dataset, start, stop) for start, stop in ranges]
    return [FilePart(slices) for slices in _grouped(_slices(listing))]


def _patterns(pool: Pool, dataset: DatasetRef | None) -> list[str]:
    if dataset is None:
        return pool.config.locations
    return [f"{glob.escape(dataset.path)}/**"] if dataset.is_local else []


def _slices(listing: Listing) -> Iterator[tuple[FileSlice, int]]:
    """The smallest pieces that can be read apart, each with the bytes it counts for."""
    if listing.pool.config.reader == "parquet":
        for file, groups in zip(listing.files, row_group_bytes(listing.files, listing.pool), strict=True):
            for group, size in enumerate(groups):
                yield FileSlice(file, group, group + 1), size
        return
    for file in listing.files:
        if listing.pool.config.reader == "jsonl" and compression_of(file) is None and file.size > PART_BYTES:
            for start in range(0, file.size, PART_BYTES):
                stop = min(start + PART_BYTES, file.size)
                yield FileSlice(file, start, stop), stop - start
        else:
            yield FileSlice(file), max(file.size, FILE_BYTES)


def _grouped(slices: Iterable[tuple[FileSlice, int]]) -> Iterator[tuple[FileSlice, ...]]:
    group: list[FileSlice] = []
    total = 0
    for piece, size in slices:
        if group and total + size > PART_BYTES:
            yield tuple(group)
            group, total = [], 0
        group.append(piece)
        total += size
    if group:
        yield tuple(group)
