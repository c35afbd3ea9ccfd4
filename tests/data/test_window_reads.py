"""How many bytes of an object store it takes to read training windows, and what is done with damaged ones."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixray.data import MixtureStream, Windows
from mixray.data.text.windows import stored_windows
from mixray.errors import CorruptedArtifactError
from mixray.store import Artifact, Artifacts, Storage, copies

WINDOW, PER_FILE = 128, 256
FILE_BYTES = PER_FILE * (WINDOW * 2 + 4)


class CountingFiles:
    """A file system that counts the bytes that are read from it."""

    def __init__(self, filesystem: Any) -> None:
        self._filesystem, self.bytes = filesystem, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._filesystem, name)

    def open_input_stream(self, path: str, **options: Any) -> Any:
        return CountingStream(self, self._filesystem.open_input_stream(path, **options))

    def open_input_file(self, path: str) -> Any:
        return CountingStream(self, self._filesystem.open_input_file(path))


class CountingStream:
    def __init__(self, files: CountingFiles, stream: Any) -> None:
        self._files, self._stream = files, stream

    def __enter__(self) -> CountingStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def read(self, *size: int) -> bytes:
        return self._counted(self._stream.read(*size))

    def read_at(self, size: int, offset: int) -> bytes:
        return self._counted(self._stream.read_at(size, offset))

    def _counted(self, data: bytes) -> bytes:
        self._files.bytes += len(data)
        return data


@pytest.fixture(autouse=True)
def copies_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where this machine keeps its copies: an empty folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def write_source(storage: Storage, number: int, files: int) -> tuple[Artifact, np.ndarray[Any, Any]]:
    """A source of random windows in so many files, and its windows."""
    draft = Artifacts(storage, "test").draft("tokens", f"{number:064x}")
    windows = np.random.default_rng(number).integers(0, 50_000, (files * PER_FILE, WINDOW)).astype("<u2")
    names = [f"{index:06d}.bin" for index in range(files)]
    parts = np.split(windows, files)
    records = {name: draft.write(name, stored_windows(part)) for name, part in zip(names, parts, strict=True)}
    meta = {"window": WINDOW, "dtype": "<u2", "shards": dict.fromkeys(names, PER_FILE)}
    return draft.publish(records, meta), windows


def open_counted(uri: str, sources: Mapping[str, Artifact]) -> tuple[CountingFiles, dict[str, Windows]]:
    storage = Storage(uri)
    storage.filesystem = files = CountingFiles(storage.filesystem)
    return files, {name: Windows(storage, source) for name, source in sources.items()}


def test_one_window_of_a_file_is_read_alone(s3_uri: str) -> None:
    source, windows = write_source(Storage(s3_uri), 1, 4)
    files, opened = open_counted(s3_uri, {"source": source})
    indices = np.array([700, 3, 1023])
    assert (opened["source"].read(indices) == windows[indices]).all()
    assert files.bytes == 3 * (WINDOW * 2 + 4)


def test_a_training_reads_at_most_four_times_the_bytes_of_its_windows(s3_uri: str) -> None:
    """A source that is read 5 times over, one of which half is read, and one of which 5 % are read."""
    written = {name: write_source(Storage(s3_uri), files, files) for name, files in (("a", 1), ("b", 4), ("c", 40))}
    files, opened = open_counted(s3_uri, {name: source for name, (source, _) in written.items()})
    shares = {"a": 0.56, "b": 0.22, "c": 0.22}
    stream = MixtureStream(opened, shares, seed=0)
    reference = MixtureStream({name: Whole(windows) for name, (_, windows) in written.items()}, shares, seed=0)
    positions = 2304
    for start in range(0, positions, 32):
        assert (stream.read(start, start + 32) == reference.read(start, start + 32)).all()
    assert files.bytes / (positions * WINDOW * 2) <= 4


class Whole:
    """Windows in memory."""

    def __init__(self, windows: np.ndarray[Any, Any]) -> None:
        self._windows = windows

    def __len__(self) -> int:
        return len(self._windows)

    def read(self, indices: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return self._windows[indices].astype(np.int64)


def test_copies_take_no_more_than_their_room_and_reads_stay_few(
    s3_uri: str, copies_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight files are read over and over; there is room for three."""
    source, windows = write_source(Storage(s3_uri), 1, 8)
    monkeypatch.setattr(copies, "IN_USE_SECONDS", 0.0)
    monkeypatch.setattr(copies, "room", lambda _used: int(3.5 * FILE_BYTES))
    files, opened = open_counted(s3_uri, {"source": source})
    draw, most = np.random.default_rng(0), 0
    for _ in range(300):
        indices = draw.integers(0, len(windows), 64)
        assert (opened["source"].read(indices) == windows[indices]).all()
        sizes = [path.stat().st_size for path in copies_folder.rglob("files/*")]
        most = max(most, sum(sizes))
    assert most == 3 * FILE_BYTES
    assert files.bytes / (300 * 64 * WINDOW * 2) <= 4


def test_the_copy_that_was_not_used_for_longest_goes_first(
    s3_uri: str, copies_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(s3_uri)
    records = [storage.write(name, bytes([number]) * 1000) for number, name in enumerate("abc")]
    monkeypatch.setattr(copies, "IN_USE_SECONDS", 0.0)
    monkeypatch.setattr(copies, "room", lambda _used: 2500)
    storage.fetch(records[0])
    storage.fetch(records[1])
    storage.fetch(records[0])
    storage.fetch(records[2])
    names = {path.name for path in copies_folder.rglob("files/*")}
    assert names == {records[0].sha256, records[2].sha256}


def test_a_copy_that_is_in_use_stays(s3_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(s3_uri)
    monkeypatch.setattr(copies, "room", lambda _used: 0)
    paths = [storage.fetch(storage.write(name, name.encode())) for name in "abc"]
    assert [path.read_bytes() for path in paths] == [b"a", b"b", b"c"]


@pytest.mark.parametrize("place", ["local", "s3"])
@pytest.mark.parametrize("damage", ["flipped", "truncated"])
def test_damage_is_named_where_it_is_first_read(place: str, damage: str, s3_uri: str, tmp_path: Path) -> None:
    storage = Storage(s3_uri if place == "s3" else str(tmp_path / "store"))
    source, windows = write_source(storage, 1, 2)
    record = source.files["000001.bin"]
    data = bytearray(storage.read(record.path))
    data[-10] ^= 1
    storage.write(record.path, bytes(data) if damage == "flipped" else bytes(data[:-10]))
    rows = Windows(storage, source)
    assert (rows.read(np.arange(PER_FILE + 3)) == windows[: PER_FILE + 3]).all()
    with pytest.raises(CorruptedArtifactError, match=r"a stored (window|file) is") as caught:
        rows.read(np.array([2 * PER_FILE - 1]))
    assert caught.value.where == storage.location(record.path)
