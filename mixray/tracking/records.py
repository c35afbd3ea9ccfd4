"""What MLflow should hold of a run, as plain values that do not depend on MLflow.

One run of mixray becomes several MLflow runs: a parent with the empty key, and a child for every trained model, with a
key such as ``proxy/python`` or ``arm/mixmin-sklearn``. A ``TrackedRun`` describes one of them, in whole or in part.
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

    ``step``: for a curve the training tokens so far (training steps in a comparison of robust methods), 0 for a result.
    ``time``: when the value was measured, in milliseconds since 1970; None stands for the time of publication.
    """

    metric: str
    value: float
    step: int
    time: int | None = None


@dataclass(frozen=True)
class TrackedDataset:
    """Data that a run reads. ``digest``: sha256 in hex; ``source``: path or URI; ``profile``: numbers that describe it,
    such as its tokens."""

    name: str
    digest: str
    source: str
    context: Context
    profile: Mapping[str, int]


@dataclass(frozen=True)
class TrackedModel:
    """A stored model, which MLflow lists among its logged models. ``location``: path or URI of its folder."""

    name: str
    location: str


@dataclass(frozen=True)
class TrackedRun:
    """What one MLflow run should hold.

    ``key``: which run it is, empty for the parent. ``data``: identifies the run folder and the data that it reads;
    other data makes other MLflow runs, so that no curve goes on with them. ``files``: path in MLflow, such as
    ``figures/pandas_weights.png`` -> content. ``tables``: those of the files that MLflow shows as tables. ``model``:
    the model that the run trained. ``started``, ``ended``: milliseconds since 1970; None stands for the time of
    publication.
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
    data: str = ""
    tables: tuple[str, ...] = ()
    model: TrackedModel | None = None


def merge(runs: Iterable[TrackedRun]) -> list[TrackedRun]:
    """Return one record per key and data, in the order in which these first appear.

    Points and datasets of all records are kept; of other values the last one, except for the start, which is the first.
    """
    merged: dict[tuple[str, str], TrackedRun] = {}
    for run in runs:
        before = merged.get((run.key, run.data))
        merged[run.key, run.data] = run if before is None else _joined(before, run)
    return list(merged.values())


def _joined(before: TrackedRun, after: TrackedRun) -> TrackedRun:
    return replace(
        after,
        params={**before.params, **after.params},
        tags={**before.tags, **after.tags},
        points=before.points + after.points,
        datasets=before.datasets + after.datasets,
        files={**before.files, **after.files},
        tables=tuple(dict.fromkeys(before.tables + after.tables)),
        model=after.model or before.model,
        started=before.started if before.started is not None else after.started,
    )


def numbered_name(number: int, name: str) -> str:
    """Return a name that MLflow allows for a group: its number, then its name with an underscore for every character
    that MLflow does not allow. The number keeps apart groups whose names differ only in such characters."""
    return f"{number}_" + "".join(sign if sign in METRIC_SIGNS else "_" for sign in name)


def metric_names(groups: Iterable[str]) -> dict[str, str]:
    """Return, for every group, its part of a metric's name: the group's name if MLflow allows it, else
    ``numbered_name``."""
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
