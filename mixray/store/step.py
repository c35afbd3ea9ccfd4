"""A step of the pipeline as one class: it makes one artifact, and only if the store does not hold it already."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, ClassVar, Generic, TypeVar

from mixray.store.artifacts import Artifact, Artifacts, Draft
from mixray.store.retrying import retried

Task = TypeVar("Task")
Result = TypeVar("Result")

RunTasks = Callable[[Callable[[Any], Any], Sequence[Any], str], Iterable[Any]]
"""``run_tasks(function, items, label)`` maps a picklable function over picklable items, on any machine, and yields the
results in the order of the items."""


class Step(ABC, Generic[Task, Result]):
    """How one artifact is made. Every part of it can be repeated safely.

    ``kind`` and ``id`` identify the artifact; ``id`` is a hash of everything that the artifact depends on. ``tasks``
    lists independent pieces of work, ``run`` does one piece in any process, and ``publish`` joins their results.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def id(self) -> str: ...

    @abstractmethod
    def tasks(self, draft: Draft) -> Sequence[Task]:
        """Return the tasks, which must be picklable. They may write files of the draft."""

    @staticmethod
    @abstractmethod
    def run(task: Task) -> Result:
        """Do one task. This runs in a worker process, so it depends on the task alone."""

    @abstractmethod
    def publish(self, draft: Draft, results: Sequence[Result]) -> Artifact:
        """Publish the artifact from the results, which are in the order of the tasks."""

    def check(self, artifact: Artifact) -> None:
        """Raise InputError if the artifact, new or stored, is of no use to this run."""


def find_or_make(
    steps: Mapping[str, Step[Any, Any]], artifacts: Artifacts, run_tasks: RunTasks, label: str
) -> dict[str, Artifact]:
    """Return the artifact of every step under the step's name.

    All tasks of all missing artifacts go through one call of ``run_tasks``; there is no call if nothing is missing.
    An artifact is published as soon as its own tasks have ended. Steps with equal ids share one artifact.
    """
    keys = {name: (step.kind, step.id) for name, step in steps.items()}
    unique = {keys[name]: step for name, step in steps.items()}
    published = retried(lambda: artifacts.find_all(unique), note=lambda _: None)
    drafts = {key: artifacts.draft(*key) for key in unique if key not in published}
    tasks = {key: unique[key].tasks(draft) for key, draft in drafts.items()}
    calls = [(unique[key].run, task) for key, step_tasks in tasks.items() for task in step_tasks]
    results = iter(run_tasks(_call, calls, label) if calls else ())
    for key, draft in drafts.items():
        step_results = list(islice(results, len(tasks[key])))
        assert len(step_results) == len(tasks[key]), "run_tasks gave fewer results than items"
        published[key] = retried(partial(unique[key].publish, draft, step_results), note=lambda _: None)
    for name, step in steps.items():
        step.check(published[keys[name]])
    return {name: published[key] for name, key in keys.items()}


def _call(item: tuple[Callable[[Any], Any], Any]) -> Any:
    function, task = item
    return function(task)
