"""One step of the data stage: the artifacts it wants, and the tasks of those that the store does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from mixray.store import Artifact, Artifacts, Draft

RunTasks = Callable[[Callable[[Any], Any], Sequence[Any], str], Iterable[Any]]
"""``run_tasks(function, items, label)``: maps a picklable function over picklable items, anywhere; results in order."""


@dataclass(frozen=True)
class Wanted:
    """An artifact: ``tasks(draft)`` is called only if it is missing, ``publish(draft, tasks, results)`` makes it."""

    kind: str
    id: str
    function: Callable[[Any], Any]
    tasks: Callable[[Draft], Sequence[Any]]
    publish: Callable[[Draft, Sequence[Any], Sequence[Any]], Artifact]


def make_all(wanted: Sequence[Wanted], artifacts: Artifacts, run_tasks: RunTasks, label: str) -> list[Artifact]:
    """Find or make the artifacts, all missing ones by one call of ``run_tasks``; each is published once its tasks end.

    Pools that want the same artifact share it.
    """
    asked = {(item.kind, item.id): item for item in wanted}
    found = {key: artifacts.find(*key) for key in asked}
    made = {key: artifact for key, artifact in found.items() if artifact is not None}
    missing = [item for key, item in asked.items() if key not in made]
    drafts = [artifacts.draft(item.kind, item.id) for item in missing]
    tasks = [item.tasks(draft) for item, draft in zip(missing, drafts, strict=True)]
    items = [(item.function, task) for item, own in zip(missing, tasks, strict=True) for task in own]
    results = iter(run_tasks(call, items, label) if items else ())
    for item, draft, own in zip(missing, drafts, tasks, strict=True):
        own_results = list(islice(results, len(own)))
        assert len(own_results) == len(own), "run_tasks gave fewer results than items"
        made[item.kind, item.id] = item.publish(draft, own, own_results)
    return [made[item.kind, item.id] for item in wanted]


def call(item: tuple[Callable[[Any], Any], Any]) -> Any:
    """What ``run_tasks`` maps over (function, task) pairs."""
    function, task = item
    return function(task)
