"""What every run file and its sections are built from: the base classes, and the types of names and numbers."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from mixray.errors import PUBLIC_OPTIONS, holds_secret

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Positive = Annotated[int, Field(gt=0)]
Globs = Annotated[list[str], Field(min_length=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
SHARE_ROUNDING = 1e-12
"""How far from 1 a sum of shares may be."""
PRIOR_ROUNDING = 1e-6
"""The same for shares that a person has written down."""
KEY_COLUMNS = ("document", "window", "count")
"""Of the prediction cache, whose other columns are named as the sources."""


class Misfit(ValueError):
    """A value that does not fit others. ``key``: where it stands, dotted, from the section that raises this."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class Section(BaseModel):
    """A part of the run file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class TrackingConfig(Section):
    """Where MLflow keeps what a run publishes."""

    uri: str | None = None
    """Address of the MLflow tracking server or database. null: an SQLite database in the storage folder."""
    experiment: str | None = None
    """Name of the MLflow experiment. null: the run's name."""
    system_metrics: bool = False
    """Whether MLflow shows what the machine that drives the run is busy with: processors, memory, disk, network, GPUs,
    every 10 seconds from the end of the stage `data` on. Needs the extra `mixray[system]`. Other machines of a cluster
    are seen in Ray's dashboard."""


class RunFile(Section):
    """What both kinds of run file have in common: one that searches for a mixture, one that compares robust arms."""

    name: Name
    """Name of the run: letters, digits, - and _. The run folder's name begins with it."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of every random draw: splits, order of training data, first weights, resampling."""
    storage: str = "./mixray-runs"
    """Where results and intermediate artifacts are stored: a folder, or a URI such as s3://bucket/prefix."""
    tracking: TrackingConfig = TrackingConfig()
    """Where MLflow keeps a copy of the results."""

    @model_validator(mode="after")
    def _no_secrets(self) -> Self:
        """Refuse URIs with secrets: the run file is copied into the run folder and to MLflow."""
        for key, text in _texts(self.model_dump(mode="json")):
            if holds_secret(text):
                raise Misfit(key, _secret_place(text))
        return self


def _texts(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in nested settings with its dotted key."""
    if isinstance(value, str):
        yield key, value
        return
    children = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield from _texts(child, f"{key}.{name}" if key else str(name))


def _secret_place(uri: str) -> str:
    """Say where the secret of a URI belongs instead, and what options a URI may have."""
    if uri.startswith("s3://"):
        place = "a URI without keys; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY where mixray and its workers run"
    elif uri.startswith(("http://", "https://")):
        place = "an address without a password; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    else:
        place = "a URI without a password; put it where the server's own client looks, such as PGPASSWORD or ~/.pgpass"
    return f"{place} (options that are no secrets: {', '.join(sorted(PUBLIC_OPTIONS))})" if "?" in uri else place


def shares_fault(shares: Mapping[str, float], sources: Collection[str]) -> str | None:
    """Return what shares that a person has written lack, None where they are a mixture of the sources."""
    missing = [source for source in sources if source not in shares]
    unknown = [source for source in shares if source not in sources]
    if missing or unknown:
        parts = [
            f"{', '.join(names)} {fault}" for names, fault in ((missing, "missing"), (unknown, "unknown")) if names
        ]
        return f"a share for every source: {', '.join(sources)}; {' and '.join(parts)}"
    total = math.fsum(shares.values())
    return None if abs(total - 1) <= PRIOR_ROUNDING else f"shares that sum to 1; they sum to {total:.6g}"
