"""The targets of a mixture with shard actors: for prediction caches that are larger than one process's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

from mixray.cache import CacheRows
from mixray.cluster.mapping import run_tasks
from mixray.cluster.session import Session
from mixray.cluster.shards import open_shards
from mixray.config.mixture import MixtureConfig
from mixray.simplex import CrossEntropy
from mixray.store import Artifact, Storage


@contextmanager
def on_shards(
    session: Session,
    config: MixtureConfig,
    progress: Callable[[str, int, int], None],
    storage: Storage,
    targets: Mapping[str, tuple[Artifact, Mapping[str, Artifact]]],
) -> Iterator[dict[str, CrossEntropy]]:
    """Yield the fit part of every target (name -> rows and columns) as an objective, for as long as the block lasts.

    ``progress(label, done, total)`` is called for every file that is looked through. Raises InputError where the
    cluster has no room for an actor per target, and what ``CacheRows.open`` and ``open_shards`` raise.
    """
    shards = config.shards
    assert shards is not None, "no shards are asked for"
    # All files are looked through before actors take the processors.
    ranges = {
        target: CacheRows.open(
            storage,
            rows,
            columns,
            unit=config.unit,
            weighting=config.weighting,
            over=partial(run_tasks, session, label=f"rows of {target}", progress=progress),
        )
        for target, (rows, columns) in targets.items()
    }
    actors = session.fits_shards(shards, len(targets)) // len(targets)
    with ExitStack() as stack:
        yield {
            target: stack.enter_context(
                open_shards(
                    session,
                    rows,
                    shards=shards.actors or actors,
                    resources=shards.resources,
                    memory=shards.memory,
                    reserve_memory=True,
                    scratch=shards.scratch,
                )
            )
            for target, rows in ranges.items()
        }
