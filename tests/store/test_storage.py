"""What every place to store in does alike, and how the ones that cannot be used are refused."""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mixray.errors import CorruptedArtifactError, InputError
from mixray.store import FileRecord, Storage
from mixray.store.storage import READ_BYTES

DATA = bytes(range(256)) * 40


def record_of(path: str, data: bytes) -> FileRecord:
    return FileRecord(path, len(data), hashlib.sha256(data).hexdigest())


# ------------------------------------------------------------------------------------ both places alike


def test_an_empty_place_has_nothing_and_says_so(storage: Storage) -> None:
    assert storage.list("") == storage.list("a/b") == []
    assert not storage.exists("a")
    assert storage.size("a") is None
    storage.delete_folder("a")


@pytest.mark.parametrize("data", [b"", DATA, DATA * (READ_BYTES // len(DATA) + 1)], ids=len)
def test_what_is_written_is_read_back_and_recorded(storage: Storage, data: bytes) -> None:
    record = storage.write("a/b/c.bin", data)
    assert record == record_of("a/b/c.bin", data)
    assert storage.read("a/b/c.bin") == data
    assert (storage.size("a/b/c.bin"), storage.sha256("a/b/c.bin")) == (record.bytes, record.sha256)
    assert storage.exists("a/b/c.bin")
    assert (storage.list("a"), storage.list("a/b")) == (["b"], ["c.bin"])
    assert storage.size("a/b") is None


def test_a_stream_of_pieces_is_one_file(storage: Storage) -> None:
    with storage.writer("x") as sink:
        for start in range(0, len(DATA), 1000):
            sink.write(memoryview(DATA)[start : start + 1000])
    assert sink.record == record_of("x", DATA)
    assert storage.read("x") == DATA


def test_a_file_is_replaced_whole(storage: Storage) -> None:
    storage.write("x", DATA)
    storage.write("x", b"new")
    assert storage.read("x") == b"new"


def test_files_and_folders_are_removed(storage: Storage) -> None:
    for name in ("a/1", "a/2", "b/1"):
        storage.write(name, DATA)
    storage.delete("a/1")
    assert storage.list("a") == ["2"]
    storage.delete_folder("a")
    assert not storage.exists("a/2")
    assert storage.read("b/1") == DATA


def test_a_local_file_is_put_and_fetched(storage: Storage, copies: Path) -> None:
    (copies / "local").write_bytes(DATA)
    record = storage.put("deep/down", copies / "local")
    assert record == record_of("deep/down", DATA)
    assert storage.fetch(record).read_bytes() == DATA


def test_a_pickled_storage_is_the_same_place(storage: Storage) -> None:
    storage.write("x", DATA)
    copy = pickle.loads(pickle.dumps(storage))
    assert copy.read("x") == DATA
    assert copy.location("x") == storage.location("x")


def test_a_writable_place_is_left_as_it_was(storage: Storage) -> None:
    storage.check_writable()
    assert storage.list("") == []


def test_a_writer_that_is_killed_leaves_nothing_visible(uri: str) -> None:
    code = (
        "import sys, time\n"
        "from mixray.store import Storage\n"
        "with Storage(sys.argv[1]).writer('a/b') as sink:\n"
        "    sink.write(b'x' * 100_000)\n"
        "    print('halfway', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, uri], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"halfway\n"
        writer.send_signal(signal.SIGKILL)
    storage = Storage(uri)
    assert not storage.exists("a/b")
    assert storage.list("a") == []
    storage.write("a/b", DATA)
    assert storage.read("a/b") == DATA


# --------------------------------------------------------------------------------------- a local folder


def test_a_block_that_fails_leaves_nothing_and_keeps_what_was(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("x", b"old")

    def fail(name: str) -> None:
        with storage.writer(name) as sink:
            sink.write(DATA)
            raise ZeroDivisionError

    for name in ("x", "y"):
        with pytest.raises(ZeroDivisionError):
            fail(name)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert storage.read("x") == b"old"


@pytest.mark.parametrize("name", ["plain", "a b", "50%20", "why?not#here", "ü"])
def test_any_folder_name_will_do(tmp_path: Path, name: str) -> None:
    storage = Storage(str(tmp_path / name))
    storage.write("x", DATA)
    assert (tmp_path / name / "x").read_bytes() == DATA
    assert storage.location("x") == str(tmp_path / name / "x")


@pytest.mark.parametrize("form", ["runs", "./runs", "{}/runs", "file://{}/runs", "{}/runs/"])
def test_every_form_of_a_folder_means_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.chdir(tmp_path)
    storage = Storage(form.format(tmp_path))
    assert storage.is_local
    monkeypatch.chdir("/")
    storage.write("x", DATA)
    assert (tmp_path / "runs" / "x").read_bytes() == DATA
    assert Path(storage.location("x")) == tmp_path / "runs" / "x"


def test_a_local_file_is_fetched_in_place(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert storage.fetch(storage.write("a/x", DATA)) == tmp_path / "a" / "x"


# ------------------------------------------------------------------------------------- an object store


def test_a_location_can_be_opened_again_and_tells_no_credentials(s3_uri: str) -> None:
    root, _, query = s3_uri.partition("?")
    assert Storage(s3_uri).location("a/x") == f"{root}/a/x?{query}"
    known = s3_uri.replace("s3://", "s3://someone:secret@")
    assert Storage(known).location("a/x") == f"{root}/a/x?{query}"


def test_a_fetched_file_is_kept_by_its_content(s3_uri: str, copies: Path) -> None:
    storage = Storage(s3_uri)
    first = storage.fetch(storage.write("x", DATA))
    assert copies in first.parents
    again = storage.write("somewhere/else", DATA)
    storage.delete("x")
    storage.delete("somewhere/else")
    assert storage.fetch(again) == first
    assert first.read_bytes() == DATA
    assert [path.name for path in first.parent.iterdir()] == [again.sha256]


@pytest.mark.parametrize("damage", [DATA[:-1], b"", DATA[:-1] + b"!"], ids=["truncated", "empty", "altered"])
def test_a_damaged_copy_is_fetched_again(s3_uri: str, copies: Path, damage: bytes) -> None:
    assert copies.is_dir()
    storage = Storage(s3_uri)
    record = storage.write("x", DATA)
    storage.fetch(record).write_bytes(damage)
    assert storage.fetch(record).read_bytes() == DATA


def test_a_stored_file_that_is_not_the_recorded_one_is_never_handed_out(s3_uri: str, copies: Path) -> None:
    storage = Storage(s3_uri)
    record = storage.write("x", DATA)
    storage.write("x", DATA[:-1])
    with pytest.raises(CorruptedArtifactError, match="a stored file is corrupted") as caught:
        storage.fetch(record)
    assert caught.value.where == storage.location("x")
    assert not list(copies.rglob("files/*"))


def test_a_folder_of_copies_that_another_user_could_fill_is_refused(s3_uri: str, copies: Path) -> None:
    storage, folder = Storage(s3_uri), copies / f"mixray-{os.getuid()}"
    record = storage.write("x", DATA)
    folder.mkdir(mode=0o700)
    folder.chmod(0o777)
    with pytest.raises(InputError, match="open to other users") as caught:
        storage.fetch(record)
    assert (caught.value.where, caught.value.got) == (str(folder), f"drwxrwxrwx, of the user {os.getuid()}")
    folder.rename(copies / "elsewhere")
    (copies / "elsewhere").chmod(0o700)
    folder.symlink_to(copies / "elsewhere")
    with pytest.raises(InputError, match="open to other users"):
        storage.fetch(record)
    folder.unlink()
    assert folder in storage.fetch(record).parents
    assert [path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())] == [0o700] * 3
    if os.getuid() == 0:
        os.chown(folder, 1, 1)
        with pytest.raises(InputError, match="open to other users") as caught:
            storage.fetch(record)
        assert caught.value.got == "drwx------, of the user 1"


def test_processes_that_fetch_at_once_all_get_the_file(s3_uri: str, copies: Path) -> None:
    data = DATA * 800  # 8 MB
    record = Storage(s3_uri).write("x", data)
    code = (
        "import sys\n"
        "from mixray.store import FileRecord, Storage\n"
        "record = FileRecord('x', int(sys.argv[2]), sys.argv[3])\n"
        "storage = Storage(sys.argv[1])\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "path = storage.fetch(record)\n"
        "import hashlib; print(path, hashlib.sha256(path.read_bytes()).hexdigest())\n"
    )
    command = [sys.executable, "-c", code, s3_uri, str(record.bytes), record.sha256]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.stdout.readline() for process in processes if process.stdout] == ["ready\n"] * 2
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = {process.communicate()[0] for process in processes}
    (copy,) = copies.rglob("files/*")
    assert answers == {f"{copy} {record.sha256}\n"}


# ------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("uri", "got"),
    [
        ("ftp://host/folder", "Unrecognized filesystem type"),
        ("s3://bucket/prefix?colour=red", "Unexpected query parameter"),
        ("file://elsewhere/folder", "Unsupported hostname"),
    ],
)
def test_a_place_that_is_none_is_refused(uri: str, got: str) -> None:
    with pytest.raises(InputError, match="the storage cannot be opened") as caught:
        Storage(uri)
    assert caught.value.where == "storage"
    assert str(caught.value.got).startswith(f"{uri.replace('red', '***')} ({got}")
    assert caught.value.wanted == "a folder or a URI such as s3://bucket/prefix"


def test_a_folder_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="the storage cannot be written") as caught:
        Storage(str(tmp_path / "file" / "store")).check_writable()
    assert str(tmp_path / "file" / "store") in str(caught.value.got)
    assert caught.value.remedy == "storage=PATH on the command line names another one"


def test_a_bucket_that_is_not_there_cannot_be_written(s3_uri: str) -> None:
    with pytest.raises(InputError, match="the storage cannot be written") as caught:
        Storage(s3_uri.replace("//bucket/", "//nowhere/")).check_writable()
    assert "nowhere" in str(caught.value.got)
    assert "\n" not in str(caught.value.got)


@pytest.mark.usefixtures("copies")
def test_a_file_that_many_need_at_once_is_downloaded_once(s3_uri: str) -> None:
    storage, opened = Storage(s3_uri), []
    record = storage.write("x", DATA)

    class Watched:
        def open_input_stream(self, path: str, compression: None) -> Any:
            opened.append(path)
            time.sleep(0.2)
            return filesystem.open_input_stream(path, compression=compression)

    filesystem, storage.filesystem = storage.filesystem, Watched()
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: storage.fetch(record), range(8)))
    assert len(opened) == 1
    (path,) = paths
    assert path.read_bytes() == DATA
