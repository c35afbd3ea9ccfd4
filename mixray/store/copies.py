"""Copies of stored files in this machine's temporary folder: named by content, shared by the processes of one user,
bounded.

The first process that needs a file downloads it while others wait. The copies take at most half of the disk space that
they could have; before a download would exceed that, those that were not used for longest are deleted.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from stat import S_ISDIR, S_IWGRP, S_IWOTH, filemode
from typing import TYPE_CHECKING

from filelock import FileLock

from mixray.errors import InputError

if TYPE_CHECKING:
    from mixray.store.storage import FileRecord

SHARE_OF_SPACE = 0.5
IN_USE_SECONDS = 10.0
"""A copy that was used so recently is not deleted: whoever has its path may not have opened it yet."""

_verified: set[Path] = set()
"""Copies that this process has hashed: files are named by their content, and read again and again."""


def find_copy(record: FileRecord) -> Path | None:
    """Return the copy of a stored file, and count it as used; None where there is none or it is damaged."""
    path = _folder("files") / record.sha256
    try:
        if not holds(path, record):
            return None
        os.utime(path)
    except FileNotFoundError:  # another process has just deleted it
        return None
    return path


def make_copy(record: FileRecord, download: Callable[[Path], None]) -> Path:
    """Return the copy of a stored file. Where there is none, ``download`` is called with a path to write it to."""
    with FileLock(_folder("locks") / record.sha256[:2]):
        copy = find_copy(record)
        if copy is None:
            _make_room(record.bytes)
            copy = _folder("files") / record.sha256
            aside = copy.with_suffix(f".{uuid.uuid4().hex[:8]}")
            try:
                download(aside)
                aside.replace(copy)
            finally:
                aside.unlink(missing_ok=True)
    return copy


def holds(path: Path, record: FileRecord) -> bool:
    """Return whether a local file is the recorded one. A copy's bytes are hashed once in a process."""
    if not path.is_file() or path.stat().st_size != record.bytes:
        return False
    if path in _verified:
        return True
    with path.open("rb") as file:
        is_same = hashlib.file_digest(file, "sha256").hexdigest() == record.sha256
    if is_same and path.name == record.sha256:
        _verified.add(path)
    return is_same


def _make_room(size: int) -> None:
    """Delete the copies that were not used for longest, and what killed downloads left, until ``size`` bytes fit."""
    with FileLock(_folder("locks") / "room"):
        stats = []
        for path in _folder("files").iterdir():
            try:
                stats.append((path.stat(), path))
            except FileNotFoundError:  # a download has just ended
                continue
        used = sum(stat.st_size for stat, _ in stats)
        limit = room(used)
        for stat, path in sorted(stats, key=lambda entry: entry[0].st_mtime):
            if used + size <= limit or time.time() - stat.st_mtime < IN_USE_SECONDS:
                return
            path.unlink(missing_ok=True)
            used -= stat.st_size


def room(used: int) -> int:
    """Return how many bytes all copies may take on this machine, where they take ``used`` now."""
    return int(SHARE_OF_SPACE * (used + shutil.disk_usage(_folder("files")).free))


def _folder(name: str) -> Path:
    """Return a folder of the copies. Raises InputError where other users could put files into it."""
    copies = Path(tempfile.gettempdir()) / f"mixray-{os.getuid()}"
    copies.mkdir(mode=0o700, parents=True, exist_ok=True)
    stat = copies.lstat()
    if not S_ISDIR(stat.st_mode) or stat.st_uid != os.getuid() or stat.st_mode & (S_IWGRP | S_IWOTH):
        raise InputError(
            "the folder for copies of stored files is open to other users",
            where=str(copies),
            got=f"{filemode(stat.st_mode)}, of the user {stat.st_uid}",
            wanted=f"a folder of the user {os.getuid()} that nobody else may write",
            remedy="delete it, or set TMPDIR to a folder of this user",
        )
    folder = copies / name
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
