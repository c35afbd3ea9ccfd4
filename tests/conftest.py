"""What every test runs in: a home of its own, no network, no telemetry. For those that ask: local Ray, an S3 server."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from mixray.cluster import Session
    from tests.store.faulty_s3 import FaultyS3

# Set before anything imports ray, mlflow or transformers: they read the environment once.
HOME = tempfile.mkdtemp(prefix="mixray-home-")
os.environ.update(
    HOME=HOME,
    HF_HOME=f"{HOME}/huggingface",
    HF_HUB_OFFLINE="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    TOKENIZERS_PARALLELISM="false",
)
for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "AWS_PROFILE"):
    os.environ.pop(name, None)

S3_PREFIXES = count()

settings.register_profile("mixray", derandomize=True, deadline=None)
settings.load_profile("mixray")


ON_ONE_CLUSTER = (
    "tests/cluster/",
    "tests/end_to_end/test_run.py",
    "tests/end_to_end/test_command_line.py",
    "tests/end_to_end/test_kill.py",
    "tests/end_to_end/test_outage.py",
)
"""They share a cluster, or a finished run."""
WITH_RAY = ("tests/cluster/", "tests/end_to_end/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First what takes longest."""
    items.sort(key=lambda item: not item.nodeid.startswith(WITH_RAY))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of two workers (pytest -n 2) each does one half of what needs Ray, and then the rest, file by file."""
    from xdist.scheduler import LoadScopeScheduling

    class HalvesWithRay(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith(WITH_RAY):
                return "one cluster" if nodeid.startswith(ON_ONE_CLUSTER) else "other clusters"
            return nodeid.partition("::")[0]

    return HalvesWithRay(config, log)


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[Session]:
    """A local Ray with more logical CPUs than the machine may have cores: placement is tested, not speed."""
    from mixray.cluster import Session

    with Session(cpus=4) as session:
        session.connect()
        yield session


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server on the loopback that has the bucket ``bucket``."""
    from tests.store.faulty_s3 import S3_ENVIRONMENT, s3_server

    with pytest.MonkeyPatch.context() as patch:
        for name, value in S3_ENVIRONMENT.items():
            patch.setenv(name, value)
        with s3_server() as address:
            yield address


@pytest.fixture
def s3_uri(s3_server: str) -> str:
    """An empty place on the S3 server."""
    return f"s3://bucket/prefix-{next(S3_PREFIXES)}?endpoint_override=http://{s3_server}&scheme=http&region=us-east-1"


@pytest.fixture
def faulty_s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """A proxy before the S3 server that answers badly as told. What failed is tried again after 10 ms, not a second."""
    from mixray.store import retrying
    from tests.store.faulty_s3 import FaultyS3

    monkeypatch.setattr(retrying, "WAIT_SECONDS", 0.01)
    server = FaultyS3(s3_server)
    yield server
    server.close()
