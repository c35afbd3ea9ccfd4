"""The rows of a prediction cache at the unit that the likelihood is taken over, of which any range can be read.

Documents and their parents are numbered as they come in the cache's files. The rows of a document and the documents of
a parent are consecutive, but may go on in the next file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mixray.cache.row_ranges import Chunk
from mixray.cache.table import (
    join_segments,
    read_columns,
    read_file,
    require_segments,
    segment_values,
    stored_segment,
)
from mixray.config.mixture import Unit, Weighting, segment_tokens
from mixray.errors import CorruptedArtifactError
from mixray.store import Artifact, Storage
from mixray.store.artifacts import artifact_folder
from mixray.store.target_parts import PARENT_BYTES, ROW_KEY, TargetPart, document_ids, parent_ids, part_files


@dataclass(frozen=True)
class FileFacts:
    """Facts about one file of rows.

    ``units`` (windows, where documents are the unit), ``tokens``, ``documents``, ``parents``: how many there are.
    ``first``, ``last``: id and tokens in this file of the first and the last document. ``windows``: window numbers of
    the first and the last row.
    """

    name: str
    units: int
    tokens: int
    documents: int
    parents: int
    first: tuple[bytes, int]
    last: tuple[bytes, int]
    windows: tuple[int, int]


@dataclass(frozen=True)
class FilePlace:
    """The place of a file's units among those of all files.

    ``start`` and ``stop``: numbers of the units that begin in it. ``document`` and ``parent``: the numbers of the first
    ones that it has rows of. ``continues``: whether that document began in an earlier file. ``head`` and ``tail``: all
    tokens, in every file, of its first and its last document.
    """

    name: str
    start: int
    stop: int
    document: int
    parent: int
    continues: bool
    head: int
    tail: int


@dataclass(frozen=True)
class CacheRows:
    """The rows of one target's prediction cache.

    ``rows_artifact`` and ``columns`` (source -> its column): the artifacts. ``places``: of the files, in order.
    ``documents`` and ``tokens``: how many there are in all, which the weights depend on; ``parents`` of the documents.
    """

    storage: Storage
    rows_artifact: Artifact
    columns: Mapping[str, Artifact]
    unit: Unit
    weighting: Weighting
    places: tuple[FilePlace, ...]
    documents: int
    tokens: int
    parents: int

    @classmethod
    def open(
        cls,
        storage: Storage,
        rows_artifact: Artifact,
        columns: Mapping[str, Artifact],
        *,
        unit: Unit,
        weighting: Weighting,
        part: TargetPart = "fit",
        over: Callable[[Callable[[str], FileFacts], Sequence[str]], Iterable[FileFacts]] = map,
    ) -> Self:
        """Look through the keys of all files once.

        ``over``: how a function is applied to every file's name, in order:
        ``map``, or something that does it elsewhere. Raises CorruptedArtifactError for documents that are not in one
        piece, and InputError where the columns do not hold the unit's segments."""
        length = segment_tokens(unit)
        if length is not None:
            require_segments(stored_segment(columns), length)
        look = partial(file_facts, storage=storage, rows_artifact=rows_artifact, length=length)
        facts = list(over(look, part_files(rows_artifact, part)))
        stated = rows_artifact.meta.get(part, {}).get("documents")
        continues = [_continues(before, here) for before, here in zip([None, *facts], facts, strict=False)]
        documents = sum(here.documents for here in facts) - sum(continues)
        if stated is not None and documents != stated:
            raise _scattered(storage, rows_artifact, f"{documents} pieces", f"{stated} documents, each in one piece")
        places = tuple(_places(facts, continues, by_document=unit == "document"))
        tokens = sum(here.tokens for here in facts)
        parents = places[-1].parent + facts[-1].parents
        return cls(storage, rows_artifact, dict(columns), unit, weighting, places, documents, tokens, parents)

    @property
    def rows(self) -> int:
        return self.places[-1].stop

    @property
    def sources(self) -> int:
        return len(self.columns)

    def limited(self, start: int, stop: int) -> CacheRows:
        places = self._places_of(start, stop)
        names = {place.name for place in places}

        def narrowed(artifact: Artifact) -> Artifact:
            files = {name: record for name, record in artifact.files.items() if name in names}
            return replace(artifact, files=files)

        columns = {source: narrowed(column) for source, column in self.columns.items()}
        return replace(self, rows_artifact=narrowed(self.rows_artifact), columns=columns, places=places)

    def read(self, start: int, stop: int) -> Iterator[Chunk]:
        for number, units in self._units(self._places_of(start, stop)):
            chunk = _part(units, slice(max(0, start - number), max(0, stop - number)))
            if len(chunk[0]):
                yield chunk

    @cached_property
    def _stops(self) -> NDArray[np.int64]:
        return np.array([place.stop for place in self.places], np.int64)

    def _places_of(self, start: int, stop: int) -> tuple[FilePlace, ...]:
        """Return the files that hold the units: to the end of the last one, where units are documents."""
        first, last = np.searchsorted(self._stops, [start, stop - 1], side="right")
        if self.unit == "document":
            while last + 1 < len(self.places) and self.places[last + 1].continues and self._stops[last] == stop:
                last += 1
        return self.places[first : last + 1]

    def _units(self, places: Sequence[FilePlace]) -> Iterator[tuple[int, Chunk]]:
        """Yield the units of consecutive files, with the number of the first."""
        unfinished: tuple[int, Chunk] | None = None
        for place in places:
            values, counts, starts, parents, weights, tokens = self._rows_of(place)
            if self.unit != "document":
                lengths = np.diff(starts, append=len(values))
                row_weights = np.repeat(weights, lengths)
                yield place.start, (values, row_weights, np.repeat(parents, lengths), row_weights * counts)
                continue
            if unfinished is not None:
                if place.continues:
                    values[0] += unfinished[1][0][0]
                else:
                    yield unfinished
            sums = np.add.reduceat(values, starts, axis=0)
            if self.parents == self.documents:  # every row is one
                row_tokens = None if self.weighting == "document" else weights * tokens
                units: Chunk = (sums, weights, None, row_tokens)
            else:
                units = (sums, weights, parents, weights * tokens)
            yield place.document, _part(units, slice(None, -1))
            unfinished = place.document + len(sums) - 1, _part(units, slice(-1, None))
        if unfinished is not None:
            yield unfinished

    def _rows_of(self, place: FilePlace) -> tuple[NDArray[Any], ...]:
        """Read a file: of its windows or segments, the log-probabilities, tokens and where among them documents start;
        of these documents, the number of the parent, the weight of their rows and all their tokens."""
        table = read_file(self.storage, place.name, self.rows_artifact, self.columns)
        counts = table["count"].to_numpy().astype(np.int64)
        starts = _document_starts(table)
        parents = place.parent + np.cumsum(_begins(parent_ids(document_ids(table)[starts]))) - 1
        tokens = np.add.reduceat(counts, starts)
        tokens[0], tokens[-1] = place.head, place.tail
        # As in mixray.simplex.objectives.rows: 1 / (documents * tokens of the document), or 1 / all tokens.
        by_document = self.weighting == "document"
        weights = 1 / (self.documents * tokens) if by_document else np.full(len(tokens), 1 / self.tokens)
        length = segment_tokens(self.unit)
        if length is None:
            values = np.stack([table[source].to_numpy() for source in self.columns], axis=1)
            return values, counts, starts, parents, weights, tokens
        stored = require_segments(stored_segment(self.columns), length)
        values, counts, rows = join_segments(segment_values(table, self.columns), counts, stored, length)
        return values, counts, np.searchsorted(rows, starts), parents, weights, tokens


def file_facts(name: str, *, storage: Storage, rows_artifact: Artifact, length: int | None) -> FileFacts:
    """Return the facts that one file's keys tell. Raises CorruptedArtifactError for rows of a document, or documents of
    a parent, in several places.

    ``length``: the tokens of a unit that is a piece of a window; None for others."""
    table = read_columns(storage, rows_artifact, name, [*ROW_KEY, "count"])
    counts, windows = (table[column].to_numpy().astype(np.int64) for column in ("count", "window"))
    starts = _document_starts(table)
    ids = document_ids(table)[starts]
    parents = parent_ids(ids)
    begins = _begins(parents)
    ascending = np.diff(windows) > 0
    ascending[starts[1:] - 1] = True
    if len(np.unique(ids)) < len(ids) or len(np.unique(parents)) < begins.sum() or not ascending.all():
        raise _scattered(storage, rows_artifact, f"{name}: others", "documents in one piece, windows ascending")
    tokens = np.add.reduceat(counts, starts)
    return FileFacts(
        name=name,
        units=len(counts) if length is None else int((-(-counts // length)).sum()),
        tokens=int(counts.sum()),
        documents=len(ids),
        parents=int(begins.sum()),
        first=(bytes(ids[0]), int(tokens[0])),
        last=(bytes(ids[-1]), int(tokens[-1])),
        windows=(int(windows[0]), int(windows[-1])),
    )


def _document_starts(table: Any) -> NDArray[np.intp]:
    """Return the first row of every run of rows of one document."""
    return np.flatnonzero(_begins(document_ids(table)))


def _begins(ids: NDArray[Any]) -> NDArray[np.bool_]:
    """Return whether each element differs from the one before it, shape (elements,); the first does."""
    return np.concatenate([[True], ids[1:] != ids[:-1]])


def _part(chunk: Chunk, rows: slice) -> Chunk:
    """Return these rows of a chunk."""
    log_probs, weights, parents, row_tokens = chunk
    return (
        log_probs[rows],
        weights[rows],
        None if parents is None else parents[rows],
        None if row_tokens is None else row_tokens[rows],
    )


def _continues(before: FileFacts | None, here: FileFacts) -> bool:
    return before is not None and before.last[0] == here.first[0] and before.windows[1] < here.windows[0]


def _places(facts: Sequence[FileFacts], continues: Sequence[bool], *, by_document: bool) -> Iterator[FilePlace]:
    """Yield where every file's units are, and how long the documents at its ends are with their rows in other files."""
    heads, tails = [here.first[1] for here in facts], [here.last[1] for here in facts]
    for i in range(1, len(facts)):  # the tokens so far of a document that goes on
        if continues[i]:
            heads[i] += tails[i - 1]
            tails[i] = heads[i] if facts[i].documents == 1 else tails[i]
    for i in reversed(range(len(facts) - 1)):  # and all of them
        if continues[i + 1]:
            tails[i] = heads[i + 1]
            heads[i] = tails[i] if facts[i].documents == 1 else heads[i]
    start = begun = parents = 0
    before = b""
    for here, goes_on, head, tail in zip(facts, continues, heads, tails, strict=True):
        units = here.documents - goes_on if by_document else here.units
        first_parent = parents - (before == here.first[0][:PARENT_BYTES])
        yield FilePlace(here.name, start, start + units, begun - goes_on, first_parent, goes_on, head, tail)
        start, begun, parents = start + units, begun + here.documents - goes_on, first_parent + here.parents
        before = here.last[0][:PARENT_BYTES]


def _scattered(storage: Storage, rows_artifact: Artifact, got: str, expected: str) -> CorruptedArtifactError:
    return CorruptedArtifactError(
        "the target's rows are not in the order of its documents",
        where=storage.location(artifact_folder(rows_artifact.kind, rows_artifact.id)),
        got=got,
        wanted=expected,
        remedy="delete that folder and run again",
    )
