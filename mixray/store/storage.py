"""A folder or an object store behind one small set of operations, through pyarrow.fs.

Every write is all or nothing: local files are written aside and renamed, object stores publish on close. Whatever can
be repeated safely is tried again, a few times, where the storage does not answer (see ``mixray.store.retrying``).
"""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, TypeVar

from pyarrow import fs as pafs

from mixray.errors import CorruptedArtifactError, InputError, StageError, first_line, without_credentials
from mixray.store.copies import find_copy, holds, make_copy
from mixray.store.retrying import retried

log = logging.getLogger(__name__)
T = TypeVar("T")

READ_BYTES = 1 << 22
PARTIAL = ".mixray-partial-"
"""In the name of a local file that is being written, or was when its writer was killed."""
REBUILD = "run again with --rebuild to make it anew"
"""What mends an artifact that is corrupted."""


@dataclass(frozen=True)
class FileRecord:
    """A stored file: ``path`` relative to the storage root, size in bytes, sha256 in hex."""

    path: str
    bytes: int
    sha256: str


class HashingWriter:
    """A binary sink that counts and hashes what passes through; ``record`` is set when it closes."""

    record: FileRecord

    def __init__(self, sink: Any, path: str) -> None:
        self._sink, self._path, self._bytes, self._hash = sink, path, 0, hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        self._sink.write(data)
        self._hash.update(data)
        size = memoryview(data).nbytes
        self._bytes += size
        return size

    def _finish(self) -> None:
        self.record = FileRecord(self._path, self._bytes, self._hash.hexdigest())


class Storage:
    """The storage root of a run: ``uri`` is a local folder or anything ``pyarrow.fs.FileSystem.from_uri`` opens.

    Cheap to pickle and send to workers. Paths are relative to the root and use ``/``. Methods raise StageError where
    the storage goes on not answering.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri if "://" in uri else str(Path(uri).expanduser().absolute())
        try:
            self.filesystem, self.root = pafs.FileSystem.from_uri(self.uri)
        except (OSError, ValueError, NotImplementedError) as error:
            raise InputError(
                "the storage cannot be opened",
                where="storage",
                got=without_credentials(f"{uri} ({first_line(error)})"),
                wanted="a folder or a URI such as s3://bucket/prefix",
            ) from error
        self.is_local = isinstance(self.filesystem, pafs.LocalFileSystem)

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self.uri,)

    def full(self, path: str) -> str:
        return f"{self.root.rstrip('/')}/{path}" if path else self.root

    def location(self, path: str) -> str:
        """The path as a person would type it: local, or a URI with its options and without its credentials."""
        if self.is_local:
            return self.full(path)
        base, question, options = without_credentials(self.uri).partition("?")
        return f"{base.rstrip('/')}/{path}{question}{options}"

    def check_writable(self) -> None:
        """Raise InputError unless a file can be written, read and removed here."""
        probe = f".mixray-probe-{uuid.uuid4().hex}"
        try:
            self.write(probe, b"mixray")
            self.read(probe)
            self.delete(probe)
        except (OSError, StageError) as error:
            reason = error.got if isinstance(error, StageError) else first_line(error)
            raise InputError(
                "the storage cannot be written",
                where="storage",
                got=without_credentials(f"{self.uri} ({reason})"),
                wanted="a folder or bucket this user may write",
                remedy="storage=PATH on the command line names another one",
            ) from error

    def asked(self, work: Callable[[], T], path: str) -> T:
        """Return what ``work`` returns, which asks about ``path`` and may be repeated; see ``retried``."""
        return retried(work, log.warning, where=self.location(path))

    def _info(self, path: str) -> pafs.FileInfo:
        return self.asked(lambda: self.filesystem.get_file_info(self.full(path)), path)

    def _infos(self, folder: str, *, recursive: bool = False) -> list[pafs.FileInfo]:
        selector = pafs.FileSelector(self.full(folder), allow_not_found=True, recursive=recursive)
        return self.asked(lambda: self.filesystem.get_file_info(selector), folder)

    def exists(self, path: str) -> bool:
        return bool(self._info(path).type != pafs.FileType.NotFound)

    def modified(self, path: str) -> datetime:
        """Return when a file was last written, in UTC."""
        modified: datetime = self._info(path).mtime
        return modified.replace(tzinfo=modified.tzinfo or UTC)

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of every file below ``folder`` by its path; none where it does not exist."""
        infos = self._infos(folder, recursive=True)
        start = len(self.full(folder)) + 1
        return {f"{folder}/{info.path[start:]}": info.size for info in infos if info.type == pafs.FileType.File}

    def size(self, path: str) -> int | None:
        """Bytes of a file; None where there is none."""
        info = self._info(path)
        return int(info.size) if info.type == pafs.FileType.File else None

    def list(self, folder: str) -> list[str]:
        """Names of the files and folders directly in ``folder``, sorted; empty where it does not exist."""
        return list(self.entries(folder))

    def entries(self, folder: str) -> dict[str, bool]:
        """Return the names that ``list`` returns, and whether each is a folder's."""
        infos = sorted(self._infos(folder), key=lambda info: info.base_name)
        return {info.base_name: info.type == pafs.FileType.Directory for info in infos if PARTIAL not in info.base_name}

    def read(self, path: str) -> bytes:
        def whole() -> bytes:
            with self.filesystem.open_input_stream(self.full(path), compression=None) as stream:
                return bytes(stream.read())

        return self.asked(whole, path)

    def read_record(self, record: FileRecord) -> bytes:
        """Return a stored file's bytes. Raises CorruptedArtifactError where they are not the recorded ones."""
        try:
            data = self.read(record.path)
        except FileNotFoundError as error:
            raise self._corrupted(record, "no file") from error
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise self._corrupted(record, f"{len(data)} bytes of other content")
        return data

    def write(self, path: str, data: bytes) -> FileRecord:
        def whole() -> FileRecord:
            with self.writer(path) as sink:
                sink.write(data)
            return sink.record

        return self.asked(whole, path)

    def create(self, path: str, data: bytes) -> bool:
        """Write a small file unless there is one, and return whether it was written.

        Of several processes that create one local file, exactly one writes it. pyarrow has no conditional write for
        object stores: there, and on a file system without hard links, two that write within the same moment may both
        return True, and the later file stays.
        """
        if self.exists(path):
            return False
        if not self.is_local:
            self.write(path, data)
            return self.read(path) == data
        aside = f"{path}{PARTIAL}{uuid.uuid4().hex[:8]}"
        self.write(aside, data)
        try:
            os.link(self.full(aside), self.full(path))
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            self.write(path, data)
        finally:
            self.delete(aside)
        return True

    @contextmanager
    def writer(self, path: str) -> Iterator[HashingWriter]:
        """Stream bytes to ``path``; nothing is visible under that name unless the block ends well (local).

        Nothing is tried again here: whoever streams must be able to begin anew.
        """
        final = self.full(path)
        target = f"{final}{PARTIAL}{uuid.uuid4().hex[:8]}" if self.is_local else final
        if self.is_local:
            os.makedirs(os.path.dirname(final), exist_ok=True)
        try:
            with self.filesystem.open_output_stream(target, compression=None) as stream:
                sink = HashingWriter(stream, path)
                yield sink
            sink._finish()
            if self.is_local:
                os.replace(target, final)
        finally:
            if self.is_local and os.path.exists(target):
                os.remove(target)

    def put(self, path: str, local: Path) -> FileRecord:
        """Copy a local file in."""

        def whole() -> FileRecord:
            with self.writer(path) as sink, local.open("rb") as source:
                _copy(source, sink)
            return sink.record

        return self.asked(whole, path)

    def delete(self, path: str) -> None:
        self._delete(self.filesystem.delete_file, path)

    def delete_folder(self, path: str) -> None:
        if self.exists(path):
            self._delete(self.filesystem.delete_dir, path)

    def _delete(self, delete: Callable[[str], None], path: str) -> None:
        has_asked = False

        def once() -> None:
            nonlocal has_asked
            is_again, has_asked = has_asked, True
            try:
                delete(self.full(path))
            except FileNotFoundError:
                if not is_again:  # else an earlier try has deleted it, and only its answer was lost
                    raise

        self.asked(once, path)

    def sha256(self, path: str) -> str:
        def whole() -> str:
            digest = hashlib.sha256()
            with self.filesystem.open_input_stream(self.full(path), compression=None) as stream:
                while block := stream.read(READ_BYTES):
                    digest.update(block)
            return digest.hexdigest()

        return self.asked(whole, path)

    def fetch(self, record: FileRecord) -> Path:
        """Return a local path of a stored file: itself, or a copy on this machine (see ``mixray.store.copies``).

        Raises CorruptedArtifactError where the stored file is not the recorded one: a process checks its sha256 once.
        """
        if self.is_local:
            return self._checked(record)
        return find_copy(record) or make_copy(record, lambda path: self._download(record, path))

    def _download(self, record: FileRecord, path: Path) -> None:
        def whole() -> None:
            with (
                self.filesystem.open_input_stream(self.full(record.path), compression=None) as stream,
                path.open("wb") as sink,
            ):
                _copy(stream, sink)

        try:
            self.asked(whole, record.path)
        except FileNotFoundError as error:
            raise self._corrupted(record, "no file") from error
        if not holds(path, record):
            raise self._corrupted(record, f"{path.stat().st_size} bytes of other content")

    def _checked(self, record: FileRecord) -> Path:
        """Return the path of a file in a local storage, whose bytes were hashed at least once by this process."""
        path = Path(self.full(record.path))
        try:
            stat = path.stat()
        except FileNotFoundError as error:
            raise self._corrupted(record, "no file") from error
        key = (path, stat.st_size, stat.st_mtime_ns)
        if key not in _CHECKED:
            if not holds(path, record):
                raise self._corrupted(record, f"{stat.st_size} bytes of other content")
            _CHECKED.add(key)
        return path

    def _corrupted(self, record: FileRecord, got: str) -> CorruptedArtifactError:
        return CorruptedArtifactError(
            "a stored file is corrupted",
            where=self.location(record.path),
            got=got,
            wanted=f"{record.bytes} bytes, sha256 {record.sha256}",
            remedy=REBUILD,
        )


_CHECKED: set[tuple[Path, int, int]] = set()
"""Files of local storages that this process has hashed: path, bytes, time of the last change."""


def _copy(source: Any, sink: IO[bytes] | HashingWriter) -> None:
    while block := source.read(READ_BYTES):
        sink.write(block)
