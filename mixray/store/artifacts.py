"""Artifacts: immutable, content-addressed results of a stage.

``artifacts/<kind>/<id>/manifest.json`` lists the files with sizes and sha256 and is written last, so an artifact either
exists whole or not at all. The files lie beside it in a folder of the attempt that wrote them. An attempt is one
execution of a run, so executions never write each other's files; a task that an execution repeats writes its own again,
with the same bytes. The first attempt to publish makes the artifact, and the others take what it made. (In an object
store two that publish within the same moment may both write the manifest; the later one stays, and both are whole.)

Identity is content: an artifact's id is the ``fingerprint`` of all that it depends on.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mixray.errors import CorruptedArtifactError
from mixray.store.storage import REBUILD, FileRecord, Storage

SCHEMA = "mixray.artifact/1"
SOFTWARE = ("mixray", "torch", "transformers", "tokenizers", "numpy", "pyarrow", "xgboost")
FINDS_AT_ONCE = 16
_NAME = re.compile(r"[A-Za-z0-9_-]+")


def fingerprint(value: Any) -> str:
    """64 hex digits for a value made of dicts with str keys, lists, str, int, float, bool and None.

    Raises TypeError or ValueError for anything without a stable form (sets, objects, NaN).
    """
    return hashlib.sha256(_stable_text(value)).hexdigest()


def fingerprint_each(values: Iterable[Any]) -> str:
    """Return the fingerprint of the list of these values, of which only one at a time is in memory."""
    hashed = hashlib.sha256(b"[")
    for number, value in enumerate(values):
        hashed.update((b"," if number else b"") + _stable_text(value))
    hashed.update(b"]")
    return hashed.hexdigest()


def _stable_text(value: Any) -> bytes:
    _refuse_other_keys(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True).encode()


def _refuse_other_keys(value: Any) -> None:
    """JSON writes the keys 1 and "1" alike; here they would be one identity."""
    if isinstance(value, dict):
        for key, child in value.items():
            if not isinstance(key, str):
                raise TypeError(f"a fingerprint is of dicts with str keys, not {key!r}")
            _refuse_other_keys(child)
    elif isinstance(value, list | tuple):
        for child in value:
            _refuse_other_keys(child)


@dataclass(frozen=True)
class Artifact:
    """A published artifact. ``files``: name -> record; ``meta``: small facts about it (counts, shapes, dtypes)."""

    kind: str
    id: str
    files: Mapping[str, FileRecord]
    meta: Mapping[str, Any]


@dataclass(frozen=True)
class Draft:
    """An artifact being written: where its files go. Picklable, so that workers can write them."""

    storage: Storage
    kind: str
    id: str
    attempt: str

    def path(self, name: str) -> str:
        return f"{self._folder(self.attempt)}/{name}"

    def write(self, name: str, data: bytes) -> FileRecord:
        return self.storage.write(self.path(name), data)

    def put_folder(self, folder: Path) -> dict[str, FileRecord]:
        """Copy every file of a local folder in; names are paths relative to it."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in files]
        return {name: self.storage.put(self.path(name), path) for name, path in zip(names, files, strict=True)}

    def publish(self, files: Mapping[str, FileRecord], meta: Mapping[str, Any]) -> Artifact:
        """Write the manifest: from here on the artifact exists.

        Where another attempt has published it already, that artifact is returned and the files of this one are deleted.
        The same attempt may publish again: a worker that died at the end is replaced by one that does its work anew.
        """
        manifest = {
            "schema": SCHEMA,
            "kind": self.kind,
            "id": self.id,
            "meta": meta,
            "software": _software(),
            "files": {name: asdict(record) for name, record in sorted(files.items())},
        }
        text = json.dumps(manifest, indent=1, allow_nan=False)
        if not self.storage.create(_manifest(self.kind, self.id), text.encode()):
            published = read_artifact(self.storage, self.kind, self.id)
            if not any(record.path.startswith(f"{self._folder(self.attempt)}/") for record in published.files.values()):
                self.storage.delete_folder(self._folder(self.attempt))
                return published
            self.storage.write(_manifest(self.kind, self.id), text.encode())
        # In an object store an execution that was taken for dead may yet put its manifest over this one.
        for attempt in self.storage.list(artifact_folder(self.kind, self.id)) if self.storage.is_local else []:
            if attempt != self.attempt and _run_of(attempt) == _run_of(self.attempt):
                self.storage.delete_folder(self._folder(attempt))  # an execution of the same run that was cut off
        return Artifact(self.kind, self.id, dict(files), json.loads(json.dumps(meta)))

    def _folder(self, attempt: str) -> str:
        return f"{artifact_folder(self.kind, self.id)}/{attempt}"


def new_attempt(run_name: str) -> str:
    """Return a name for one execution of a run, unlike that of every other."""
    return f"{run_name}.{uuid.uuid4().hex[:8]}"


def _run_of(attempt: str) -> str:
    return attempt.partition(".")[0]


class Artifacts:
    """The artifacts of a storage root, as one run sees and writes them.

    ``rebuild``: every file is read to check it, and a corrupted artifact counts as absent (and so is made again)
    instead of being an error.
    """

    def __init__(self, storage: Storage, attempt: str, *, rebuild: bool = False) -> None:
        self.storage, self.attempt, self.rebuild = storage, attempt, rebuild

    def draft(self, kind: str, id: str) -> Draft:
        return Draft(self.storage, kind, id, self.attempt)

    def find(self, kind: str, id: str) -> Artifact | None:
        """The artifact, every file's size checked; None where it was never published.

        Its bytes are checked by whoever reads them first (``Storage.fetch``, ``Storage.read_record``). Raises
        CorruptedArtifactError where a file is missing or has another size, unless ``rebuild``.
        """
        if not self.storage.exists(_manifest(kind, id)):
            return None
        try:
            artifact = read_artifact(self.storage, kind, id)
            check_artifact(self.storage, artifact, digests=self.rebuild)
        except CorruptedArtifactError:
            if not self.rebuild:
                raise
            self.storage.delete(_manifest(kind, id))
            return None
        return artifact

    def find_all(self, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Artifact]:
        """Return those of many artifacts (kind, id) that exist, as ``find`` does, several at a time."""
        keys = list(dict.fromkeys(keys))
        with ThreadPoolExecutor(FINDS_AT_ONCE) as threads:
            artifacts = threads.map(lambda key: self.find(*key), keys)
            return {key: artifact for key, artifact in zip(keys, artifacts, strict=True) if artifact is not None}

    def get_all(self, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Artifact]:
        """Like ``find_all`` for artifacts that must exist."""
        keys = list(dict.fromkeys(keys))
        artifacts = self.find_all(keys)
        for kind, id in keys:
            if (kind, id) not in artifacts:
                raise _corrupted(self.storage, kind, id, "it is missing", "a published artifact")
        return artifacts

    def get(self, kind: str, id: str) -> Artifact:
        """Like ``find`` for an artifact that must exist."""
        return self.get_all([(kind, id)])[kind, id]


def check_artifact(storage: Storage, artifact: Artifact, *, digests: bool) -> None:
    """Raise CorruptedArtifactError where a file is missing or has another size or, with ``digests``, other bytes."""
    sizes = storage.sizes(artifact_folder(artifact.kind, artifact.id))
    for name, record in artifact.files.items():
        size = sizes.get(record.path)
        if size is None:  # a store whose listing lags behind
            size = storage.size(record.path)
        if size != record.bytes:
            got = f"{name}: {'missing' if size is None else f'{size} bytes'}"
            raise _corrupted(storage, artifact.kind, artifact.id, got, f"{record.bytes} bytes")
        if digests and (digest := storage.sha256(record.path)) != record.sha256:
            raise _corrupted(storage, artifact.kind, artifact.id, f"{name}: sha256 {digest}", record.sha256)


def published_artifacts(storage: Storage) -> tuple[list[tuple[str, str]], list[str]]:
    """Return kind and id of every artifact that a storage holds, and the paths of what mixray did not put among them.

    A folder without a manifest is neither: an artifact that was never finished.
    """
    kinds, strays = _named_folders(storage, "artifacts")
    keys: list[tuple[str, str]] = []
    for kind in kinds:
        ids, others = _named_folders(storage, f"artifacts/{kind}")
        keys += [(kind, id) for id in ids if storage.exists(_manifest(kind, id))]
        strays += others
    return keys, strays


def _named_folders(storage: Storage, folder: str) -> tuple[list[str], list[str]]:
    """Return the names of the folders in one that may be of artifacts or their kinds, and the paths of all else."""
    entries = storage.entries(folder)
    names = [name for name, is_folder in entries.items() if is_folder and _NAME.fullmatch(name)]
    return names, [f"{folder}/{name}" for name in entries if name not in names]


def verify(storage: Storage, keys: Iterable[tuple[str, str]]) -> Iterator[Artifact | CorruptedArtifactError]:
    """Read every byte of these artifacts (kind, id), and yield each of them, or what is wrong with it."""

    def checked(key: tuple[str, str]) -> Artifact | CorruptedArtifactError:
        try:
            artifact = read_artifact(storage, *key)
            check_artifact(storage, artifact, digests=True)
        except CorruptedArtifactError as error:
            return error
        return artifact

    with ThreadPoolExecutor(FINDS_AT_ONCE) as threads:
        yield from threads.map(checked, keys)


def read_artifact(storage: Storage, kind: str, id: str) -> Artifact:
    """Return a published artifact from its manifest alone: its files are not checked.

    Raises CorruptedArtifactError where there is no manifest or it is not valid.
    """
    path = _manifest(kind, id)
    if not storage.exists(path):
        raise _corrupted(storage, kind, id, "it is missing", "a published artifact")
    return _parse(kind, id, storage.read(path), storage)


def fetch_folder(storage: Storage, artifact: Artifact, folder: Path) -> Path:
    """A local folder that holds the artifact's files under their names, as links."""
    for name, record in artifact.files.items():
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        path = storage.fetch(record)
        try:
            link.hardlink_to(path)  # it stays when a copy on this machine is deleted to make room
        except OSError:  # another disk, or a file of another user
            link.symlink_to(path)
    return folder


def artifact_folder(kind: str, id: str) -> str:
    """Return the folder of an artifact.

    Raises CorruptedArtifactError for names that could lead elsewhere: kinds and ids are read from stored files, too.
    """
    if not (_NAME.fullmatch(kind) and _NAME.fullmatch(id)):
        raise CorruptedArtifactError(
            "this is not a valid name of an artifact", got=f"{kind}/{id}", wanted=_NAME.pattern
        )
    return f"artifacts/{kind}/{id}"


@cache
def _software() -> dict[str, str]:
    """Return the versions of the packages that may decide an artifact's bytes, as far as they are installed."""
    versions = {}
    for package in SOFTWARE:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _manifest(kind: str, id: str) -> str:
    return f"{artifact_folder(kind, id)}/manifest.json"


def _parse(kind: str, id: str, text: bytes, storage: Storage) -> Artifact:
    try:
        manifest = json.loads(text)
        if manifest["schema"] != SCHEMA or manifest["kind"] != kind or manifest["id"] != id:
            raise ValueError("it describes another artifact")
        files = {name: FileRecord(**record) for name, record in manifest["files"].items()}
        for name, record in files.items():
            _refuse_outside(storage, artifact_folder(kind, id), name, record)
        return Artifact(kind, id, files, dict(manifest["meta"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _corrupted(storage, kind, id, f"manifest.json: {error!r}", SCHEMA) from error


def _refuse_outside(storage: Storage, folder: str, name: str, record: FileRecord) -> None:
    """Raise ValueError unless a file's name stays below any folder, and its path, with links followed, in its own."""
    if name.startswith("/") or not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise ValueError(f"the file name {name!r} leads out of a folder")
    is_inside = record.path.startswith(f"{folder}/") and {"", ".", ".."}.isdisjoint(record.path.split("/"))
    if is_inside and storage.is_local:
        real_folder, real_path = (os.path.realpath(storage.full(path)) for path in (folder, record.path))
        is_inside = real_path.startswith(f"{real_folder}/")
    if not is_inside:
        raise ValueError(f"the path {record.path!r} leads out of the artifact's folder")


def _corrupted(storage: Storage, kind: str, id: str, got: str, wanted: str) -> CorruptedArtifactError:
    return CorruptedArtifactError(
        f"the stored {kind} {id[:12]} is corrupted",
        where=storage.location(artifact_folder(kind, id)),
        got=got,
        wanted=wanted,
        remedy=REBUILD,
    )
