"""A classification task for one seed: rows in three parts, encoded with what the training part alone knows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from mixray.config.robust import GroupedConfig
from mixray.data.tabular.examples import SPLITS, Examples
from mixray.data.tabular.typed_columns import Texts, ids_in, names_of, without_rounding
from mixray.errors import InputError

Ids = NDArray[np.int64]
NAMED = 5
"""At most so many values are named in an error."""


@dataclass(frozen=True, eq=False)
class GroupedRows:
    """Encoded rows of one part of a task.

    features: float32 (rows, columns); labels, group_ids: int64 (rows,); spurious: int64 (rows,), None where no spurious
    attribute is named; row_ids: int64 (rows,), the rows' numbers in the whole table.
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
    """Names in the order of their ids; every group has training rows.

    ``spurious_names[k]`` is the attribute's value that goes with label k more than with others in the training rows;
    empty where no attribute is named or where it has another number of values than the label.
    """

    train: GroupedRows
    validation: GroupedRows
    test: GroupedRows
    label_names: tuple[str, ...]
    group_names: tuple[str, ...]
    spurious_names: tuple[str, ...]
    feature_names: tuple[str, ...]
    warnings: list[dict[str, Any]] = field(default_factory=list)

    @property
    def num_groups(self) -> int:
        return len(self.group_names)

    @property
    def training_counts(self) -> Ids:
        """Training rows of each group, int64 (groups,)."""
        return np.bincount(self.train.group_ids, minlength=len(self.group_names))

    def parts(self) -> Iterator[tuple[str, GroupedRows]]:
        yield from zip(SPLITS, (self.train, self.validation, self.test), strict=True)


def split_and_encode(examples: Examples, config: GroupedConfig, seed: int) -> GroupedTask:
    """The task of a seed. Raises InputError where a part or a group of it has no rows, or the label has one class."""
    splits = _splits(examples, config, seed)
    in_train = splits == "train"
    labels = names_of(examples.labels[in_train])
    if len(labels) < 2:
        raise InputError(
            "the label has one class only in the training rows",
            where=f"data.label, column {config.label}",
            got=", ".join(labels),
            wanted="two classes or more",
        )
    groups, spurious = names_of(examples.groups[in_train]), _spurious_names(examples, in_train, labels)
    for values, known, key, what in (
        (examples.labels, labels, "label", "class"),
        (examples.groups, groups, "group", "group"),
    ):
        _refuse_unknown(values, known, splits, key, what)
    features, names, warnings = _encoded(examples, in_train)
    if examples.spurious is not None and not spurious:
        warnings.append(
            {
                "code": "no_alignment",
                "message": "alignment is not measured: the spurious attribute and the label have different numbers of "
                "values",
            }
        )
    whole = GroupedRows(
        features,
        ids_in(examples.labels, labels),
        ids_in(examples.groups, groups),
        ids_in(examples.spurious, spurious) if examples.spurious is not None and spurious else None,
        np.arange(len(examples)),
    )
    train, validation, test = (whole.take(np.flatnonzero(splits == part)) for part in SPLITS)
    return check_groups(GroupedTask(train, validation, test, labels, groups, spurious, names, warnings))


def importance_weights(group_counts: Ids) -> NDArray[np.float64]:
    """Return row weights by group, float64 (groups,), with which all groups weigh the same and the mean weight is 1."""
    shares = group_counts.astype(np.float64) / group_counts.sum()
    weights: NDArray[np.float64] = 1 / (len(shares) * shares)
    return weights


def check_groups(task: GroupedTask) -> GroupedTask:
    """The task. Raises InputError where a group has no training rows; warns of those that the other parts lack."""
    warnings = list(task.warnings)
    for name, part in task.parts():
        empty = np.flatnonzero(np.bincount(part.group_ids, minlength=len(task.group_names)) == 0)
        lacking = ", ".join(task.group_names[group] for group in empty)
        if len(empty) and name == "train":
            raise InputError("a group has no training rows", where=f"data.group, group {lacking}", wanted="one or more")
        if len(empty):
            message = f"the {name} part has no rows of {lacking}: the worst group is found among the others"
            warnings.append({"code": "group_without_rows", "message": message, "part": name})
    return replace(task, warnings=warnings)


def _refuse_unknown(values: Texts, known: tuple[str, ...], splits: Texts, key: str, what: str) -> None:
    for part in SPLITS[1:]:
        unknown = sorted(set(values[splits == part].tolist()) - set(known))
        if unknown:
            raise InputError(
                f"a {what} has no training rows" if what == "group" else f"a {what} occurs in no training row",
                where=f"data.{key}, part {part}",
                got=", ".join(map(repr, unknown[:NAMED])),
                wanted=f"one of the {len(known)} of the training rows: {', '.join(known[:NAMED])}"
                + (", ..." if len(known) > NAMED else ""),
                remedy=f"leave the rows out, or merge the {what} with another one",
            )


# ------------------------------------------------------------------------------------------------------------- splits


def _splits(examples: Examples, config: GroupedConfig, seed: int) -> Texts:
    """The part of every row; what the table does not say is drawn within each group."""
    splits = (
        np.full(len(examples), "train", dtype="<U10") if examples.splits is None else examples.splits.astype("<U10")
    )
    draws = np.random.default_rng([seed, len(examples)])
    if examples.splits is None:
        _set_aside(splits, examples.groups, "test", config.test, draws)
    if "validation" not in splits:
        _set_aside(splits, examples.groups, "validation", config.validation, draws)
    return splits


def _set_aside(splits: Texts, groups: Texts, part: str, share: float, draws: np.random.Generator) -> None:
    """Move a share of every group's training rows to ``part``, in place. Raises InputError where one has too few."""
    for group in np.unique(groups[splits == "train"]):
        rows = np.flatnonzero((splits == "train") & (groups == group))
        count = math.ceil(share * len(rows))
        if count == len(rows):
            raise InputError(
                f"a group has too few training rows to set some aside for {part}",
                where=f"data.group, group {group}",
                got=f"{len(rows)} rows, of which {share:g} would be {count}",
                wanted="2 rows or more of every group",
                remedy=f"name a split column that has {part} rows, or merge the group with another one",
            )
        splits[draws.permutation(rows)[:count]] = part


# ----------------------------------------------------------------------------------------------------------- encoding


def _encoded(examples: Examples, in_train: NDArray[np.bool_]) -> tuple[NDArray[np.float32], tuple[str, ...], list[Any]]:
    """Features float32 (rows, columns), their names, warnings."""
    columns, names, warnings = [], list(examples.numeric_names), []
    if examples.numeric.shape[1]:
        columns.append(standardised(examples.numeric, in_train))
    for name, values in examples.categorical.items():
        known = names_of(values[in_train])
        ids = ids_in(values, known)
        columns.append((ids[:, None] == np.arange(len(known))).astype(np.float32))
        names += [f"{name}={value}" for value in known]
        unknown = int((ids < 0).sum())
        if unknown:
            message = f"{unknown} rows of the other parts have a value of {name} that no training row has: all zeros"
            warnings.append({"code": "unknown_category", "message": message, "column": name, "rows": unknown})
    return np.column_stack(columns), tuple(names), warnings


def standardised(values: NDArray[np.float64], in_train: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(rows, columns), less the training rows' mean, over their standard deviation; a constant column becomes 0."""
    mean = values[in_train].mean(axis=0)
    spread = without_rounding(values[in_train].std(axis=0), mean)
    scaled: NDArray[np.float64] = np.divide(values - mean, spread, out=np.zeros_like(values), where=spread > 0)
    return scaled.astype(np.float32)


def _spurious_names(examples: Examples, in_train: NDArray[np.bool_], labels: tuple[str, ...]) -> tuple[str, ...]:
    """The attribute's values, ordered so that each stands where the label is that it goes with most."""
    if examples.spurious is None:
        return ()
    values = names_of(examples.spurious[in_train])
    if len(values) != len(labels) or set(examples.spurious.tolist()) - set(values):
        return ()
    table = np.zeros((len(labels), len(values)))
    np.add.at(table, (ids_in(examples.labels[in_train], labels), ids_in(examples.spurious[in_train], values)), 1)
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / table.sum()
    _, places = linear_sum_assignment(expected - table)
    return tuple(values[place] for place in places)
