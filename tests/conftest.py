"""What every test runs in: a home of its own, no network, no telemetry; and one shared local Ray for those that ask."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from mixray.cluster import Session

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

settings.register_profile("mixray", derandomize=True, deadline=None)
settings.load_profile("mixray")


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[Session]:
    """A local Ray with more logical CPUs than the machine may have cores: placement is tested, not speed."""
    from mixray.cluster import Session

    with Session(cpus=4) as session:
        session.connect()
        yield session
