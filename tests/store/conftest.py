"""Two places to store in: a local folder, and the S3 server."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mixray.store import Artifacts, Storage


@pytest.fixture(params=["local", "s3"])
def uri(request: pytest.FixtureRequest) -> str:
    if request.param == "local":
        return str(request.getfixturevalue("tmp_path") / "store")
    return str(request.getfixturevalue("s3_uri"))


@pytest.fixture
def storage(uri: str) -> Storage:
    """An empty storage, in turn on each place."""
    return Storage(uri)


@pytest.fixture
def open_artifacts(storage: Storage) -> Callable[..., Artifacts]:
    return lambda attempt="run-1", **options: Artifacts(storage, attempt, **options)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder for the copies that ``fetch`` keeps."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path
