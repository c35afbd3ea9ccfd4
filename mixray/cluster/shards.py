"""A cross entropy whose rows lie with actors: more of them than one machine holds.

    with open_shards(session, NpyRows.open("s3://bucket/log_probs.npy"), shards=8) as objective:
        solution = solve_problem(Problem((objective,), FeasibleSet.of(objective.sources)))

Each actor reads a range of the rows from storage. A question goes to all actors at once, and partial sums come back,
which ``CrossEntropy`` adds in the order of the rows: the answer has the same bits for any number of actors, on
processors of one kind. An actor that dies is replaced by one that reads the same rows again, and is asked again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from mixray.cache import CacheRows, RowRanges
from mixray.cluster.mapping import run_tasks
from mixray.cluster.session import Session
from mixray.cluster.watching import plain, was_preempted
from mixray.config.mixture import MixtureConfig, ShardsConfig
from mixray.config.training import Resources
from mixray.errors import InputError, MixrayError, StageError
from mixray.simplex import CrossEntropy
from mixray.simplex.checks import Mask
from mixray.simplex.objectives.passes import blocks
from mixray.simplex.objectives.shard import Shard, process_bytes, shard_spans
from mixray.store import Artifact, Storage

RETRIES = 3
KEEP_FREED_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(64 * 2**20), "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20)}
"""For glibc, which else gives the memory of a block's arrays back to the system after each block, to have it zeroed
again for the next one: that took three quarters of a pass over rows in a file."""


@dataclass(frozen=True)
class ShardPart:
    """A description of an actor's rows: blocks [``first``, ``last``) of ``ranges``, which has ``rows`` in all."""

    ranges: RowRanges
    rows: int
    first: int
    last: int
    allowed: Mask | None
    memory: int
    scratch: str | None
    threads: int

    def load(self) -> Shard:
        sources = self.ranges.sources
        spans = blocks(self.rows, sources)[self.first : self.last]
        return Shard.load(
            self.ranges.read(spans[0][0], spans[-1][1]),
            spans,
            self.first,
            sources,
            memory=self.memory,
            scratch=self.scratch,
            allowed=self.allowed,
            threads=self.threads,
        )


class ShardHolder:
    """The actor of one part, which it reads at the first question: an error at its start would lose its type."""

    def __init__(self, part: ShardPart) -> None:
        self._part = part

    @cached_property
    def _shard(self) -> Shard:
        return self._part.load()

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the shard and return its result."""
        return getattr(self._shard, method)(*arguments)


ShardActor: Any = ray.remote(max_restarts=0, max_task_retries=0)(ShardHolder)


@dataclass(frozen=True)
class Placing:
    """The resources of an actor. ``memory``: bytes that Ray reserves for it; 0 for none."""

    resources: Resources
    memory: int

    def start(self, part: ShardPart) -> ray.actor.ActorHandle:
        options = {
            "num_cpus": self.resources.cpus,
            "num_gpus": self.resources.gpus,
            "scheduling_strategy": "SPREAD",
            "runtime_env": {"env_vars": KEEP_FREED_MEMORY},
        }
        if self.memory:
            options["memory"] = self.memory
        return ShardActor.options(**options).remote(part)


class RemoteShards:
    """The shards of a ``CrossEntropy`` with actors.

    ``actors``: those that hold the rows now, in the order of the rows.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, parts: Sequence[ShardPart], placing: Placing, retries: int = RETRIES) -> None:
        self._parts, self._placing, self._retries = parts, placing, retries
        self.actors = [placing.start(part) for part in parts]

    @property
    def rows(self) -> int:
        return self._parts[0].rows

    @property
    def sources(self) -> int:
        return self._parts[0].ranges.sources

    @property
    def documents(self) -> int:
        return self._parts[0].ranges.parents

    def rescaled(self, allowed: Mask) -> RemoteShards:
        raise InputError(
            "some rows are likely under excluded sources alone",
            got=f"sources {np.flatnonzero(~allowed).tolist()} excluded after the rows were read",
            wanted="rows that were divided by their largest likelihood under the others",
            remedy="open the shards with 'allowed'",
        )

    def close(self) -> None:
        """End the actors."""
        for actor in self.actors:
            ray.kill(actor)
        self.actors = []

    def ask(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of every shard at once and return the results in the order of the rows.

        Raises what a shard raises, and StageError where the actor of one dies too often.
        """
        assert self.actors, "the shards are closed"
        pending = {self._submit(shard, method, *arguments): shard for shard in range(len(self._parts))}
        answers: dict[int, Any] = {}
        deaths: Counter[int] = Counter()
        while pending:
            (answer,), _ = ray.wait(list(pending), num_returns=1)
            shard = pending.pop(answer)
            try:
                answers[shard] = ray.get(answer)
            except RayTaskError as error:
                if isinstance(error.cause, MixrayError):
                    raise error.cause from None
                raise
            except RayError as error:  # the actor died, or does not answer
                deaths[shard] += not was_preempted(error, self.actors[shard])
                if deaths[shard] > self._retries:
                    raise self._died_too_often(shard, deaths[shard], error) from error
                ray.kill(self.actors[shard])
                self.actors[shard] = self._placing.start(self._parts[shard])
                pending[self._submit(shard, method, *arguments)] = shard
        return [answers[shard] for shard in range(len(self._parts))]

    def _submit(self, shard: int, method: str, *arguments: Any) -> ray.ObjectRef:
        return self.actors[shard].ask.remote(method, *arguments)

    def _died_too_often(self, shard: int, times: int, error: RayError) -> StageError:
        part = self._parts[shard]
        return StageError(
            f"the actor of shard {shard + 1} of {len(self._parts)} died {times} times at one question",
            got=plain(str(error)),
            wanted=f"room for {process_bytes(part.memory, part.threads) / 2**20:.0f} MiB a shard",
            remedy="allow less memory per shard, or find in Ray's logs what ends its workers",
        )


@contextmanager
def open_shards(
    session: Session | str | None,
    ranges: RowRanges,
    *,
    shards: int | None = None,
    resources: Resources | None = None,
    memory: int = ShardsConfig().memory,
    reserve_memory: bool = False,
    scratch: str | None = None,
    allowed: Mask | None = None,
    retries: int = RETRIES,
) -> Iterator[CrossEntropy]:
    """Yield the cross entropy of the rows that ``ranges`` describes, with actors, for as long as the block lasts.

    Args:
        session: one, or the address of a cluster, or None for a local one.
        shards: actors; as many as there is room for by default, and never more than there are blocks of rows.
        resources: of one actor; its CPUs are its threads. One CPU by default.
        memory: bytes that an actor's rows may take (4 per source and 16 more, each row; another 8 or 16 for a cache
            where documents have several rows or count by their tokens); those of a shard that has more lie in a file.
            The actor's process stays below ``process_bytes(memory, threads)``.
        reserve_memory: have Ray set that memory aside, too.
        scratch: a folder on every machine, for these files; where temporary files go by default.
        allowed: ``(sources,)``, the sources whose share may be above 0: rows are rescaled by these alone. All by
            default, which is as good unless a source is excluded that explains some rows far better than any other.
        retries: how often one actor is replaced during one question.

    Raises:
        InputError: for what cannot be read, bad rows, and what the cluster has no room for; StageError, here and from
            the objective, when actors die too often.
    """
    resources = resources or Resources()
    if shards is not None and shards < 1:
        raise InputError("shards: no shards", got=shards, wanted=">= 1")
    with ExitStack() as stack:
        joined = session if isinstance(session, Session) else stack.enter_context(Session(session))
        reserved = process_bytes(memory, resources.threads) if reserve_memory else 0
        room = joined.fits(resources, where="shards", count=shards or 1, memory=reserved)
        parts = [
            ShardPart(
                ranges=ranges.limited(*_row_span(ranges, first, last)),
                rows=ranges.rows,
                first=first,
                last=last,
                allowed=allowed,
                memory=memory,
                scratch=scratch,
                threads=resources.threads,
            )
            for first, last in shard_spans(ranges.rows, ranges.sources, shards or room)
        ]
        remote = RemoteShards(parts, Placing(resources, reserved), retries)
        stack.callback(remote.close)
        objective = CrossEntropy(remote, np.ones(remote.sources, bool) if allowed is None else allowed)
        if not objective.total_weight > 0:  # asking for it makes every actor read its rows
            raise InputError("row_weights: all weights are 0", wanted="at least one row that counts")
        yield objective


def _row_span(ranges: RowRanges, first: int, last: int) -> tuple[int, int]:
    spans = blocks(ranges.rows, ranges.sources)[first:last]
    return spans[0][0], spans[-1][1]


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
