"""A mixture's exact stream as a torch data set, for a loop of one's own, Lightning or the Hugging Face Trainer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

from torch.utils.data import IterableDataset, get_worker_info

from mixray.data import MixtureStream, open_rows
from mixray.errors import InputError
from mixray.export import example_shares
from mixray.mixture import Mixture
from mixray.runs import MixtureRun
from mixray.store import fingerprint

AT_ONCE = 1024
"""Rows whose sources are worked out at once."""


class StreamState(TypedDict):
    """``rows``: how many this part of the stream has given; ``stream``: the identity of stream and part."""

    rows: int
    stream: str


class MixtureRows(IterableDataset[Any]):
    """The endless stream of rows of a mixture, or one part of it.

    The number of rows of every source is within half the number of sources of its share, at every length of the whole
    stream (see ``mixray.data.stream``). A source's rows come in an order that is new in every epoch and the same in
    every mixture. The parts of ``world_size`` ranks, and within each those of a DataLoader's workers, are disjoint: the
    rows at every n-th position. ``state_dict`` and ``load_state_dict`` make a part go on where it stood; behind a
    DataLoader with workers, each worker has its own state, as torchdata's StatefulDataLoader keeps it. Workers begin
    where the data set stood when they were started, so a second loop over a DataLoader gives the same rows again unless
    it has ``persistent_workers``.

    ``rows``: source -> anything with a length that is indexed by an int; ``source_shares``: source -> share of rows.
    """

    def __init__(
        self, rows: Mapping[str, Any], source_shares: Mapping[str, float], *, seed: int, rank: int, world_size: int
    ) -> None:
        if not 0 <= rank < world_size:
            raise InputError(
                "this is not a valid rank", where="rank", got=rank, wanted=f"0 to world_size - 1 = {world_size - 1}"
            )
        self._rows, self._rank, self._world_size = rows, rank, world_size
        self.source_shares = dict(source_shares)
        self._stream = MixtureStream(rows, source_shares, seed)
        lengths = [len(rows[name]) for name in self._stream.source_names]
        self._identity = [seed, self.source_shares, lengths]
        self._count = 0

    def __iter__(self) -> Iterator[Any]:
        part, parts = self._part()
        sources = [self._rows[name] for name in self._stream.source_names]
        while True:
            first = self._count * parts + part
            numbers, indices = self._stream.locate(first, first + AT_ONCE * parts)
            for number, index in zip(numbers[::parts].tolist(), indices[::parts].tolist(), strict=True):
                self._count += 1
                yield sources[number][index]

    def state_dict(self) -> StreamState:
        """Return where this part of the stream stands."""
        return {"rows": self._count, "stream": self._name()}

    def load_state_dict(self, state: StreamState) -> None:
        """Go on where ``state`` was taken. Raises InputError where it is that of another stream or part."""
        if state["stream"] != self._name():
            raise InputError(
                "this is the state of another stream",
                where="load_state_dict",
                got=state["stream"][:12],
                wanted=f"{self._name()[:12]}: the same shares, rows, seed, rank, world size and workers",
            )
        self._count = state["rows"]

    def _part(self) -> tuple[int, int]:
        """Return which part of the stream this process gives, and how many parts there are."""
        worker = get_worker_info()
        if worker is None:
            return self._rank, self._world_size
        return self._rank * worker.num_workers + worker.id, self._world_size * worker.num_workers

    def _name(self) -> str:
        return fingerprint(["stream", *self._identity, *self._part()])


def mixture_rows(
    mixture: Mixture, rows: Mapping[str, Any] | str, *, seed: int, rank: int, world_size: int, packed: bool | None
) -> MixtureRows:
    """See ``Mixture.stream``."""
    if isinstance(rows, str):
        run = MixtureRun.open(rows)
        artifacts = run.index.artifacts("source")
        rows = {key.partition("/")[2]: open_rows(run.storage, artifact) for key, artifact in artifacts.items()}
        packed = True
    if packed is None:
        packed = all(len(getattr(each, "shape", ())) == 2 for each in rows.values())
    shares = example_shares(mixture, rows, packed=packed)
    empty = [name for name in shares if len(rows[name]) == 0]
    if empty:
        raise InputError("a source with a share has no rows", where="rows", got=empty[0], wanted="at least one row")
    return MixtureRows(rows, shares, seed=seed, rank=rank, world_size=world_size)
