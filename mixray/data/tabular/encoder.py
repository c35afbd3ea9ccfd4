"""From typed rows to numbers: a summary of the rows' values, and an encoding that is learned from it.

The sources of a run, or the training rows of a task, decide the encoding; all other rows are encoded with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mixray.config.data import FingerprintConfig
from mixray.data.pools import ExampleInputs
from mixray.data.tabular.tables import NAMED, Table, TableColumns, Texts, check_widths
from mixray.errors import InputError
from mixray.store import fingerprint
from mixray.store.target_parts import MOLECULE

MOST_VALUES = 10_000
"""The most values that a categorical column, a label or a group may have."""
ROUNDING = 1e-13
"""A deviation below this part of the mean is due to rounding: the column is constant."""


@dataclass(frozen=True)
class TableSummary:
    """The values that rows have. It is the metadata of an artifact, so its fields keep their names.

    ``mean``: of each numeric column. ``squares``: the sum of its squared deviations from the mean. ``categories``:
    column -> values. ``digests``, ``group_digests``: the identities of the rows of each part, and of their groups.
    ``invalid``: how many rows were left out because their molecules cannot be read. ``last_rank``: of a target of which
    a sample is used, its rows' highest rank.
    """

    rows: int
    filtered: int
    mean: list[float]
    squares: list[float]
    categories: dict[str, list[str]]
    labels: list[str]
    groups: list[str]
    digests: list[str] = field(default_factory=list)
    group_digests: list[str] = field(default_factory=list)
    invalid: int = 0
    last_rank: int | None = None

    @classmethod
    def of(cls, table: Table, columns: TableColumns) -> TableSummary:
        """Return the summary of a table. Raises InputError for a column with too many values."""
        mean = table.numeric.mean(axis=0) if len(table) else np.zeros(table.numeric.shape[1])
        categories = {
            name: _union([names_of(values)], f"{columns.key('categorical')}, column {name}")
            for name, values in table.categorical.items()
        }
        groups = [] if table.groups is None else [names_of(table.groups)]
        return cls(
            len(table),
            table.filtered,
            mean.tolist(),
            ((table.numeric - mean) ** 2).sum(axis=0).tolist(),
            categories,
            [] if table.numbers is not None else _union([names_of(table.labels)], columns.key("label")),
            _union(groups, columns.key("group")),
            invalid=table.invalid,
        )

    @classmethod
    def joined(cls, summaries: Sequence[TableSummary], columns: TableColumns) -> TableSummary:
        """Return the summary of all their rows (Chan, Golub and LeVeque 1979 for the sums of squares)."""
        digests = [digest for one in summaries for digest in one.digests]
        group_digests = [digest for one in summaries for digest in one.group_digests]
        filtered, invalid = (sum(getattr(one, name) for one in summaries) for name in ("filtered", "invalid"))
        last_rank = summaries[0].last_rank
        summaries = [one for one in summaries if one.rows] or list(summaries[:1])
        check_widths(len(one.mean) for one in summaries)
        counts = np.array([one.rows for one in summaries], dtype=np.float64)
        means = np.array([one.mean for one in summaries])
        mean = _exact_sum(counts[:, None] * means) / max(counts.sum(), 1)
        squares = np.array([one.squares for one in summaries]) + counts[:, None] * (means - mean) ** 2
        categories = {
            name: _union([one.categories[name] for one in summaries], f"{columns.key('categorical')}, column {name}")
            for name in summaries[0].categories
        }
        return cls(
            int(counts.sum()),
            filtered,
            mean.tolist(),
            _exact_sum(squares).tolist(),
            categories,
            _union([one.labels for one in summaries], columns.key("label")),
            _union([one.groups for one in summaries], columns.key("group")),
            digests,
            group_digests,
            invalid,
            last_rank,
        )


def names_of(values: Texts) -> tuple[str, ...]:
    """Return the values that occur, sorted."""
    return tuple(np.unique(values).tolist())


def ids_in(values: Texts, names: Sequence[str]) -> NDArray[np.int64]:
    """Return each value's position in ``names``, int64, shape (rows,), or -1 for a value that is not among them."""
    unsorted = np.array(names)
    order = np.argsort(unsorted)
    ids = order[np.searchsorted(unsorted[order], values).clip(max=len(names) - 1)]
    return np.where(unsorted[ids] == values, ids, -1).astype(np.int64)


def _exact_sum(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum over the first axis, exactly rounded, so that the order of parts and sources changes no bit."""
    return np.array([math.fsum(column) for column in values.T])


def _union(values: Sequence[Sequence[str]], where: str) -> list[str]:
    union = sorted({value for one in values for value in one})
    if len(union) > MOST_VALUES:
        raise InputError(
            "a column has too many values",
            where=where,
            got=f"{len(union)}, for instance {', '.join(map(repr, union[:NAMED]))}",
            wanted=f"at most {MOST_VALUES}",
            remedy="name it under numeric, or leave it out",
        )
    return union


@dataclass(frozen=True)
class RowEncoder:
    """The encoding of rows as numbers.

    A number becomes (number - mean) / deviation, or 0 in a constant column. A category becomes one column for each of
    its values. Labels and groups become their positions among the names. Numbers that are to be predicted stay as they
    are; then there are no names of labels.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    categories: Mapping[str, tuple[str, ...]]
    label_names: tuple[str, ...]
    group_names: tuple[str, ...]
    fingerprint: FingerprintConfig | None = None

    @classmethod
    def of(cls, summary: TableSummary, fingerprint: FingerprintConfig | None = None) -> RowEncoder:
        """Return the encoding that the values of rows decide. ``summary``: of at least one row. ``fingerprint``: of the
        molecules, where those are the inputs."""
        mean = np.array(summary.mean)
        return cls(
            tuple(summary.mean),
            tuple(without_rounding(np.sqrt(np.array(summary.squares) / summary.rows), mean).tolist()),
            {name: tuple(values) for name, values in summary.categories.items()},
            tuple(summary.labels),
            tuple(summary.groups),
            fingerprint,
        )

    @property
    def digest(self) -> str:
        """The identity of features and labels; groups have no influence on either."""
        settings = asdict(replace(self, fingerprint=None))
        del settings["group_names"], settings["fingerprint"]
        if self.fingerprint is not None:
            settings |= self.fingerprint.model_dump(mode="json")
        return fingerprint({"examples": 1, **settings})

    @property
    def inputs(self) -> ExampleInputs:
        """What a model of these rows reads."""
        features = len(self.mean) + sum(map(len, self.categories.values()))
        if self.fingerprint is not None:
            features = self.fingerprint.bits
        return ExampleInputs(features, self.label_names, self.group_names)

    def encode(self, table: Table) -> NDArray[np.void]:
        """Return records, shape (rows,): features, float32, shape (features,), and label and group, int64.

        A label that is a number is float64. Of a molecule there is its number, int64, in place of the features.
        A category that the summary did not have becomes all zeros; such a label or group becomes -1.
        """
        width = None if self.fingerprint is not None else self.inputs.features
        records = np.zeros(len(table), record_type(width, label="<i8" if table.numbers is None else "<f8"))
        # A table without rows does not know how long its lists of features are.
        if not len(table):
            return records
        if table.molecules is None:
            self._encode_features(table, records["features"])
        else:
            records[MOLECULE] = table.molecules["number"]
        records["label"] = ids_in(table.labels, self.label_names) if table.numbers is None else table.numbers
        records["group"] = -1 if table.groups is None else ids_in(table.groups, self.group_names)
        return records

    def _encode_features(self, table: Table, features: NDArray[np.float32]) -> None:
        """Write the features, which are zeros before."""
        first = len(self.mean)
        features[:, :first] = standardised(table.numeric, np.array(self.mean), np.array(self.deviation))
        for name, values in table.categorical.items():
            ids = ids_in(values, self.categories[name])
            rows = np.flatnonzero(ids >= 0)
            features[rows, first + ids[rows]] = 1
            first += len(self.categories[name])


def record_type(features: int | None, label: Literal["<i8", "<f8"] = "<i8") -> np.dtype[np.void]:
    """Return the dtype of encoded rows. ``features``: how many, None for the number of a molecule in their place.
    ``label``: of a class's position, or of a number."""
    inputs = [(MOLECULE, "<i8")] if features is None else [("features", "<f4", (features,))]
    return np.dtype([*inputs, ("label", label), ("group", "<i8")])


def standardised(
    values: NDArray[np.float64], mean: NDArray[np.float64], deviation: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return (values - mean) / deviation, shape (rows, columns). A column with deviation 0 becomes 0."""
    return np.divide(values - mean, deviation, out=np.zeros_like(values), where=deviation > 0)


def without_rounding(deviation: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the deviations with 0 for constant columns, whose means are not exact."""
    return np.where(deviation > ROUNDING * np.abs(mean), deviation, 0.0)
