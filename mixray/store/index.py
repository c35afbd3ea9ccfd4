"""The index of a run: which artifacts it consists of, and how its last execution ended.

It is ``index.json`` in the run folder, written anew after every stage, so that any later command finds the run's
results without knowing how their ids are computed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal, Self

from mixray.errors import CorruptedArtifactError
from mixray.store.artifacts import Artifact, read_artifact
from mixray.store.storage import Storage

INDEX_FILE, INDEX_SCHEMA = "index.json", "mixray.index/1"
Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
"""RUNNING is also what a process that was killed outright leaves behind."""


class RunIndex:
    """The index of the run in ``run_folder``, which is relative to the storage root.

    ``artifact_ids``: key -> kind and id, such as ``source/python``, ``target/zoo``, ``proxy/python`` or
    ``arm/mixmin-zoo``. ``counts``: key of a source or target -> what became of its documents. ``started``, ``ended``:
    milliseconds since 1970. ``is_published``: whether MLflow holds everything. ``home``, ``place``: where the run
    folder was when it was first and when it was last published; a storage may be copied or moved.
    """

    def __init__(self, storage: Storage, run_folder: str) -> None:
        self._storage, self._path = storage, f"{run_folder}/{INDEX_FILE}"
        self._artifacts: dict[str, Artifact] = {}
        self.artifact_ids: dict[str, tuple[str, str]] = {}
        self.counts: dict[str, dict[str, int]] = {}
        self.status: Status = "RUNNING"
        self.started: int = now_ms()
        self.ended: int | None = None
        self.is_published = False
        self.home: str | None = None
        self.place: str | None = None

    @classmethod
    def open(cls, storage: Storage, run_folder: str) -> Self:
        """Return the stored index, or a new one where there is none or it cannot be read."""
        index = cls(storage, run_folder)
        if not storage.exists(index._path):
            return index
        try:
            content = json.loads(storage.read(index._path))
            if content["schema"] == INDEX_SCHEMA:
                index._load(content)
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls(storage, run_folder)  # the next run of the same file writes it anew
        return index

    def add(self, artifacts: Mapping[str, Artifact]) -> None:
        """Remember a stage's artifacts by key, and write the index."""
        self._artifacts.update(artifacts)
        self.artifact_ids.update({key: (artifact.kind, artifact.id) for key, artifact in artifacts.items()})
        self.save()

    def add_pools(
        self,
        sources: Mapping[str, Artifact],
        targets: Mapping[str, Artifact],
        counts: Mapping[str, Mapping[str, int]],
    ) -> None:
        """Remember the prepared data. ``counts``: "source NAME" or "target NAME" -> the pool's counts."""
        self.counts = {key.replace(" ", "/", 1): dict(values) for key, values in counts.items()}
        pools = {f"source/{name}": artifact for name, artifact in sources.items()}
        self.add(pools | {f"target/{name}": artifact for name, artifact in targets.items()})

    def artifacts(self, *prefixes: str) -> dict[str, Artifact]:
        """Return the artifacts under these prefixes, such as ``proxy``, by key. Their files are not checked.

        One whose manifest is missing or corrupted is left out.
        """
        artifacts = {}
        for key in self.artifact_ids:
            if key.partition("/")[0] in prefixes:
                with suppress(CorruptedArtifactError):
                    artifacts[key] = self._artifact(key)
        return artifacts

    def begin(self) -> None:
        """Record that an execution of the run begins."""
        self.status, self.ended, self.is_published = "RUNNING", None, False
        self.save()

    def end(self, status: Status, *, is_published: bool) -> None:
        """Record how the execution ended."""
        self.status, self.ended, self.is_published = status, self.ended or now_ms(), is_published
        self.save()

    def save(self) -> None:
        """Write the index."""
        fields = ("artifact_ids", "counts", "status", "started", "ended", "is_published", "home", "place")
        content = {"schema": INDEX_SCHEMA, **{name: getattr(self, name) for name in fields}}
        self._storage.write(self._path, json.dumps(content, indent=1).encode())

    def _load(self, content: Mapping[str, Any]) -> None:
        self.artifact_ids = {key: (kind, id) for key, (kind, id) in content["artifact_ids"].items()}
        self.counts, self.status = content["counts"], content["status"]
        self.started, self.ended, self.is_published = content["started"], content["ended"], content["is_published"]
        self.home, self.place = content.get("home"), content.get("place")  # earlier versions did not write them

    def _artifact(self, key: str) -> Artifact:
        if key not in self._artifacts:
            self._artifacts[key] = read_artifact(self._storage, *self.artifact_ids[key])
        return self._artifacts[key]


def now_ms() -> int:
    """Return milliseconds since 1970."""
    return time.time_ns() // 1_000_000
