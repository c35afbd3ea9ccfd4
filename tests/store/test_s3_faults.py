"""A real S3 server that answers badly now and then: what is read is right, or it is an error that says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mixray.errors import CorruptedArtifactError, InputError, StageError
from mixray.store import Artifact, Artifacts, FileRecord, Storage, find_or_make, fingerprint, retrying
from mixray.store.pieces import PiecedFile, read_pieces
from mixray.store.retrying import retried
from tests.store.faulty_s3 import Fault, FaultyS3
from tests.store.test_step import Squares

ID = fingerprint("an artifact")
DATA = bytes(range(256)) * 400
NEVER = 10**6
FOLDER = "folder"


@pytest.fixture
def artifacts(faulty_s3: FaultyS3, s3_uri: str, copies: Path) -> Artifacts:
    assert copies.is_dir()
    return Artifacts(Storage(faulty_s3.uri(s3_uri)), "run-1")


@pytest.fixture
def published(artifacts: Artifacts) -> Artifact:
    draft = artifacts.draft("proxy", ID)
    return draft.publish({"model": draft.write("model", DATA)}, {})


def read_whole(artifacts: Artifacts, artifact: Artifact) -> bytes:
    return artifacts.storage.read_record(artifact.files["model"])


def read_copy(artifacts: Artifacts, artifact: Artifact) -> bytes:
    return artifacts.storage.fetch(artifact.files["model"]).read_bytes()


Read = Callable[[Artifacts, Artifact], bytes]


ONCE = {
    "503": Fault("GET", "model", 503),
    "500": Fault("GET", "model", 500),
    "404": Fault("GET", "model", 404),
    "a stall": Fault("GET", "model", seconds=4.0),
}


@pytest.mark.parametrize("read", [read_whole, read_copy])
@pytest.mark.parametrize("fault", ONCE)
def test_a_read_that_fails_once_or_stalls_gives_the_right_bytes(
    faulty_s3: FaultyS3, artifacts: Artifacts, published: Artifact, read: Read, fault: str
) -> None:
    faulty_s3.faults.append(replace(ONCE[fault]))
    assert retried(lambda: read(artifacts, published), lambda _: None) == DATA
    assert faulty_s3.faults[0].times == 0


@pytest.mark.parametrize("read", [read_whole, read_copy])
def test_a_file_that_is_said_to_be_missing_is_not_replaced_by_anything(
    faulty_s3: FaultyS3, artifacts: Artifacts, published: Artifact, read: Read
) -> None:
    faulty_s3.faults.append(Fault("GET", "model", 404, times=NEVER))
    faulty_s3.faults.append(Fault("HEAD", "model", 404, times=NEVER))
    with pytest.raises(CorruptedArtifactError, match="a stored file is corrupted") as caught:
        read(artifacts, published)
    assert caught.value.got == "no file"
    faulty_s3.faults.clear()
    assert read(artifacts, published) == DATA


def test_an_artifact_whose_manifest_was_not_seen_once_is_made_again_and_stays_the_first(
    faulty_s3: FaultyS3, artifacts: Artifacts, published: Artifact
) -> None:
    faulty_s3.faults.append(Fault("HEAD", "manifest.json", 404))
    later = Artifacts(artifacts.storage, "run-2")
    assert later.find("proxy", ID) is None
    draft = later.draft("proxy", ID)
    assert draft.publish({"model": draft.write("model", DATA)}, {}) == published
    assert later.find("proxy", ID) == published
    assert artifacts.storage.list(f"artifacts/proxy/{ID}") == ["manifest.json", "run-1"]


@pytest.mark.parametrize("status", [500, 503])
def test_a_write_that_fails_once_is_whole(faulty_s3: FaultyS3, artifacts: Artifacts, status: int) -> None:
    faulty_s3.faults.append(Fault("PUT", "model", status))
    notes: list[str] = []
    draft = artifacts.draft("proxy", ID)
    record = retried(lambda: draft.write("model", DATA), notes.append)
    assert artifacts.storage.read_record(record) == DATA


@pytest.mark.parametrize("fault", [Fault("GET", "manifest.json", 404), Fault("GET", "list-type=2", 404)])
def test_steps_go_on_where_the_storage_denies_for_a_moment_what_it_has(
    faulty_s3: FaultyS3, artifacts: Artifacts, fault: Fault
) -> None:
    steps = {"one": Squares((1, 2)), "two": Squares((3,))}
    first = find_or_make(steps, artifacts, lambda function, items, _: map(function, items), "squares")
    faulty_s3.faults.append(replace(fault))
    again = find_or_make(steps, artifacts, lambda *_: pytest.fail("they were made again"), "squares")
    assert again == first
    assert faulty_s3.faults[0].times == 0


OPERATIONS: dict[str, Callable[[Storage, FileRecord], object]] = {
    "exists": lambda storage, file: storage.exists(file.path),
    "size": lambda storage, file: storage.size(file.path),
    "sizes": lambda storage, _: storage.sizes(FOLDER),
    "list": lambda storage, _: storage.list(FOLDER),
    "modified": lambda storage, file: storage.modified(file.path).year > 2000,
    "read": lambda storage, file: storage.read(file.path),
    "sha256": lambda storage, file: storage.sha256(file.path),
    "fetch": lambda storage, file: storage.fetch(file).read_bytes() == DATA,
    "a piece": lambda storage, file: read_pieces([(PiecedFile(storage, file), [7])], 5),
    "write": lambda storage, file: storage.write(file.path, DATA).sha256,
    "put": lambda storage, file: storage.put(file.path, Path(__file__)).bytes == Path(__file__).stat().st_size,
    "delete": lambda storage, file: storage.delete(file.path),
    "delete a folder": lambda storage, _: storage.delete_folder(FOLDER),
}
METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE")


@pytest.mark.parametrize("name", OPERATIONS)
def test_whoever_asks_a_storage_asks_again_where_it_did_not_answer(
    faulty_s3: FaultyS3, artifacts: Artifacts, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver, too, reads manifests, configs and lists of files, outside of any task that is done again."""
    pauses: list[float] = []

    def answer_again(pause: float) -> None:
        faulty_s3.faults.clear()
        pauses.append(pause)

    monkeypatch.setattr(retrying, "time", SimpleNamespace(sleep=answer_again))
    storage, operation = artifacts.storage, OPERATIONS[name]
    file, undisturbed = (storage.write(f"{folder}/file", DATA) for folder in (FOLDER, f"{FOLDER}/undisturbed"))
    faulty_s3.faults += [Fault(method, "", 503, times=NEVER) for method in METHODS]
    got = operation(storage, file)
    assert pauses == [retrying.WAIT_SECONDS]
    assert got == operation(storage, undisturbed)


def test_a_storage_that_goes_on_refusing_is_named(
    faulty_s3: FaultyS3,
    artifacts: Artifacts,
    published: Artifact,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And work that is tried again does not multiply the tries."""
    monkeypatch.setattr(retrying, "TRIES", 2)
    faulty_s3.faults.append(Fault("GET", "model", 503, times=NEVER))
    notes: list[str] = []
    with pytest.raises(StageError, match="reading or writing failed") as caught:
        retried(lambda: read_whole(artifacts, published), notes.append)
    assert caught.value.where == artifacts.storage.location(published.files["model"].path)
    assert "AWS Error" in str(caught.value.got)
    assert str(caught.value.got).endswith("(2 times)")
    assert (len(caplog.records), notes) == (1, [])


def test_a_storage_that_denies_access_is_not_asked_again(faulty_s3: FaultyS3, artifacts: Artifacts) -> None:
    faulty_s3.faults += [Fault(method, "", 403, times=NEVER) for method in METHODS]
    with pytest.raises(InputError, match="the storage cannot be written"):
        artifacts.storage.check_writable()
    assert sum(NEVER - fault.times for fault in faulty_s3.faults) <= 2
