"""Records: what a tracker is told, one immutable value each, and their form as lines of JSON.

A record carries its own time, so that one delivered a day late still says when it happened.
"""

from __future__ import annotations

import base64
import json
import string
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

METRIC_SIGNS = frozenset(string.ascii_letters + string.digits + "_-. ")
"""Of those that MLflow allows in a metric's name; ``/`` makes sections."""
Status = Literal["FINISHED", "FAILED", "KILLED"]
Context = Literal["training", "evaluation"]


def numbered_name(number: int, name: str) -> str:
    """Of a group, as part of a metric's name; the number keeps apart what MLflow's signs do not."""
    return f"{number}_" + "".join(sign if sign in METRIC_SIGNS else "_" for sign in name)


def metric_names(groups: Iterable[str]) -> dict[str, str]:
    """Group -> its part of a metric's name: itself, where MLflow allows it."""
    return {
        name: name if METRIC_SIGNS.issuperset(name) else numbered_name(number, name)
        for number, name in enumerate(groups)
    }


def now() -> int:
    """Milliseconds since 1970, MLflow's clock."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Point:
    """One value of one metric. ``step`` is training tokens for a loss curve, a round for a solver; ``time`` in ms."""

    metric: str
    value: float
    step: int
    time: int


@dataclass(frozen=True)
class Start:
    """A run begins, or is given more parameters and tags."""

    key: str
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    time: int = field(default_factory=now)


@dataclass(frozen=True)
class Metrics:
    key: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Artifact:
    """A small file, such as a figure. ``filename`` may contain ``/``."""

    key: str
    filename: str
    data: bytes


@dataclass(frozen=True)
class Dataset:
    """Data that a run read. ``digest``: its sha256 in hex; ``profile``: its counts."""

    key: str
    name: str
    digest: str
    source: str
    context: Context
    profile: Mapping[str, int]


@dataclass(frozen=True)
class Finish:
    key: str
    status: Status = "FINISHED"
    time: int = field(default_factory=now)


Record = Start | Metrics | Artifact | Dataset | Finish
_KINDS: dict[str, type[Any]] = {kind.__name__.lower(): kind for kind in (Start, Metrics, Artifact, Dataset, Finish)}


def dump(records: Iterable[Record]) -> bytes:
    """One JSON object a line, in order; bytes as base64. NaN and infinities are kept as Python's JSON writes them."""
    lines = []
    for record in records:
        fields = asdict(record)
        if isinstance(record, Artifact):
            fields["data"] = base64.b64encode(record.data).decode()
        lines.append(json.dumps({"kind": type(record).__name__.lower(), **fields}))
    return "".join(f"{line}\n" for line in lines).encode()


def load(data: bytes) -> list[Record]:
    """The inverse of ``dump``. Raises ValueError, KeyError or TypeError where a line is not a record."""
    return [_parse(json.loads(line)) for line in data.splitlines()]


def _parse(fields: dict[str, Any]) -> Record:
    kind = _KINDS[fields.pop("kind")]
    if kind is Artifact:
        fields["data"] = base64.b64decode(fields["data"])
    if kind is Metrics:
        fields["points"] = tuple(Point(**point) for point in fields["points"])
    record: Record = kind(**fields)
    return record


def flatten(settings: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings as flat parameters: ``{"proxy": {"tokens": 5}}`` becomes ``{"proxy.tokens": "5"}``.

    Strings stay as they are, other leaves are written as JSON; what is absent (None, empty) is left out.
    """
    return dict(_leaves(settings, ""))


def _leaves(settings: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        elif value is not None and value not in ([], (), ""):
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)
