"""A swarm that was measured elsewhere: the mixtures of many small models, and what each of them reached.

Conventions of columns: Olmix (``run,name,index,<domain>...`` and ``run,name,index,<metric>...``), RegMix
(``index,<domain>...`` and ``index,<metric>...``) and Marin (one table, ``run_id,...,phase_0_<domain>...,<metric>...``).
Rows are joined by the run's id, never by their order.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixray.errors import InputError
from mixray.export.published import NOTICEABLE
from mixray.store import Artifacts, Storage, fingerprint
from mixray.store.tables import encode

SCHEMA = "mixray.swarm/1"
IDS = ("run", "run_id", "index", "run_name", "name")
"""Columns that may hold the run's id; the first one that both tables have is used."""
DESCRIPTIONS = {*IDS, "status"}
PHASE = "phase_"


@dataclass(frozen=True)
class Swarm:
    """The measured mixtures of a swarm.

    ``runs``: their ids; ``shares``: float64 (runs, sources), rows sum to 1; ``values``: float64 (runs, metrics), in the
    metrics' own units.
    """

    runs: list[str]
    sources: list[str]
    metrics: list[str]
    shares: NDArray[np.float64]
    values: NDArray[np.float64]

    @property
    def id(self) -> str:
        """The identity of the content."""
        rows = [self.shares.tolist(), self.values.tolist()]
        return fingerprint(["swarm", 1, self.runs, self.sources, self.metrics, *rows])


def read_swarm(ratios: str, metrics: str) -> tuple[Swarm, list[str]]:
    """Return the swarm in two CSV files, or twice the same one, and warnings.

    Raises InputError for files that cannot be read, ids that occur twice or in one file alone, shares that are not
    numbers from 0 up, and metrics that are not numbers.
    """
    mixed, measured = _Table.read(ratios), _Table.read(metrics)
    key = next((name for name in IDS if name in mixed.columns and name in measured.columns), None)
    if key is None:
        raise InputError(
            "the two tables have no id in common",
            where=f"{ratios}, {metrics}",
            got=", ".join(mixed.columns[:5]),
            wanted=f"a column {', '.join(IDS)} in both",
        )
    places = measured.places(key)
    ids = list(mixed.places(key))
    _require_same_ids(ids, list(places), ratios, metrics)
    domains = _domains(mixed)
    shares, warnings = _shares(mixed, domains)
    columns = [name for name in measured.columns if name not in DESCRIPTIONS and not name.startswith(PHASE)]
    columns = [name for name in columns if ratios != metrics or name not in domains]
    gaps = [name for name in columns if not all(measured.column(name))]
    if gaps:
        warnings.append(f"{len(gaps)} metrics are left out, which some runs have no value of: {', '.join(gaps[:5])}")
        columns = [name for name in columns if name not in gaps]
    if not columns:
        raise InputError("there is no metric that every run has", where=metrics, wanted="a column of numbers")
    values = np.array([measured.numbers(name) for name in columns]).T[[places[run] for run in ids]]
    sources = [_source_name(name) for name in domains]
    return Swarm(ids, sources, columns, shares, values), warnings


def store_swarm(storage: Storage, name: str, swarm: Swarm) -> str:
    """Store a swarm as an artifact, and its id under its name. Return the location of the file with the id.

    Raises InputError for a name that is not a valid one for a file.
    """
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is None:
        raise InputError("this is not a valid name of a swarm", got=name, wanted="letters, digits, '.', '-' and '_'")
    artifacts = Artifacts(storage, f"swarm-{name}")
    storage.check_writable()
    if artifacts.find("swarm", swarm.id) is None:
        draft = artifacts.draft("swarm", swarm.id)
        columns = {"run": pa.array(swarm.runs)}
        columns |= {f"share/{source}": swarm.shares[:, i] for i, source in enumerate(swarm.sources)}
        columns |= {f"metric/{metric}": swarm.values[:, i] for i, metric in enumerate(swarm.metrics)}
        record = draft.write("swarm.parquet", encode(pa.table(columns)))
        draft.publish({"swarm.parquet": record}, {"runs": len(swarm.runs)})
    content = {"schema": SCHEMA, "id": swarm.id, "sources": swarm.sources, "metrics": swarm.metrics}
    path = f"swarms/{name}.json"
    storage.write(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    return storage.location(path)


def swarm_csv(swarm: Swarm) -> dict[str, bytes]:
    """Return two CSV files, ``ratios.csv`` and ``metrics.csv``, joined by the column ``run``; ``mixray import`` reads
    them."""

    def text(header: Sequence[str], values: NDArray[np.float64]) -> bytes:
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["run", *header])
        writer.writerows([run, *map(repr, row)] for run, row in zip(swarm.runs, values.tolist(), strict=True))
        return file.getvalue().encode()

    return {"ratios.csv": text(swarm.sources, swarm.shares), "metrics.csv": text(swarm.metrics, swarm.values)}


@dataclass(frozen=True)
class _Table:
    """A CSV file. ``rows``: cells as they are written, without white space around them."""

    path: str
    columns: list[str]
    rows: list[list[str]]

    @classmethod
    def read(cls, path: str) -> _Table:
        try:
            with open(path, newline="", encoding="utf-8-sig") as file:
                cells = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError("the table cannot be read", where=path, got=error) from None
        header = cells[0] if cells else []
        ragged = next((number for number, row in enumerate(cells, 1) if len(row) != len(header)), None)
        if len(cells) < 2 or ragged is not None or len(set(header)) < len(header):
            row = f"row {ragged} has {len(cells[ragged - 1])} cells" if ragged else f"{len(cells)} rows"
            raise InputError(
                "this is not a valid table of runs",
                where=path,
                got=f"{row}, {len(set(header))} different columns",
                wanted="a header of different names and a row of as many cells for each run",
            )
        return cls(path, header, cells[1:])

    def column(self, name: str) -> list[str]:
        place = self.columns.index(name)
        return [row[place] for row in self.rows]

    def places(self, key: str) -> dict[str, int]:
        """Return id -> number of its row."""
        ids = self.column(key)
        if len(set(ids)) < len(ids):
            twice = next(run for run in ids if ids.count(run) > 1)
            raise InputError(
                "a run occurs more than once",
                where=f"{self.path}: {key}",
                got=f"{twice} ({len(ids)} rows, {len(set(ids))} ids)",
                wanted="one row for each run",
            )
        return {run: number for number, run in enumerate(ids)}

    def numbers(self, name: str, least: float = -np.inf) -> list[float]:
        """Return a column of finite numbers of at least ``least``."""
        values = []
        for number, cell in enumerate(self.column(name), 2):
            try:
                value = float(cell)
            except ValueError:
                value = float("nan")
            if not (isfinite(value) and value >= least):
                wanted = "a finite number" if least < 0 else f"a finite number of at least {least:g}"
                raise InputError(
                    "a column does not hold numbers",
                    where=f"{self.path}: {name}, line {number}",
                    got=cell,
                    wanted=wanted,
                )
            values.append(value)
        return values


def _require_same_ids(mixed: Sequence[str], measured: Sequence[str], ratios: str, metrics: str) -> None:
    """Raise InputError unless the same runs are in both tables."""
    unmeasured, unmixed = set(mixed) - set(measured), set(measured) - set(mixed)
    if unmeasured or unmixed:
        example = min(unmeasured or unmixed)
        raise InputError(
            "the runs of the two tables are not the same",
            where=f"{ratios}, {metrics}",
            got=f"{len(unmeasured)} of {len(mixed)} runs have no metrics, {len(unmixed)} of {len(measured)} have no "
            f"ratios; one of them is {example}",
            wanted="every run in both",
        )


def _domains(table: _Table) -> list[str]:
    """Return the columns of shares. Raises InputError for several phases: a mixture is one set of shares."""
    phased = [name for name in table.columns if name.startswith(PHASE)]
    phases = {name.split("_")[1] for name in phased}
    if len(phases) > 1:
        raise InputError(
            "the mixture of a run changes during its training",
            where=table.path,
            got=f"{len(phases)} phases",
            wanted="the columns of one phase",
            remedy="leave out those of the others, or write the mean over the phases",
        )
    return phased or [name for name in table.columns if name not in DESCRIPTIONS]


def _source_name(column: str) -> str:
    return column.split("_", 2)[2] if column.startswith(PHASE) else column


def _shares(table: _Table, domains: Sequence[str]) -> tuple[NDArray[np.float64], list[str]]:
    """Return the shares, float64 (runs, sources), with rows that sum to 1, and a warning for rows that were far off."""
    shares = np.array([table.numbers(name, least=0.0) for name in domains], np.float64).T
    sums = shares.sum(axis=1)
    if not sums.all():
        raise InputError("a run has no share above 0", where=f"{table.path}, line {int(sums.argmin()) + 2}", got="0")
    off = np.abs(sums - 1)
    far = int((off > NOTICEABLE).sum())
    warnings = []
    if far:
        warnings.append(
            f"{far} of {len(sums)} mixtures do not sum to 1 and are divided by their sums, which are as far off as "
            f"{sums[off.argmax()]:.6g}"
        )
    return shares / sums[:, None], warnings
