"""The ``data`` section of a robust run file: read by the driver, stored, and turned into each seed's task by workers.

The rows come from Parquet or CSV files, or are scikit-learn's handwritten digits with a shortcut built in.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa

from mixray.config.robust import DigitsConfig, GroupedConfig
from mixray.data.reading.locations import find_files
from mixray.data.tabular.encoder import standardised, without_rounding
from mixray.data.tabular.tables import FileKind, Table, Texts, read_file, typed
from mixray.data.tabular.task import PART_NAMES, GroupedRows, GroupedTask, check_groups, columns_of, split_and_encode
from mixray.errors import InputError, first_line
from mixray.store import Artifact, Artifacts, Storage, encode
from mixray.store.tables import read_table

TABLE = "rows.parquet"


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


def read_rows(config: GroupedConfig) -> Any:
    """Return the named columns of all files as one Arrow table.

    Raises InputError where no file matches, a column is missing or a file cannot be read.
    """
    kind: FileKind = "parquet" if config.parquet is not None else "csv"
    locations = config.parquet if config.parquet is not None else config.csv
    assert locations is not None
    key = f"data.{kind}"
    patterns = [locations] if isinstance(locations, str) else list(locations)
    files = find_files(patterns, [], folder_glob=f"**/*.{kind}")
    if not files:
        raise InputError("no file matches", where=key, got=", ".join(patterns), wanted=f"{kind} files")
    tables = []
    for file in files:
        try:
            tables.append(read_file(file, kind, columns_of(config)))
        except (OSError, pa.ArrowException) as error:
            got = f"{file.location} ({first_line(error)})"
            raise InputError("a file cannot be read", where=key, got=got, wanted=f"a whole {kind} file") from error
    try:
        return pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    except pa.ArrowException as error:
        raise InputError("the files do not have the same columns", where=key, got=first_line(error)) from error


def typed_rows(table: Any, config: GroupedConfig) -> Table:
    """Return the columns in their roles. Raises InputError naming the column and what is wrong with it."""
    if not table.num_rows:
        raise InputError("there are no rows", where="data", wanted="one row per example")
    rows = typed(table, columns_of(config))
    if config.split is not None:
        _check_parts(rows.roles["split"], config.split)
    return rows


def _check_parts(values: Texts, name: str) -> None:
    present = np.unique(values)
    other = sorted(set(present.tolist()) - set(PART_NAMES))
    if other:
        raise InputError(
            "a row belongs to no part",
            where=f"data.split, column {name}",
            got=", ".join(map(repr, other[:5])),
            wanted=" | ".join(PART_NAMES),
            remedy="rename the parts, or leave out data.split",
        )
    missing = [part for part in ("train", "test") if part not in present]
    if missing:
        raise InputError(
            f"no row belongs to the part {missing[0]!r}",
            where=f"data.split, column {name}",
            got=", ".join(present.tolist()),
            wanted="train and test, and validation or a share of train for it",
        )


# ------------------------------------------------------------------------------------------------------------- digits

LABELS = ("0-4", "5-9")
PATCHES = ("no patch", "patch")
PATCH = 2
"""Pixels along a side."""
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
    order = draws.permutation(len(labels))
    train, validation, test = np.split(order, [TRAIN, TRAIN + VALIDATION])
    agrees = draws.random(len(labels)) < np.where(np.isin(np.arange(len(labels)), train), config.correlation, 0.5)
    patch = np.where(agrees, labels, 1 - labels)
    images[:, :PATCH, :PATCH] = BRIGHT * patch[:, None, None]
    in_train = np.zeros(len(labels), dtype=bool)
    in_train[train] = True
    pixels = images.reshape(len(labels), -1)
    mean = pixels[in_train].mean(axis=0)
    deviation = without_rounding(pixels[in_train].std(axis=0), mean)
    features = standardised(pixels, mean, deviation).astype(np.float32)
    whole = GroupedRows(features, labels, 2 * labels + patch, patch, np.arange(len(labels)))
    groups = tuple(f"{label}|{value}" for label in LABELS for value in PATCHES)
    names = tuple(f"pixel {row},{column}" for row in range(8) for column in range(8))
    parts = (whole.take(train), whole.take(validation), whole.take(test))
    return check_groups(GroupedTask(parts[0], parts[1], parts[2], LABELS, groups, PATCHES, names))
