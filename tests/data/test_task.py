"""Splitting and encoding: parts never mix, and what the encoding knows comes from the training part alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mixray.config.robust import GroupedConfig
from mixray.data.tabular.grouped import split_and_encode
from mixray.data.tabular.tables import Table
from mixray.errors import InputError

ROWS = 200
ROLES = {"label": "labels", "group": "groups", "spurious": "spurious", "split": "splits"}


def rows(**changes: Any) -> Table:
    """A number that identifies its row, a colour, two labels, two attributes."""
    draws = np.random.default_rng(0)
    labels, spurious = draws.choice(["no", "yes"], ROWS), draws.choice(["left", "right"], ROWS)
    values: dict[str, Any] = {
        "numeric": np.arange(ROWS, dtype=np.float64)[:, None],
        "categorical": {"colour": draws.choice(["blue", "red"], ROWS)},
        "labels": labels,
        "groups": np.char.add(labels, spurious),
        "spurious": spurious,
        "splits": None,
    }
    values |= changes
    roles = {role: values[key] for role, key in ROLES.items() if values[key] is not None}
    return Table(values["numeric"], values["categorical"], roles)


def config(**changes: Any) -> GroupedConfig:
    columns = {"numeric": ["number"], "categorical": ["colour"], "label": "y", "group": ["y", "s"], "spurious": "s"}
    return GroupedConfig.model_validate({"parquet": "rows", **columns, **changes})


def all_numbers(*parts: Any) -> np.ndarray:
    return np.concatenate([part.features[:, 0] for part in parts])


@pytest.mark.parametrize("seed", range(3))
def test_every_row_is_in_one_part_and_every_group_in_each(seed: int) -> None:
    task = split_and_encode(rows(), config(), seed)
    parts = [task.train, task.validation, task.test]
    found = np.sort(all_numbers(*parts))
    assert len(found) == ROWS == len(np.unique(found))
    assert all(set(part.group_ids) == set(range(4)) for part in parts)
    shares = [len(part) / ROWS for part in parts]
    assert shares == pytest.approx([0.6, 0.15, 0.25], abs=0.03)


def test_a_seed_draws_the_parts() -> None:
    one, same, other = (split_and_encode(rows(), config(), seed) for seed in (1, 1, 2))
    assert one.train.features.tolist() == same.train.features.tolist()
    assert set(one.test.features[:, 0]) != set(other.test.features[:, 0])


def test_the_tables_own_split_is_kept_and_validation_drawn_from_its_training_rows() -> None:
    splits = np.where(np.arange(ROWS) < 150, "train", "test")
    task = split_and_encode(rows(splits=splits), config(validation=0.2), 0)
    assert len(task.test) == 50
    assert task.test.features[:, 0].min() > all_numbers(task.train, task.validation).max()
    assert len(task.validation) == pytest.approx(30, abs=3)


def test_a_split_with_validation_rows_is_taken_whole() -> None:
    splits = np.array(["train", "validation", "test", "train"] * (ROWS // 4))
    task = split_and_encode(rows(splits=splits), config(), 0)
    assert [len(part) for part in (task.train, task.validation, task.test)] == [100, 50, 50]


def test_numbers_are_standardised_with_the_training_rows_alone() -> None:
    splits = np.repeat(["train", "validation", "test"], [100, 50, 50])
    task = split_and_encode(rows(splits=splits), config(), 0)
    train = np.arange(100.0)
    expected = (np.arange(150.0, 200.0) - train.mean()) / train.std()
    assert task.test.features[:, 0] == pytest.approx(expected, rel=1e-6)
    assert task.train.features[:, 0].mean() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("constant", [7.0, 0.1, 0.0])  # the mean of 0.1s is not 0.1
def test_a_column_that_is_constant_in_training_becomes_zero(constant: float) -> None:
    splits = np.repeat(["train", "validation", "test"], [100, 50, 50])
    numbers = np.where(splits == "test", 5.0, constant)[:, None]
    task = split_and_encode(rows(numeric=numbers, splits=splits), config(), 0)
    assert not any(part.features[:, 0].any() for _, part in task.parts())


def test_a_category_that_no_training_row_has_is_all_zeros_and_counted() -> None:
    splits = np.array(["train", "validation", "test", "train"] * (ROWS // 4))
    colours = rows().categorical["colour"].astype("<U8")
    colours[2] = "green"
    task = split_and_encode(rows(splits=splits, categorical={"colour": colours}), config(), 0)
    assert task.feature_names == ("number", "colour=blue", "colour=red")
    assert task.test.features[0, 1:].tolist() == [0, 0]
    assert (task.test.features[1:, 1:].sum(axis=1) == 1).all()
    (warning,) = task.warnings
    assert (warning["code"], warning["column"], warning["rows"]) == ("unknown_category", "colour", 1)


def test_the_spurious_values_stand_where_the_labels_are_that_they_go_with() -> None:
    labels = np.array(["no", "yes"] * (ROWS // 2))
    spurious = np.where(labels == "no", "right", "left")
    spurious[:40] = np.where(labels[:40] == "no", "left", "right")
    groups = np.char.add(labels, spurious)
    task = split_and_encode(rows(labels=labels, spurious=spurious, groups=groups), config(), 0)
    assert (task.label_names, task.spurious_names) == (("no", "yes"), ("right", "left"))
    assert task.train.spurious is not None
    assert (task.train.spurious == task.train.labels).mean() > 0.7


def test_without_as_many_spurious_values_as_labels_there_is_no_alignment() -> None:
    spurious = np.array(["a", "b", "c", "a"] * (ROWS // 4))
    task = split_and_encode(rows(spurious=spurious), config(), 0)
    assert task.spurious_names == ()
    assert task.train.spurious is None
    assert [warning["code"] for warning in task.warnings] == ["no_alignment"]


def split_at(row: int) -> np.ndarray:
    """Training rows before ``row``, then test and validation rows in turn."""
    return np.array(["train"] * row + ["test", "validation"] * ((ROWS - row) // 2))


def test_a_label_with_one_class_in_the_training_rows_is_refused() -> None:
    labels = np.array(["no"] * 100 + ["yes"] * 100)
    with pytest.raises(InputError, match="the label has one class only in the training rows") as caught:
        split_and_encode(rows(labels=labels, splits=split_at(100)), config(), 0)
    assert (caught.value.where, caught.value.got) == ("data.label, column y", "no")


@pytest.mark.parametrize(
    ("changes", "what", "where"),
    [
        ({"groups": np.array(["a", "b"] * 50 + ["c"] * 100)}, "a group has no training rows", "data.group, part"),
        ({"labels": np.array(["no", "yes"] * 50 + ["maybe"] * 100)}, "a class occurs in no training row", "data.label"),
    ],
)
def test_what_only_other_parts_have_is_refused_by_name(changes: dict[str, Any], what: str, where: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        split_and_encode(rows(splits=split_at(100), **changes), config(), 0)
    assert where in str(caught.value.where)
    assert repr("c" if "groups" in changes else "maybe") in str(caught.value.got)


def test_a_group_too_small_to_be_split_is_refused() -> None:
    groups = np.array(["large"] * (ROWS - 1) + ["tiny"])
    with pytest.raises(InputError, match="too few training rows to set some aside for test") as caught:
        split_and_encode(rows(groups=groups), config(), 0)
    assert caught.value.where == "data.group, group tiny"


def test_a_group_that_the_test_part_lacks_is_told() -> None:
    splits = split_at(100)
    groups = np.array(["a", "b"] * 50 + ["a"] * 100)
    task = split_and_encode(rows(splits=splits, groups=groups), config(), 0)
    assert [(warning["code"], warning["part"]) for warning in task.warnings] == [
        ("group_without_rows", "validation"),
        ("group_without_rows", "test"),
    ]
