"""A checkpoint is whole or it does not exist."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mixray.errors import StageError
from mixray.store import Storage
from mixray.training import StorageCheckpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> StorageCheckpoint:
    return StorageCheckpoint(Storage(str(tmp_path)), "checkpoints/proxy")


def state(step: int) -> dict:
    return {"step": step, "model": {"w": torch.full((3,), float(step))}, "records": [{"loss": 0.5, "name": "a"}]}


def steps(tmp_path: Path) -> list[int]:
    """The steps of the saved states."""
    return sorted(int(path.name.split("-")[1]) for path in (tmp_path / "checkpoints/proxy").iterdir())


def test_there_is_none_at_first(checkpoint: StorageCheckpoint) -> None:
    assert checkpoint.latest() is None


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixray.store.retrying.WAIT_SECONDS", 0.0)


def test_the_newest_comes_back_and_all_but_the_last_two_go(checkpoint: StorageCheckpoint, tmp_path: Path) -> None:
    for step in (5, 10, 20):
        checkpoint.save(step, state(step))
    latest = checkpoint.latest()
    assert latest is not None
    assert torch.equal(latest["model"].pop("w"), torch.full((3,), 20.0))
    assert latest == {"step": 20, "model": {}, "records": [{"loss": 0.5, "name": "a"}]}
    assert steps(tmp_path) == [10, 20]


def test_saving_a_step_again_replaces_it(checkpoint: StorageCheckpoint, tmp_path: Path) -> None:
    checkpoint.save(10, state(10))
    checkpoint.save(10, state(11))
    latest = checkpoint.latest()
    assert latest is not None
    assert latest["step"] == 11
    assert steps(tmp_path) == [10]


def rewrite(step: int, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (path,) = folder.glob(f"step-{step:06d}-*.pt")
        path.write_bytes(change(path.read_bytes()))

    return damage


DAMAGES = {
    "cut short": rewrite(10, lambda data: data[:-100]),
    "empty": rewrite(10, lambda _: b""),
    "one bit": rewrite(10, lambda data: data[:300] + bytes([data[300] ^ 1]) + data[301:]),
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
    rewrite(20, lambda data: data[:-1])(tmp_path / "checkpoints/proxy")
    latest = StorageCheckpoint(checkpoint.storage, checkpoint.folder).latest()
    assert latest is not None
    assert latest["step"] == 10
    assert "step-000020" in caplog.text


def test_a_damaged_state_is_not_kept_in_place_of_a_good_one(checkpoint: StorageCheckpoint, tmp_path: Path) -> None:
    checkpoint.save(10, state(10))
    checkpoint.save(20, state(20))
    rewrite(20, lambda data: data[:-1])(tmp_path / "checkpoints/proxy")
    again = StorageCheckpoint(checkpoint.storage, checkpoint.folder)
    again.latest()
    again.save(15, state(15))
    assert steps(tmp_path) == [10, 15]


class UnreliableStorage(Storage):
    """Fails so many of the reads of a file, and of the listings of a folder, that contains ``victim``."""

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
        if self.victim in path.partition("checkpoints")[2] and self.failures:
            self.failures -= 1
            raise self.error


TRANSIENT = {"timeout": OSError("timed out"), "404 in between": FileNotFoundError("not there")}


@pytest.mark.parametrize("victim", ["step-000010", "/proxy"])
@pytest.mark.parametrize("error", TRANSIENT.values(), ids=TRANSIENT.keys())
def test_a_read_that_fails_is_tried_again(
    victim: str, error: OSError, checkpoint: StorageCheckpoint, tmp_path: Path
) -> None:
    checkpoint.save(10, state(10))
    latest = StorageCheckpoint(UnreliableStorage(str(tmp_path), victim, 2, error), checkpoint.folder).latest()
    assert latest is not None
    assert latest["step"] == 10


@pytest.mark.parametrize("victim", ["step-000010", "/proxy"])
def test_a_storage_that_goes_on_failing_is_an_error_and_training_does_not_start_over(
    victim: str, checkpoint: StorageCheckpoint, tmp_path: Path
) -> None:
    checkpoint.save(10, state(10))
    storage = UnreliableStorage(str(tmp_path), victim, 99, OSError("access denied"))
    with pytest.raises(StageError, match="access denied") as failure:
        StorageCheckpoint(storage, checkpoint.folder).latest()
    assert "checkpoints/proxy" in str(failure.value)


def test_a_state_that_goes_missing_after_it_was_listed_is_passed_over(
    checkpoint: StorageCheckpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint.save(10, state(10))
    checkpoint.save(20, state(20))
    storage = UnreliableStorage(str(tmp_path), "step-000020", 99, FileNotFoundError("gone"))
    latest = StorageCheckpoint(storage, checkpoint.folder).latest()
    assert latest is not None
    assert latest["step"] == 10
    assert "is missing" in caplog.text


def test_runs_that_train_the_same_at_once_share_their_states(checkpoint: StorageCheckpoint, tmp_path: Path) -> None:
    ahead, behind = checkpoint, StorageCheckpoint(checkpoint.storage, checkpoint.folder)
    ahead.save(10, state(10))
    ahead.save(20, state(20))
    behind.save(5, state(5))
    assert steps(tmp_path) == [5, 10, 20]
    behind.save(10, state(10))
    assert steps(tmp_path) == [10, 20]
    ahead.delete()  # its model is published
    behind.save(15, state(15))
    latest = behind.latest()
    assert latest is not None
    assert latest["step"] == 15


def test_what_an_earlier_version_has_left_is_not_read(checkpoint: StorageCheckpoint, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints/proxy/demo-12345678"
    folder.mkdir(parents=True)
    for name in ("latest.json", "step-000010.pt"):
        (folder / name).write_bytes(b"x")
    assert checkpoint.latest() is None
    checkpoint.save(5, state(5))
    checkpoint.delete()
    assert not folder.exists()
