"""What a disturbed run and an undisturbed one of the same file must have in common, and where they differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from mixray.cache import read_file
from mixray.runs import MixtureRun
from mixray.store import Storage
from mixray.store.artifacts import published_artifacts, read_artifact, verify
from mixray.store.target_parts import PARTS, part_files
from tests.end_to_end.test_outage import contents


def differences(undisturbed: str, disturbed: str, mlflow: tuple[str, str] | None = None) -> list[str]:
    """Return a line for everything that two storages, and what MLflow holds of them, do not have in common.

    ``mlflow``: where their runs are tracked, if at all.
    """
    first, second = Storage(undisturbed), Storage(disturbed)
    return [
        *_unlike("mixture", _mixtures(first), _mixtures(second)),
        *_unlike("artifact", _digests(first), _digests(second)),
        *_damage(second),
        *_repeated_rows(second),
        *_left_over(second),
        *(_unlike("MLflow run", *map(contents, mlflow)) if mlflow else ()),
    ]


def _unlike(kind: str, first: dict[Any, Any], second: dict[Any, Any]) -> Iterator[str]:
    for name in sorted(first.keys() | second.keys()):
        if name not in second:
            yield f"{kind} {name} is missing"
        elif name not in first:
            yield f"{kind} {name} is too much"
        elif first[name] != second[name]:
            keys = [key for key in first[name] if first[name][key] != second[name].get(key)]
            yield f"{kind} {name} differs in {', '.join(map(str, keys))}"


def _mixtures(storage: Storage) -> dict[str, Any]:
    """Return everything that a run found out, without how long it took and where it lies."""
    mixtures = {}
    for run in storage.list("runs"):
        for name in storage.list(f"runs/{run}/mixtures"):
            content = json.loads(storage.read(f"runs/{run}/mixtures/{name}"))
            for arm in content["retrain"].values():
                del arm["seconds"], arm["model"]
            del content["run"]
            mixtures[name] = content
    return mixtures


def _digests(storage: Storage) -> dict[tuple[str, str], dict[str, str]]:
    """Return (kind, id) -> file name -> sha256, of every published artifact."""
    keys, _ = published_artifacts(storage)
    artifacts = [read_artifact(storage, *key) for key in keys]
    return {
        (artifact.kind, artifact.id): {name: record.sha256 for name, record in artifact.files.items()}
        for artifact in artifacts
    }


def _damage(storage: Storage) -> Iterator[str]:
    keys, strays = published_artifacts(storage)
    yield from (f"stray file {path}" for path in strays)
    yield from (str(result) for result in verify(storage, keys) if isinstance(result, Exception))


def _repeated_rows(storage: Storage) -> Iterator[str]:
    for folder in storage.list("runs"):
        run = MixtureRun.open(storage.location(f"runs/{folder}"))
        rows, columns = run.load_cache()
        for target in rows:
            seen = set()
            for name in part_files(rows[target], PARTS[0]):
                table = read_file(storage, name, rows[target], columns[target])
                for key in zip(table["document"].to_pylist(), table["window"].to_pylist(), strict=True):
                    if key in seen:
                        yield f"row {key} of {target} stands twice"
                    seen.add(key)


def _left_over(storage: Storage) -> Iterator[str]:
    for folder in ("checkpoints", "ray-train"):
        sizes = storage.sizes(folder)
        if sizes:
            yield f"{len(sizes)} files of {sum(sizes.values()):,} bytes are left in {folder}: {sorted(sizes)[:3]}"
