"""The ``data`` section of a robust run file: its rows are stored once, and workers make each seed's task of them.

The rows come from Parquet or CSV files, or are scikit-learn's handwritten digits with a shortcut built in. A task has
three parts: train, validation and test. The encoding is learned from the training part alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from mixray.config.robust import DigitsConfig, GroupedConfig
from mixray.data.reading.locations import find_files
from mixray.data.reading.parquet import data_files
from mixray.data.tabular.encoder import RowEncoder, TableSummary, ids_in, names_of, standardised, without_rounding
from mixray.data.tabular.tables import Table, TableColumns, Texts, listed, read_file, typed
from mixray.errors import InputError, first_line
from mixray.store import Artifact, Artifacts, Storage, encode
from mixray.store.tables import read_table

Ids = NDArray[np.int64]
PART_NAMES = ("train", "validation", "test")
TABLE = "rows.parquet"


@dataclass(frozen=True, eq=False)
class GroupedRows:
    """Encoded rows of one part of a task.

    ``features``: float32, shape (rows, columns). ``labels``, ``group_ids``: int64, shape (rows,). ``spurious``: int64,
    shape (rows,), None if no spurious attribute is named. ``row_ids``: int64, shape (rows,), the rows' numbers in the
    whole table.
    """

    features: NDArray[np.float32]
    labels: Ids
    group_ids: Ids
    spurious: Ids | None
    row_ids: Ids

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[Any]) -> GroupedRows:
        """Return the rows at these positions."""
        spurious = None if self.spurious is None else self.spurious[rows]
        return GroupedRows(self.features[rows], self.labels[rows], self.group_ids[rows], spurious, self.row_ids[rows])


@dataclass(frozen=True, eq=False)
class GroupedTask:
    """A classification task of one seed. Names are in the order of the ids; every group has training rows.

    ``spurious_names[k]`` is the attribute's value that occurs with label k more often than chance in the training rows;
    it is empty if no attribute is named, or if its number of values is not that of the label. ``warnings``: {code,
    message, ...}.
    """

    train: GroupedRows
    validation: GroupedRows
    test: GroupedRows
    label_names: tuple[str, ...]
    group_names: tuple[str, ...]
    spurious_names: tuple[str, ...]
    feature_names: tuple[str, ...]
    warnings: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Warn about each part that lacks groups. Raises InputError if the training part does."""
        for name, part in self.parts():
            empty = np.flatnonzero(np.bincount(part.group_ids, minlength=self.num_groups) == 0)
            groups = ", ".join(self.group_names[group] for group in empty)
            if len(empty) and name == "train":
                raise InputError(
                    "a group has no training rows", where=f"data.group, group {groups}", wanted="one or more"
                )
            if len(empty):
                message = f"the {name} part has no rows of {groups}: the worst group is found among the others"
                self.warnings.append({"code": "group_without_rows", "message": message, "part": name})

    @property
    def num_groups(self) -> int:
        return len(self.group_names)

    @property
    def training_counts(self) -> Ids:
        """Return the number of training rows of each group, int64, shape (groups,)."""
        return np.bincount(self.train.group_ids, minlength=self.num_groups)

    def parts(self) -> Iterator[tuple[str, GroupedRows]]:
        yield from zip(PART_NAMES, (self.train, self.validation, self.test), strict=True)


def importance_weights(group_counts: Ids) -> NDArray[np.float64]:
    """Return row weights by group, float64, shape (groups,), with which all groups weigh the same and the mean weight
    is 1."""
    shares = group_counts.astype(np.float64) / group_counts.sum()
    weights: NDArray[np.float64] = 1 / (len(shares) * shares)
    return weights


# -------------------------------------------------------------------------------------------------------- rows of files


def store_rows(config: GroupedConfig, artifacts: Artifacts) -> Artifact | None:
    """Return the rows as an artifact that every worker can read, or None for the digits, which are installed.

    Raises InputError for what is wrong with the files and their columns.
    """
    if config.digits is not None:
        return None
    table = read_rows(config)
    typed_rows(table, config)
    # What a file's writer said about itself is not part of the rows.
    data = encode(table.cast(table.schema.remove_metadata()))
    id = hashlib.sha256(data).hexdigest()
    if (stored := artifacts.find("rows_table", id)) is not None:
        return stored
    draft = artifacts.draft("rows_table", id)
    return draft.publish({TABLE: draft.write(TABLE, data)}, {"rows": table.num_rows, "columns": table.column_names})


def load_task(config: GroupedConfig, rows: Artifact | None, storage: Storage, seed: int) -> GroupedTask:
    """Return the task of a seed. ``rows`` is what ``store_rows`` returned. Raises InputError."""
    if rows is None:
        assert config.digits is not None
        return digits_task(config.digits, seed)
    return split_and_encode(typed_rows(read_table(storage, rows.files[TABLE]), config), config, seed)


def read_task(config: GroupedConfig, seed: int) -> GroupedTask:
    """Return the task of a seed, read from the files and stored nowhere. Raises InputError as ``store_rows`` does."""
    if config.digits is not None:
        return digits_task(config.digits, seed)
    return split_and_encode(typed_rows(read_rows(config), config), config, seed)


def _columns_of(config: GroupedConfig) -> TableColumns:
    kind: Any = "parquet" if config.parquet is not None else "csv"
    return TableColumns("data", config, kind, "data", tuple(config.group_columns), config.spurious, config.split)


def read_rows(config: GroupedConfig) -> Any:
    """Return the named columns of all files as one Arrow table.

    Raises InputError if no file matches, a column is missing or a file cannot be read.
    """
    columns, locations = _columns_of(config), config.parquet if config.parquet is not None else config.csv
    assert locations is not None
    patterns = [locations] if isinstance(locations, str) else list(locations)
    files = find_files(patterns, [], in_folder=data_files if columns.kind == "parquet" else _csv_files)
    if not files:
        raise InputError(
            "no file matches", where=columns.files_key, got=", ".join(patterns), wanted=f"{columns.kind} files"
        )
    tables = [read_file(file, columns) for file in files]
    try:
        return pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    except pa.ArrowException as error:
        raise InputError(
            "the files do not have the same columns", where=columns.files_key, got=first_line(error)
        ) from error


def _csv_files(paths: Sequence[str]) -> list[str]:
    return [path for path in paths if path.endswith(".csv")]


def typed_rows(table: Any, config: GroupedConfig) -> Table:
    """Return the columns in their roles. Raises InputError naming the column and what is wrong with it."""
    if not table.num_rows:
        raise InputError("there are no rows", where="data", wanted="one row per example")
    rows = typed(table, _columns_of(config))
    if config.split is not None:
        _check_parts(rows.roles["split"], config.split)
    return rows


def _check_parts(values: Texts, column: str) -> None:
    present, where = names_of(values), f"data.split, column {column}"
    unknown = sorted(set(present) - set(PART_NAMES))
    if unknown:
        raise InputError(
            "a row belongs to no part",
            where=where,
            got=listed(unknown),
            wanted=" | ".join(PART_NAMES),
            remedy="rename the parts, or leave out data.split",
        )
    for part in ("train", "test"):
        if part not in present:
            raise InputError(
                f"no row belongs to the part {part!r}",
                where=where,
                got=", ".join(present),
                wanted="train and test, and validation or a share of train for it",
            )


# ----------------------------------------------------------------------------------------------------- parts and ids


def split_and_encode(table: Table, config: GroupedConfig, seed: int) -> GroupedTask:
    """Return the task of a seed.

    Raises InputError if a part has no rows, a group has no training rows, or the label has one class there.
    """
    assert table.groups is not None
    parts = _parts(table, table.groups, config, seed)
    train = table.take(parts == "train")
    encoder = RowEncoder.of(TableSummary.of(train, _columns_of(config)))
    labels, groups = encoder.label_names, encoder.group_names
    if len(labels) < 2:
        raise InputError(
            "the label has one class only in the training rows",
            where=f"data.label, column {config.label}",
            got=", ".join(labels),
            wanted="two classes or more",
        )
    _require_in_train(table.labels, labels, parts, "label", "class")
    _require_in_train(table.groups, groups, parts, "group", "group")
    warnings = list(_unknown_categories(table, encoder))
    spurious, spurious_names = table.roles.get("spurious"), _spurious_names(table, train, labels)
    if spurious is not None and not spurious_names:
        message = "alignment is not measured: the spurious attribute and the label have different numbers of values"
        warnings.append({"code": "no_alignment", "message": message})
    records = encoder.encode(table)
    whole = GroupedRows(
        records["features"],
        records["label"],
        records["group"],
        ids_in(spurious, spurious_names) if spurious is not None and spurious_names else None,
        np.arange(len(table)),
    )
    train_rows, validation, test = (whole.take(np.flatnonzero(parts == part)) for part in PART_NAMES)
    names = _feature_names(config, encoder)
    return GroupedTask(train_rows, validation, test, labels, groups, spurious_names, names, warnings)


def _parts(table: Table, groups: Texts, config: GroupedConfig, seed: int) -> Texts:
    """Return the part of every row. What the table does not say is drawn within each group."""
    named = table.roles.get("split")
    parts = np.full(len(table), "train", dtype="<U10") if named is None else named.astype("<U10")
    draws = np.random.default_rng([seed, len(table)])
    if named is None:
        _set_aside(parts, groups, "test", config.test, draws)
    if "validation" not in parts:
        _set_aside(parts, groups, "validation", config.validation, draws)
    return parts


def _set_aside(parts: Texts, groups: Texts, part: str, share: float, draws: np.random.Generator) -> None:
    """Move a share of every group's training rows to ``part``, in place. Raises InputError if a group has too few."""
    for group in np.unique(groups[parts == "train"]):
        rows = np.flatnonzero((parts == "train") & (groups == group))
        count = math.ceil(share * len(rows))
        if count == len(rows):
            raise InputError(
                f"a group has too few training rows to set some aside for {part}",
                where=f"data.group, group {group}",
                got=f"{len(rows)} rows, of which {share:g} would be {count}",
                wanted="2 rows or more of every group",
                remedy=f"name a split column that has {part} rows, or merge the group with another one",
            )
        parts[draws.permutation(rows)[:count]] = part


def _require_in_train(values: Texts, names: Sequence[str], parts: Texts, key: str, what: str) -> None:
    """Raise InputError if another part has a value that is not among ``names``, those of the training part."""
    for part in PART_NAMES[1:]:
        unknown = sorted(set(values[parts == part].tolist()) - set(names))
        if unknown:
            raise InputError(
                f"a {what} has no training rows" if what == "group" else f"a {what} occurs in no training row",
                where=f"data.{key}, part {part}",
                got=listed(unknown),
                wanted=f"one of the {len(names)} of the training rows: {listed(names)}",
                remedy=f"leave the rows out, or merge the {what} with another one",
            )


def _unknown_categories(table: Table, encoder: RowEncoder) -> Iterator[dict[str, Any]]:
    for name, values in table.categorical.items():
        unknown = int((ids_in(values, encoder.categories[name]) < 0).sum())
        if unknown:
            message = f"{unknown} rows of the other parts have a value of {name} that no training row has: all zeros"
            yield {"code": "unknown_category", "message": message, "column": name, "rows": unknown}


def _feature_names(config: GroupedConfig, encoder: RowEncoder) -> tuple[str, ...]:
    names = list(config.numeric)
    if config.features is not None:
        names = [f"{config.features}.{place}" for place in range(len(encoder.mean))]
    return (*names, *(f"{name}={value}" for name, values in encoder.categories.items() for value in values))


def _spurious_names(table: Table, train: Table, labels: Sequence[str]) -> tuple[str, ...]:
    """Return the attribute's values, each at the position of the label with which it occurs most."""
    if "spurious" not in table.roles:
        return ()
    values = names_of(train.roles["spurious"])
    if len(values) != len(labels) or set(table.roles["spurious"].tolist()) - set(values):
        return ()
    counts = np.zeros((len(labels), len(values)))
    np.add.at(counts, (ids_in(train.labels, labels), ids_in(train.roles["spurious"], values)), 1)
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0, keepdims=True) / counts.sum()
    _, places = linear_sum_assignment(expected - counts)
    return tuple(values[place] for place in places)


# --------------------------------------------------------------------------------------------------------------- digits

LABELS = ("0-4", "5-9")
PATCHES = ("no patch", "patch")
PATCH = 2
"""The patch is a square of this many pixels by as many."""
BRIGHT = 16.0
TRAIN, VALIDATION = 1000, 300
"""Rows of these parts; the other 497 are the test part."""


def digits_task(config: DigitsConfig, seed: int) -> GroupedTask:
    """Return the digits task of a seed, which draws the parts and patches. A group is a label with or without patch.

    The label is whether a digit is 5 or more. A bright square in the upper left corner, where digits have no ink, tells
    the label in 95 % of the training rows by default. In the validation and test rows it is there at random, so that
    every group has enough rows to be judged by. A model that reads the patch is right on most training rows and wrong
    where the patch misleads.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = np.array(bunch.images, dtype=np.float64), (bunch.target >= 5).astype(np.int64)
    draws = np.random.default_rng([seed, len(labels)])
    in_parts = np.split(draws.permutation(len(labels)), [TRAIN, TRAIN + VALIDATION])
    in_train = np.isin(np.arange(len(labels)), in_parts[0])
    agrees = draws.random(len(labels)) < np.where(in_train, config.correlation, 0.5)
    patch = np.where(agrees, labels, 1 - labels)
    images[:, :PATCH, :PATCH] = BRIGHT * patch[:, None, None]
    pixels = images.reshape(len(labels), -1)
    mean = pixels[in_train].mean(axis=0)
    deviation = without_rounding(pixels[in_train].std(axis=0), mean)
    features = standardised(pixels, mean, deviation).astype(np.float32)
    whole = GroupedRows(features, labels, 2 * labels + patch, patch, np.arange(len(labels)))
    groups = tuple(f"{label}|{value}" for label in LABELS for value in PATCHES)
    names = tuple(f"pixel {row},{column}" for row in range(8) for column in range(8))
    train, validation, test = (whole.take(rows) for rows in in_parts)
    return GroupedTask(train, validation, test, LABELS, groups, PATCHES, names)
