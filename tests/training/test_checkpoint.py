"""A checkpoint is whole or it does not exist."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mixray.errors import StageError
from mixray.store import FileRecord, Storage
from mixray.training import StorageCheckpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> StorageCheckpoint:
    return StorageCheckpoint(Storage(str(tmp_path)), "checkpoints/proxy")


def state(step: int) -> dict:
    return {"step": step, "model": {"w": torch.full((3,), float(step))}, "records": [{"loss": 0.5, "name": "a"}]}


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "checkpoints/proxy").iterdir())


def test_there_is_none_at_first(checkpoint: StorageCheckpoint) -> None:
    assert checkpoint.latest() is None


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixray.training.checkpoint.WAIT_SECONDS", 0.0)


def test_the_newest_comes_back_and_all_but_the_last_two_go(checkpoint: StorageCheckpoint, tmp_path: Path) -> None:
    for step in (5, 10, 20):
        checkpoint.save(step, state(step))
    latest = checkpoint.latest()
    assert latest is not None
    assert torch.equal(latest["model"].pop("w"), torch.full((3,), 20.0))
    assert latest == {"step": 20, "model": {}, "records": [{"loss": 0.5, "name": "a"}]}
    assert files(tmp_path) == ["latest.json", "step-000010.pt", "step-000020.pt"]


def test_saving_a_step_again_replaces_it(checkpoint: StorageCheckpoint, tmp_path: Path) -> None:
    checkpoint.save(10, state(10))
    checkpoint.save(10, state(11))
    latest = checkpoint.latest()
    assert latest is not None
    assert latest["step"] == 11
    assert files(tmp_path) == ["latest.json", "step-000010.pt"]


def rewrite(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return damage


DAMAGES = {
    "state cut short": rewrite("step-000010.pt", lambda data: data[:-100]),
    "state empty": rewrite("step-000010.pt", lambda _: b""),
    "one bit": rewrite("step-000010.pt", lambda data: data[:300] + bytes([data[300] ^ 1]) + data[301:]),
    "state missing": lambda folder: (folder / "step-000010.pt").unlink(),
    "record empty": rewrite("latest.json", lambda _: b""),
    "record cut short": rewrite("latest.json", lambda data: data[:20]),
    "record not a dict": rewrite("latest.json", lambda _: b"[1]"),
    "record not UTF-8": rewrite("latest.json", lambda _: b"\xff\xfe\xff"),
    "record without sha256": rewrite("latest.json", lambda data: data.replace(b"sha256", b"sha")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_one_is_never_used(
    damage: Callable[[Path], None],
    checkpoint: StorageCheckpoint,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    checkpoint.save(10, state(10))
    damage(tmp_path / "checkpoints/proxy")
    with caplog.at_level(logging.WARNING):
        assert checkpoint.latest() is None
    assert "damaged and not used" in caplog.text
    checkpoint.save(20, state(20))
    assert checkpoint.latest() is not None


def test_the_state_before_a_damaged_one_is_used(
    checkpoint: StorageCheckpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint.save(10, state(10))
    checkpoint.save(20, state(20))
    rewrite("step-000020.pt", lambda data: data[:-1])(tmp_path / "checkpoints/proxy")
    latest = StorageCheckpoint(checkpoint.storage, checkpoint.folder).latest()
    assert latest is not None
    assert latest["step"] == 10
    assert "step-000020.pt" in caplog.text


def test_a_damaged_state_is_not_kept_in_place_of_a_good_one(checkpoint: StorageCheckpoint, tmp_path: Path) -> None:
    checkpoint.save(10, state(10))
    checkpoint.save(20, state(20))
    rewrite("step-000020.pt", lambda data: data[:-1])(tmp_path / "checkpoints/proxy")
    again = StorageCheckpoint(checkpoint.storage, checkpoint.folder)
    again.latest()
    again.save(15, state(15))
    assert files(tmp_path) == ["latest.json", "step-000010.pt", "step-000015.pt"]


class UnreliableStorage(Storage):
    """Fails so many of the reads of a file, and of the listings of a folder, whose name contains ``victim``."""

    def __init__(self, uri: str, victim: str, failures: int, error: OSError) -> None:
        super().__init__(uri)
        self.victim, self.failures, self.error = victim, failures, error

    def read(self, path: str) -> bytes:
        self._fail(path)
        return super().read(path)

    def list(self, folder: str) -> list[str]:
        self._fail(folder)
        return super().list(folder)

    def _fail(self, path: str) -> None:
        if path.endswith(self.victim) and self.failures:
            self.failures -= 1
            raise self.error


TRANSIENT = {"timeout": OSError("timed out"), "404 in between": FileNotFoundError("not there")}


@pytest.mark.parametrize("victim", ["latest.json", "step-000010.pt", "checkpoints/proxy"])
@pytest.mark.parametrize("error", TRANSIENT.values(), ids=TRANSIENT.keys())
def test_a_read_that_fails_is_tried_again(
    victim: str, error: OSError, checkpoint: StorageCheckpoint, tmp_path: Path
) -> None:
    checkpoint.save(10, state(10))
    latest = StorageCheckpoint(UnreliableStorage(str(tmp_path), victim, 2, error), checkpoint.folder).latest()
    assert latest is not None
    assert latest["step"] == 10


@pytest.mark.parametrize("victim", ["latest.json", "step-000010.pt", "checkpoints/proxy"])
def test_a_storage_that_goes_on_failing_is_an_error_and_training_does_not_start_over(
    victim: str, checkpoint: StorageCheckpoint, tmp_path: Path
) -> None:
    checkpoint.save(10, state(10))
    storage = UnreliableStorage(str(tmp_path), victim, 99, OSError("access denied"))
    with pytest.raises(StageError, match="access denied") as failure:
        StorageCheckpoint(storage, checkpoint.folder).latest()
    assert "checkpoints/proxy" in str(failure.value)


class DyingStorage(Storage):
    """Dies before it has written ``latest.json``."""

    def write(self, path: str, data: bytes) -> FileRecord:
        if path.endswith("latest.json"):
            raise OSError("the machine is gone")
        return super().write(path, data)


def test_dying_between_state_and_record_keeps_the_older_one(checkpoint: StorageCheckpoint, tmp_path: Path) -> None:
    checkpoint.save(10, state(10))
    with pytest.raises(OSError, match="the machine is gone"):
        StorageCheckpoint(DyingStorage(str(tmp_path)), "checkpoints/proxy").save(20, state(20))
    latest = checkpoint.latest()
    assert latest is not None
    assert latest["step"] == 10
