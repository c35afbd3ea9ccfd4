"""A pool's files, and its parts: pieces of about 16 MiB of stored data, the same on every machine, each the work of one
task."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property

from mixray.data.pools import Pool
from mixray.data.reading import hugging_face
from mixray.data.reading.files import compression_of
from mixray.data.reading.hugging_face import DatasetRef
from mixray.data.reading.locations import SourceFile, find_files, without_options
from mixray.data.reading.parquet import data_files, row_group_bytes
from mixray.errors import InputError
from mixray.store import fingerprint, fingerprint_each

PART_BYTES = 16 << 20
FILE_BYTES = 16 << 10
"""The least that a file counts as, because opening it is work too."""
TOKEN_BYTES = 16
"""How many bytes of text stand for a token of ``max_tokens``: three or four times what tokenizers need, because the
tokenizer is not known yet and some documents will be dropped."""
LEAST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FileSlice:
    """A piece of a file: bytes [start, stop) of JSON lines, row groups [start, stop) of Parquet; None: to the end."""

    file: SourceFile
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class FilePart:
    """Pieces of files that are read one after another.

    ``byte_limit``: bytes of text after which reading stops, with a whole document; None: never.
    """

    slices: tuple[FileSlice, ...]
    byte_limit: int | None


@dataclass(frozen=True)
class DatasetPart:
    """Rows [start, stop) of a map-style data set; shard ``start`` of a streaming one."""

    dataset: DatasetRef
    start: int
    stop: int
    byte_limit: int | None


Part = FilePart | DatasetPart


@dataclass(frozen=True)
class Listing:
    """What a pool is made of, without reading it.

    ``key`` changes whenever a file's place, size or time changes. It only saves reading again: no result depends on it.
    """

    pool: Pool
    files: tuple[SourceFile, ...]
    dataset: DatasetRef | None
    key: str

    @cached_property
    def parts(self) -> list[Part]:
        """The pool's parts, in the order of its files. The first use may open every file."""
        if self.dataset is not None:
            ranges = hugging_face.row_ranges(self.dataset, self.pool, PART_BYTES)
            limit = _byte_limit(self.pool, len(ranges))
            return [DatasetPart(self.dataset, start, stop, limit) for start, stop in ranges]
        groups = list(_grouped(_slices(self)))
        limit = _byte_limit(self.pool, len(groups))
        return [FilePart(slices, limit) for slices in groups]

    @property
    def size_bytes(self) -> int | None:
        """The size as stored; None if only reading would tell."""
        return sum(file.size for file in self.files) if self.files else None


def list_pool(pool: Pool) -> Listing:
    """List the pool's files, or look up its revision on the hub. Raises InputError if there are none."""
    if pool.config.reader == "dataset":
        return _list_dataset(pool)
    in_folder = data_files if pool.config.reader == "parquet" else None
    try:
        files = find_files(pool.config.locations, pool.config.exclude, in_folder=in_folder)
    except InputError as error:
        raise InputError(
            error.what, where=pool.files_key, got=error.got, wanted=error.wanted, remedy=error.remedy
        ) from error
    if not files:
        left_out = pool.config.exclude
        raise InputError(
            f"the {pool.label} has no files",
            where=pool.files_key,
            got=", ".join(map(without_options, pool.config.locations))
            + (f", without {', '.join(left_out)}" if left_out else ""),
            wanted="patterns that match at least one file",
            remedy="** spans folders: folder/**/*.txt; relative patterns start in the current folder",
        )
    return Listing(pool, tuple(files), None, fingerprint_each(file.identity for file in files))


def _list_dataset(pool: Pool) -> Listing:
    config, folder, files = pool.config, hugging_face.local_folder(pool), list[SourceFile]()
    if folder is None:
        name, revision = str(config.dataset), hugging_face.hub_revision(pool)
    else:
        files = find_files([f"{glob.escape(str(folder))}/**"], [])
        name, revision = str(folder), fingerprint_each(file.identity for file in files)
    dataset = DatasetRef(name, folder is not None, config.subset, config.split, revision, config.streaming)
    return Listing(pool, tuple(files), dataset, fingerprint(asdict(dataset)))


def _byte_limit(pool: Pool, parts: int) -> int | None:
    """Return an equal share of what ``max_tokens`` may need, so that a small part of a huge source does not read all of
    it."""
    if pool.is_read_whole or pool.config.max_tokens is None:
        return None
    return max(LEAST_BYTES, TOKEN_BYTES * -(-pool.config.max_tokens // max(1, parts)))


def _slices(listing: Listing) -> Iterator[tuple[FileSlice, int]]:
    """Yield the smallest pieces that can be read apart, each with the bytes that it counts as."""
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
