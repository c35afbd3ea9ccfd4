"""An artifact exists whole or not at all, and is checked whenever it is found."""

from __future__ import annotations

import io
import json
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from mixray.errors import CorruptedArtifactError, InputError
from mixray.store import Artifact, Artifacts, Storage, fingerprint
from mixray.store.artifacts import (
    artifact_folder,
    check_artifact,
    fetch_folder,
    published_artifacts,
    read_artifact,
    verify,
)
from mixray.store.tables import read_batches

ID = fingerprint("an artifact")
MANIFEST = f"artifacts/tokens/{ID}/manifest.json"
META = {"windows": 3, "dtype": "<u2", "parts": [1, 2], "share": 0.1}
Open = Callable[..., Artifacts]
Damage = Callable[[Storage, Artifact], object]


def publish(artifacts: Artifacts, content: bytes = b"abc") -> Artifact:
    draft = artifacts.draft("tokens", ID)
    return draft.publish({name: draft.write(name, content + name.encode()) for name in ("a.bin", "b.bin")}, META)


def test_a_published_artifact_is_found(open_artifacts: Open) -> None:
    published = publish(open_artifacts())
    found = open_artifacts("run-2").find("tokens", ID)
    assert found == published == open_artifacts().get("tokens", ID)
    assert found is not None
    assert (found.meta, sum(record.bytes for record in found.files.values())) == (META, 16)


def test_without_a_manifest_there_is_no_artifact(open_artifacts: Open) -> None:
    draft = open_artifacts().draft("tokens", ID)
    files = {"a.bin": draft.write("a.bin", b"abc")}
    assert open_artifacts().find("tokens", ID) is None
    draft.publish(files, {})
    assert open_artifacts().find("tokens", ID) is not None


def test_an_artifact_that_must_exist_is_missed(open_artifacts: Open) -> None:
    with pytest.raises(CorruptedArtifactError, match=r"the stored tokens .* is corrupted") as caught:
        open_artifacts().get("tokens", ID)
    assert caught.value.got == "it is missing"


def test_other_kinds_and_ids_are_other_artifacts(open_artifacts: Open) -> None:
    publish(open_artifacts())
    assert open_artifacts().find("rows", ID) is None
    assert open_artifacts().find("tokens", fingerprint("another")) is None


def edit_manifest(change: Callable[[dict[str, Any]], Any]) -> Damage:
    def damage(storage: Storage, _: Artifact) -> None:
        manifest = json.loads(storage.read(MANIFEST))
        change(manifest)
        storage.write(MANIFEST, json.dumps(manifest).encode())

    return damage


def overwrite(data: bytes) -> Damage:
    return lambda storage, artifact: storage.write(artifact.files["b.bin"].path, data)


def overwrite_manifest(data: bytes) -> Damage:
    return lambda storage, _: storage.write(MANIFEST, data)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "truncated file": (overwrite(b"abcb.bi"), "b.bin: 7 bytes"),
    "longer file": (overwrite(b"abcb.bin!"), "b.bin: 9 bytes"),
    "missing file": (lambda storage, artifact: storage.delete(artifact.files["b.bin"].path), "b.bin: missing"),
    "empty manifest": (overwrite_manifest(b""), "manifest.json: "),
    "half a manifest": (overwrite_manifest(b'{"schema": "mixray.art'), "manifest.json: "),
    "binary manifest": (overwrite_manifest(b"\xff\x00"), "manifest.json: "),
    "manifest that is a list": (overwrite_manifest(b"[]"), "manifest.json: "),
    "manifest of another artifact": (edit_manifest(lambda m: m.update(id="0" * 64)), "it describes another artifact"),
    "manifest of another kind": (edit_manifest(lambda m: m.update(kind="rows")), "it describes another artifact"),
    "manifest of another schema": (edit_manifest(lambda m: m.update(schema="x/2")), "it describes another artifact"),
    "manifest without files": (edit_manifest(lambda m: m.pop("files")), "'files'"),
    "manifest without meta": (edit_manifest(lambda m: m.pop("meta")), "'meta'"),
    "files that are a list": (edit_manifest(lambda m: m.update(files=["a.bin"])), "manifest.json: "),
    "file without a size": (edit_manifest(lambda m: m["files"]["a.bin"].pop("bytes")), "bytes"),
    "meta that is a number": (edit_manifest(lambda m: m.update(meta=3)), "manifest.json: "),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_artifact_is_named_and_can_be_made_anew(open_artifacts: Open, storage: Storage, damage: str) -> None:
    hurt, got = DAMAGES[damage]
    hurt(storage, publish(open_artifacts()))
    with pytest.raises(CorruptedArtifactError) as caught:
        open_artifacts().find("tokens", ID)
    assert caught.value.what == f"the stored tokens {ID[:12]} is corrupted"
    assert caught.value.where == storage.location(artifact_folder("tokens", ID))
    assert got in str(caught.value.got)
    assert caught.value.remedy == "run again with --rebuild to make it anew"
    assert isinstance(caught.value, InputError)

    assert open_artifacts(rebuild=True).find("tokens", ID) is None
    assert open_artifacts().find("tokens", ID) is None, "what was found corrupted under rebuild is gone for all"
    again = publish(open_artifacts("run-2"))
    assert open_artifacts().find("tokens", ID) == again


OUTSIDE = {
    "a path upwards": lambda m: m["files"]["a.bin"].update(path=f"artifacts/tokens/{ID}/../../../secret"),
    "a path from the root": lambda m: m["files"]["a.bin"].update(path="/etc/hostname"),
    "another artifact": lambda m: m["files"]["a.bin"].update(path=f"artifacts/tokens/{'0' * 64}/run-1/a.bin"),
    "its folder's neighbour": lambda m: m["files"]["a.bin"].update(path=f"artifacts/tokens/{ID}x/a.bin"),
    "a path with an empty part": lambda m: m["files"]["a.bin"].update(path=f"artifacts/tokens/{ID}//a.bin"),
    "a name upwards": lambda m: m["files"].update({"../x": m["files"].pop("a.bin")}),
    "a name from the root": lambda m: m["files"].update({"/tmp/x": m["files"].pop("a.bin")}),
    "an empty name": lambda m: m["files"].update({"": m["files"].pop("a.bin")}),
}


@pytest.mark.parametrize("plant", OUTSIDE)
def test_a_planted_manifest_leads_nowhere(open_artifacts: Open, storage: Storage, plant: str) -> None:
    storage.write("secret", b"abca.bin")
    artifact = publish(open_artifacts())
    edit_manifest(OUTSIDE[plant])(storage, artifact)
    for read in (open_artifacts().find, open_artifacts().get, lambda *key: read_artifact(storage, *key)):
        with pytest.raises(CorruptedArtifactError, match="leads out of") as caught:
            read("tokens", ID)
        assert caught.value.where == storage.location(artifact_folder("tokens", ID))


@pytest.mark.parametrize("linked", ["the file", "its folder"])
def test_a_link_out_of_an_artifact_is_not_followed(tmp_path: Path, linked: str) -> None:
    artifacts = Artifacts(Storage(str(tmp_path / "store")), "run-1")
    path = Path(artifacts.storage.full(publish(artifacts).files["a.bin"].path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.bin").write_bytes(b"abca.bin")
    (tmp_path / "elsewhere" / "b.bin").write_bytes(b"abcb.bin")
    if linked == "the file":
        path.unlink()
        path.symlink_to(tmp_path / "elsewhere" / "a.bin")
    else:
        path.parent.rename(tmp_path / "aside")
        path.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptedArtifactError, match="leads out of"):
        artifacts.find("tokens", ID)


def test_a_store_that_lies_behind_a_link_is_read(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "store"))
    (tmp_path / "large disk").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "artifacts").symlink_to(tmp_path / "large disk")
    published = publish(Artifacts(storage, "run-1"))
    assert Artifacts(storage, "run-2").find("tokens", ID) == published


@pytest.mark.parametrize("key", [("..", ID), ("tokens", "../../x"), ("tokens", ""), ("a/b", ID), ("tokens", "/etc")])
def test_names_that_lead_elsewhere_are_not_those_of_an_artifact(open_artifacts: Open, key: tuple[str, str]) -> None:
    """They may stand in a planted index or list of columns."""
    with pytest.raises(CorruptedArtifactError, match="not a valid name of an artifact"):
        open_artifacts().find(*key)


class CountingFiles:
    """A file system that counts the bytes that are read from it."""

    def __init__(self, filesystem: Any) -> None:
        self._filesystem, self.bytes = filesystem, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._filesystem, name)

    def open_input_stream(self, path: str, **options: Any) -> Any:
        with self._filesystem.open_input_stream(path, **options) as stream:
            data = stream.read()
        self.bytes += len(data)
        return io.BytesIO(data)


def test_finding_artifacts_reads_less_than_a_hundredth_of_them(open_artifacts: Open, storage: Storage) -> None:
    ids = [fingerprint(number) for number in range(20)]
    for id in ids:
        draft = open_artifacts().draft("tokens", id)
        draft.publish({name: draft.write(name, bytes(200_000)) for name in ("0.bin", "1.bin")}, META)
    storage.filesystem = counting = CountingFiles(storage.filesystem)
    assert len(open_artifacts().find_all(("tokens", id) for id in ids)) == 20
    assert 0 < counting.bytes < 0.01 * 20 * 400_000
    assert len(open_artifacts(rebuild=True).find_all(("tokens", id) for id in ids)) == 20
    assert counting.bytes > 20 * 400_000


@pytest.mark.usefixtures("copies")
def test_an_altered_file_is_named_by_whoever_reads_it_first(open_artifacts: Open, storage: Storage) -> None:
    published = publish(open_artifacts())
    record = published.files["b.bin"]
    storage.write(record.path, b"abcb.biN")
    assert open_artifacts().find("tokens", ID) == published, "its bytes are not read when it is found"
    for read in (storage.fetch, storage.read_record, lambda record: list(read_batches(storage, record))):
        with pytest.raises(CorruptedArtifactError, match="a stored file is corrupted") as caught:
            read(record)
        assert caught.value.where == storage.location(record.path)
        assert caught.value.remedy == "run again with --rebuild to make it anew"
    with pytest.raises(CorruptedArtifactError, match=r"b\.bin: sha256 "):
        check_artifact(storage, published, digests=True)
    assert open_artifacts(rebuild=True).find("tokens", ID) is None
    again = publish(open_artifacts("run-2"))
    assert storage.read_record(again.files["b.bin"]) == b"abcb.bin"
    assert storage.fetch(again.files["b.bin"]).read_bytes() == b"abcb.bin"


def test_a_manifest_names_the_software(open_artifacts: Open, storage: Storage) -> None:
    publish(open_artifacts())
    software = json.loads(storage.read(MANIFEST))["software"]
    assert {name: software[name] for name in ("mixray", "torch", "transformers")} == {
        name: version(name) for name in ("mixray", "torch", "transformers")
    }


def test_many_artifacts_are_found_at_once(open_artifacts: Open) -> None:
    ids = [fingerprint(number) for number in range(40)]
    published = {("tokens", id): open_artifacts().draft("tokens", id).publish({}, {"id": id}) for id in ids[::2]}
    assert open_artifacts().find_all([("tokens", id) for id in [*ids, *ids]]) == published
    assert open_artifacts().find_all([]) == {}


def test_rebuild_keeps_what_is_sound(open_artifacts: Open) -> None:
    assert open_artifacts(rebuild=True).find("tokens", ID) is None
    published = publish(open_artifacts())
    assert open_artifacts(rebuild=True).find("tokens", ID) == published


def test_two_runs_that_write_the_same_artifact_never_touch_each_others_files(
    open_artifacts: Open, storage: Storage
) -> None:
    one, two = (open_artifacts(attempt).draft("tokens", ID) for attempt in ("run-1", "run-2"))
    files_of_one = {"a.bin": one.write("a.bin", b"written by one")}
    files_of_two = {"a.bin": two.write("a.bin", b"by two")}
    one.publish(files_of_one, {})
    assert open_artifacts().get("tokens", ID).files == files_of_one
    assert two.publish(files_of_two, {}).files == files_of_one, "the first that publishes makes the artifact"
    assert open_artifacts().get("tokens", ID).files == files_of_one
    assert storage.list(artifact_folder("tokens", ID)) == ["manifest.json", "run-1"]


def test_what_a_run_that_was_cut_off_has_left_goes_when_it_publishes(open_artifacts: Open, storage: Storage) -> None:
    open_artifacts("demo-1.a").draft("tokens", ID).write("a.bin", b"left by a crash")
    open_artifacts("other-2.c").draft("tokens", ID).write("a.bin", b"written by another run, which may be alive")
    published = publish(open_artifacts("demo-1.b"))
    assert open_artifacts().find("tokens", ID) == published
    # In an object store that execution may be alive after all, and put its own manifest over this one.
    left = [] if storage.is_local else ["demo-1.a"]
    assert storage.list(artifact_folder("tokens", ID)) == [*left, "demo-1.b", "manifest.json", "other-2.c"]


def test_an_attempt_that_publishes_again_replaces_its_own_artifact(open_artifacts: Open) -> None:
    publish(open_artifacts())
    again = publish(open_artifacts(), b"with more rounding")
    assert open_artifacts(rebuild=True).find("tokens", ID) == again


def test_of_processes_that_publish_at_once_all_have_a_whole_artifact(uri: str, open_artifacts: Open) -> None:
    code = (
        "import sys\n"
        "from mixray.store import Artifacts, Storage\n"
        "artifacts = Artifacts(Storage(sys.argv[1]), sys.argv[3])\n"
        "draft = artifacts.draft('tokens', sys.argv[2])\n"
        "files = {'a.bin': draft.write('a.bin', sys.argv[3].encode() * 1000)}\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "artifact = draft.publish(files, {})\n"
        "print(artifacts.storage.sha256(artifact.files['a.bin'].path) == artifact.files['a.bin'].sha256)\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    processes = [
        subprocess.Popen([sys.executable, "-c", code, uri, ID, f"run-{name}"], **pipes, text=True)  # type: ignore[call-overload]
        for name in "123"
    ]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 3
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert {process.communicate()[0] for process in processes} == {"True\n"}
    assert open_artifacts().find("tokens", ID) is not None


def test_a_run_tried_again_writes_over_its_own_leavings(open_artifacts: Open, storage: Storage) -> None:
    open_artifacts().draft("tokens", ID).write("a.bin", b"left by a crash")
    publish(open_artifacts())
    assert open_artifacts().find("tokens", ID) is not None
    assert storage.list(f"artifacts/tokens/{ID}/run-1") == ["a.bin", "b.bin"]


def test_a_run_killed_before_it_publishes_leaves_no_artifact(uri: str, open_artifacts: Open) -> None:
    code = (
        "import sys, time\n"
        "from mixray.store import Artifacts, Storage\n"
        "draft = Artifacts(Storage(sys.argv[1]), 'run-1').draft('tokens', sys.argv[2])\n"
        "draft.write('a.bin', b'abc')\n"
        "print('halfway', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, uri, ID], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"halfway\n"
        writer.send_signal(signal.SIGKILL)
    assert open_artifacts().find("tokens", ID) is None
    published = publish(open_artifacts())
    assert open_artifacts().find("tokens", ID) == published


def test_a_pickled_draft_writes_to_the_same_place(open_artifacts: Open) -> None:
    draft = open_artifacts().draft("tokens", ID)
    record = pickle.loads(pickle.dumps(draft)).write("a.bin", b"by a worker")
    draft.publish({"a.bin": record}, {})
    assert open_artifacts().get("tokens", ID).files == {"a.bin": record}


def test_a_folder_is_put_and_fetched_with_its_names(open_artifacts: Open, storage: Storage, copies: Path) -> None:
    tree = {"config.json": b"{}", "weights/layer 1/x.bin": b"\x00\x01", "empty": b""}
    for name, data in tree.items():
        (copies / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (copies / "in" / name).write_bytes(data)
    draft = open_artifacts().draft("model", ID)
    artifact = draft.publish(draft.put_folder(copies / "in"), {})
    assert set(artifact.files) == set(tree)
    out = fetch_folder(storage, open_artifacts().get("model", ID), copies / "out")
    assert {name: (out / name).read_bytes() for name in tree} == tree


@pytest.mark.parametrize("meta", [{"loss": float("nan")}, {"when": object()}])
def test_facts_that_json_cannot_hold_are_not_published(open_artifacts: Open, meta: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        open_artifacts().draft("tokens", ID).publish({}, meta)
    assert open_artifacts().find("tokens", ID) is None


def test_what_is_not_mixrays_among_the_artifacts_is_named_and_hides_none(
    open_artifacts: Open, storage: Storage
) -> None:
    publish(open_artifacts())
    open_artifacts().draft("tokens", fingerprint("unfinished")).write("a.bin", b"abc")
    strays = ["artifacts/.DS_Store", "artifacts/README", "artifacts/tokens/.DS_Store", "artifacts/tokens/notes"]
    for path in strays:
        storage.write(path, b"\0")
    storage.write("artifacts/tokens/a copy/manifest.json", b"{}")
    keys, others = published_artifacts(storage)
    assert keys == [("tokens", ID)]
    assert sorted(others) == sorted([*strays, "artifacts/tokens/a copy"])
    assert [outcome.id for outcome in verify(storage, keys) if isinstance(outcome, Artifact)] == [ID]
