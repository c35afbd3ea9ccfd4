"""Running a plain function over many items on Ray Data: in parallel, streaming, in order."""

from __future__ import annotations

import functools
import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
import ray.data

from mixray.cluster.session import Session
from mixray.config.training import Resources
from mixray.errors import MixrayError
from mixray.store.retrying import retried

Item = TypeVar("Item")
Result = TypeVar("Result")
Row = dict[str, Any]


def run_tasks(
    session: Session,
    function: Callable[[Item], Result],
    items: Sequence[Item],
    label: str,
    *,
    progress: Callable[[str, int, int], None],
) -> Iterator[Result]:
    """``function(item)`` for every item, results in the order of the items, as stateless tasks.

    The function must be pure, and idempotent where it writes: a lost task is simply run again, and so is one whose
    storage did not answer (see ``retried``). An error of the user's (MixrayError) comes back as itself.
    ``progress(label, done, total)`` is called after each.
    """
    results = _results(session, _dataset(session, items).map(functools.partial(_apply, function), num_cpus=1))
    for done, result in enumerate(results, start=1):
        progress(label, done, len(items))
        yield result


def run_on_actors(
    session: Session,
    worker: type,
    arguments: tuple[Any, ...],
    items: Sequence[Any],
    resources: Resources,
    actors: tuple[int, int],
) -> Iterator[Any]:
    """Like ``run_tasks`` with a pool of actors that keep state: ``worker(*arguments)(item)``."""
    dataset = _dataset(session, items)
    pool = ray.data.ActorPoolStrategy(min_size=actors[0], max_size=actors[1], max_tasks_in_flight_per_actor=2)
    yield from _results(
        session,
        dataset.map(
            _ActorTask,
            fn_constructor_args=(worker, arguments),
            compute=pool,
            num_cpus=resources.cpus,
            num_gpus=resources.gpus or None,
        ),
    )


def _dataset(session: Session, items: Sequence[Any]) -> ray.data.Dataset:
    session.connect()
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = [{"item": pickle.dumps(item)} for item in items]
    return ray.data.from_items(rows, override_num_blocks=len(rows))


def _results(session: Session, dataset: ray.data.Dataset) -> Iterator[Any]:
    for row in dataset.iter_rows():
        session.moved()
        result, notes = pickle.loads(row["result"])
        for line in notes:
            session.note(line)
        if isinstance(result, MixrayError):
            raise result
        yield result


def _apply(function: Callable[[Any], Any], row: Row) -> Row:
    notes: list[str] = []
    try:
        result = retried(lambda: function(pickle.loads(row["item"])), notes.append)
    except MixrayError as error:
        result = error
    return {"result": pickle.dumps((result, notes))}


class _ActorTask:
    def __init__(self, worker: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...]) -> None:
        self._make = functools.partial(worker, *arguments)
        self._work: Callable[[Any], Any] | None = None

    def __call__(self, row: Row) -> Row:
        return _apply(self._run, row)

    def _run(self, item: Any) -> Any:
        if self._work is None:  # here and not at the actor's start, so that its errors come back as themselves
            self._work = self._make()
        return self._work(item)
