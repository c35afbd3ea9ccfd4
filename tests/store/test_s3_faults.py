"""A real S3 server that answers badly now and then: what is read is right, or it is an error that says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mixray.errors import CorruptedArtifactError, StageError
from mixray.store import Artifact, Artifacts, Storage, find_or_make, fingerprint, retrying
from mixray.store.retrying import retried
from tests.store.faulty_s3 import Fault, FaultyS3
from tests.store.test_step import Squares

ID = fingerprint("an artifact")
DATA = bytes(range(256)) * 400
NEVER = 10**6


@pytest.fixture
def server(s3_server: str) -> Iterator[FaultyS3]:
    server = FaultyS3(s3_server)
    yield server
    server.close()


@pytest.fixture
def artifacts(server: FaultyS3, s3_uri: str, copies: Path, monkeypatch: pytest.MonkeyPatch) -> Artifacts:
    assert copies.is_dir()
    monkeypatch.setattr(retrying, "WAIT_SECONDS", 0.01)
    return Artifacts(Storage(server.uri(s3_uri)), "run-1")


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
    server: FaultyS3, artifacts: Artifacts, published: Artifact, read: Read, fault: str
) -> None:
    server.faults.append(replace(ONCE[fault]))
    assert retried(lambda: read(artifacts, published), lambda _: None) == DATA
    assert server.faults[0].times == 0


def test_reads_that_go_on_failing_end_in_an_error_after_so_many_tries(
    server: FaultyS3, artifacts: Artifacts, published: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "TRIES", 2)
    server.faults.append(Fault("GET", "model", 503, times=NEVER))
    notes: list[str] = []
    with pytest.raises(StageError, match="reading or writing failed") as caught:
        retried(lambda: read_whole(artifacts, published), notes.append)
    assert len(notes) == 1
    assert "AWS Error" in str(caught.value.got)
    assert str(caught.value.got).endswith("(2 times)")


@pytest.mark.parametrize("read", [read_whole, read_copy])
def test_a_file_that_is_said_to_be_missing_is_not_replaced_by_anything(
    server: FaultyS3, artifacts: Artifacts, published: Artifact, read: Read
) -> None:
    server.faults.append(Fault("GET", "model", 404, times=NEVER))
    server.faults.append(Fault("HEAD", "model", 404, times=NEVER))
    with pytest.raises(CorruptedArtifactError, match="a stored file is corrupted") as caught:
        read(artifacts, published)
    assert caught.value.got == "no file"
    server.faults.clear()
    assert read(artifacts, published) == DATA


def test_an_artifact_whose_manifest_was_not_seen_once_is_made_again_and_stays_the_first(
    server: FaultyS3, artifacts: Artifacts, published: Artifact
) -> None:
    server.faults.append(Fault("HEAD", "manifest.json", 404))
    later = Artifacts(artifacts.storage, "run-2")
    assert later.find("proxy", ID) is None
    draft = later.draft("proxy", ID)
    assert draft.publish({"model": draft.write("model", DATA)}, {}) == published
    assert later.find("proxy", ID) == published
    assert artifacts.storage.list(f"artifacts/proxy/{ID}") == ["manifest.json", "run-1"]


@pytest.mark.parametrize("status", [500, 503])
def test_a_write_that_fails_once_is_whole(server: FaultyS3, artifacts: Artifacts, status: int) -> None:
    server.faults.append(Fault("PUT", "model", status))
    notes: list[str] = []
    draft = artifacts.draft("proxy", ID)
    record = retried(lambda: draft.write("model", DATA), notes.append)
    assert artifacts.storage.read_record(record) == DATA


@pytest.mark.parametrize("fault", [Fault("GET", "manifest.json", 404), Fault("GET", "list-type=2", 404)])
def test_steps_go_on_where_the_storage_denies_for_a_moment_what_it_has(
    server: FaultyS3, artifacts: Artifacts, fault: Fault
) -> None:
    steps = {"one": Squares((1, 2)), "two": Squares((3,))}
    first = find_or_make(steps, artifacts, lambda function, items, _: map(function, items), "squares")
    server.faults.append(replace(fault))
    again = find_or_make(steps, artifacts, lambda *_: pytest.fail("they were made again"), "squares")
    assert again == first
    assert server.faults[0].times == 0
