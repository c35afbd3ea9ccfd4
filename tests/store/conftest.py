"""Two places to store in: a local folder, and S3 as moto serves it on the loopback."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from mixray.store import Artifacts, Storage

PREFIXES = count()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server that has the bucket ``bucket``."""
    import boto3
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="bucket")
        yield f"{host}:{port}"
        server.stop()


@pytest.fixture
def s3_uri(s3_server: str) -> str:
    """An empty place on the S3 server."""
    return f"s3://bucket/prefix-{next(PREFIXES)}?endpoint_override=http://{s3_server}&scheme=http&region=us-east-1"


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
