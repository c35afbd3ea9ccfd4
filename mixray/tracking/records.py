"""What MLflow should hold of a run, as plain values.

A run of mixray is several MLflow runs: the run itself, under the empty key, and below it one for every trained model,
such as ``proxy/python`` or ``arm/mixmin-sklearn``. A ``TrackedRun`` describes one of them, in whole or in part.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from mixray.store import Status

METRIC_SIGNS = frozenset(string.ascii_letters + string.digits + "_-. ")
"""The characters that MLflow allows in a part of a metric's name; ``/`` separates the parts."""
Context = Literal["training", "evaluation"]


@dataclass(frozen=True)
class Point:
    """One value of one metric.

    ``step``: training tokens for a loss curve, 0 for a result. ``time``: milliseconds since 1970 at which the value
    was measured; None stands for the time of publication.
    """

    metric: str
    value: float
    step: int
    time: int | None = None


@dataclass(frozen=True)
class TrackedDataset:
    """Data that a run reads. ``digest``: sha256 in hex; ``source``: path or URI; ``profile``: its counts."""

    name: str
    digest: str
    source: str
    context: Context
    profile: Mapping[str, int]


@dataclass(frozen=True)
class TrackedRun:
    """What one MLflow run should hold.

    ``files``: path in MLflow -> content, such as ``figures/zoo_weights.png``. ``started``, ``ended``: milliseconds
    since 1970; None stands for the time of publication.
    """

    key: str
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    points: tuple[Point, ...] = ()
    datasets: tuple[TrackedDataset, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    status: Status = "RUNNING"
    started: int | None = None
    ended: int | None = None


def merge(runs: Iterable[TrackedRun]) -> list[TrackedRun]:
    """Return one record per key, in the order of the keys' first appearance. A later value replaces an earlier one."""
    merged: dict[str, TrackedRun] = {}
    for run in runs:
        before = merged.get(run.key)
        merged[run.key] = run if before is None else _joined(before, run)
    return list(merged.values())


def _joined(before: TrackedRun, after: TrackedRun) -> TrackedRun:
    return replace(
        after,
        params={**before.params, **after.params},
        tags={**before.tags, **after.tags},
        points=before.points + after.points,
        datasets=before.datasets + after.datasets,
        files={**before.files, **after.files},
        started=before.started if before.started is not None else after.started,
    )


def numbered_name(number: int, name: str) -> str:
    """Return a group's name as part of a metric's name. The number keeps groups apart whose other characters differ
    only where MLflow allows none of them."""
    return f"{number}_" + "".join(sign if sign in METRIC_SIGNS else "_" for sign in name)


def metric_names(groups: Iterable[str]) -> dict[str, str]:
    """Return each group's part of a metric's name: the group's own name where MLflow allows it."""
    return {
        name: name if METRIC_SIGNS.issuperset(name) else numbered_name(number, name)
        for number, name in enumerate(groups)
    }


def flatten(settings: Mapping[str, object]) -> dict[str, str]:
    """Return nested settings as flat parameters: ``{"proxy": {"tokens": 5}}`` becomes ``{"proxy.tokens": "5"}``.

    Strings stay as they are and other leaves are written as JSON. None and empty values are left out.
    """
    return dict(_leaves(settings, ""))


def _leaves(settings: Mapping[str, object], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        elif value is not None and value not in ([], (), ""):
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)
