"""From the run file's ``data`` to the task of a seed: read by the driver, split and encoded where it is needed."""

from __future__ import annotations

import hashlib

import pyarrow as pa

from mixray.config.robust import GroupedConfig
from mixray.data.tabular.digits import digits_task
from mixray.data.tabular.examples import examples_of, read_examples
from mixray.data.tabular.task import GroupedTask, split_and_encode
from mixray.store import Artifact, Artifacts, Storage, encode
from mixray.store.tables import read_table

TABLE = "rows.parquet"


def keep_rows(config: GroupedConfig, artifacts: Artifacts) -> Artifact | None:
    """The rows as an artifact, which every worker can read; None where the task is made of what is installed.

    Raises InputError for what is wrong with the files and their columns.
    """
    if config.digits is not None:
        return None
    table = read_examples(config)
    examples_of(table, config)
    data = encode(table.cast(_plain(table.schema)))
    id = hashlib.sha256(data).hexdigest()
    if (known := artifacts.find("rows_table", id)) is not None:
        return known
    draft = artifacts.draft("rows_table", id)
    return draft.publish({TABLE: draft.write(TABLE, data)}, {"rows": table.num_rows, "columns": table.column_names})


def task_of(config: GroupedConfig, rows: Artifact | None, storage: Storage, seed: int) -> GroupedTask:
    """The task of a seed; ``rows`` from ``keep_rows``. Raises InputError."""
    if rows is None:
        assert config.digits is not None
        return digits_task(config.digits, seed)
    return split_and_encode(examples_of(read_table(storage, rows.files[TABLE]), config), config, seed)


def _plain(schema: pa.Schema) -> pa.Schema:
    """Without what a file's writer said about itself, which is no part of the rows."""
    return schema.remove_metadata()
