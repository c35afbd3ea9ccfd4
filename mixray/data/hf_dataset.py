"""Hugging Face data sets: a folder or a hub name, map-style by ranges of rows, streaming by shards.

``datasets`` is heavy, so it is imported where it is used.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mixray.data.columns import check_schema, missing_column, row_text, table_texts
from mixray.data.pools import Pool
from mixray.errors import InputError

ROWS = 256


@dataclass(frozen=True)
class DatasetRef:
    """What to load: an absolute folder, or a hub name with a resolved ``revision``."""

    path: str
    subset: str | None
    split: str
    revision: str | None
    streaming: bool

    @property
    def is_local(self) -> bool:
        return self.revision is None


def dataset_ref(pool: Pool) -> DatasetRef:
    """The pool's data set, its revision looked up on the hub if it is none. Raises InputError if it is not found."""
    config = pool.config
    assert config.dataset is not None
    folder = Path(config.dataset).expanduser()
    if folder.is_dir():
        return DatasetRef(str(folder.absolute()), config.subset, config.split, None, config.streaming)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", config.dataset) or config.dataset.startswith("."):
        raise InputError(
            "a data set is missing",
            where=pool.files_key,
            got=config.dataset,
            wanted="a folder that exists or a name on the Hugging Face hub",
        )
    return DatasetRef(config.dataset, config.subset, config.split, _revision(pool), config.streaming)


def load(ref: DatasetRef, pool: Pool) -> Any:
    """A ``datasets.Dataset`` or, streaming, ``IterableDataset``. Raises InputError where it cannot be loaded."""
    from datasets.exceptions import DatasetsError

    try:
        return _load(ref)
    except (OSError, ValueError, DatasetsError) as error:
        raise InputError(
            "a data set cannot be loaded",
            where=pool.files_key,
            got=f"{ref.path}, split {ref.split} ({str(error).strip() or type(error).__name__})",
            wanted="a folder of save_to_disk or of data files, or a hub name, with this split",
        ) from error


def read_rows(ref: DatasetRef, start: int, stop: int, pool: Pool, counts: Counter[str]) -> Iterator[Iterable[str]]:
    """The documents of rows [start, stop) of a map-style data set."""
    rows = load(ref, pool).with_format("arrow")
    check_schema(rows.features.arrow_schema, pool, ref.path)
    for first in range(start, stop, ROWS):
        for text in table_texts(rows[first : min(first + ROWS, stop)], pool, counts):
            yield [text]


def read_shard(ref: DatasetRef, index: int, pool: Pool, counts: Counter[str]) -> Iterator[Iterable[str]]:
    """The documents of one shard of a streaming data set."""
    rows = load(ref, pool)
    _check_columns(rows, pool, ref.path)
    for row in rows.shard(num_shards=rows.num_shards, index=index):
        text = row_text(row, pool, counts, lambda: ref.path)
        if text is not None:
            yield [text]


def row_ranges(ref: DatasetRef, pool: Pool, part_bytes: int) -> list[tuple[int, int]]:
    """Ranges of rows of about ``part_bytes``; of a streaming data set, one range a shard."""
    rows = load(ref, pool)
    if ref.streaming:
        return [(index, index + 1) for index in range(rows.num_shards)]
    step = max(1, part_bytes * len(rows) // max(1, rows.data.nbytes))
    return [(first, min(first + step, len(rows))) for first in range(0, len(rows), step)]


def check_local(ref: DatasetRef, pool: Pool) -> None:
    """Raise InputError unless the data set has its split and the columns that the run file names."""
    rows = load(ref, pool)
    if ref.streaming:
        _check_columns(rows, pool, ref.path)
    else:
        check_schema(rows.features.arrow_schema, pool, ref.path)


def _check_columns(rows: Any, pool: Pool, place: str) -> None:
    """A streaming data set tells its columns only sometimes."""
    columns = rows.column_names
    for field, path in [("text", pool.config.text), *(("where", path) for path in pool.config.where)]:
        if columns is not None and path not in columns and path.partition(".")[0] not in columns:
            raise missing_column(pool, field, columns, place, path)


@lru_cache(maxsize=8)
def _load(ref: DatasetRef) -> Any:
    import datasets

    datasets.disable_progress_bars()
    if ref.is_local and (Path(ref.path) / "dataset_dict.json").exists():
        splits = datasets.load_from_disk(ref.path)
        if ref.split not in splits:
            raise ValueError(f"it has the splits {', '.join(splits)}")
        rows = splits[ref.split]
    elif ref.is_local and (Path(ref.path) / "state.json").exists():
        rows = datasets.load_from_disk(ref.path)
    else:
        return datasets.load_dataset(
            ref.path, ref.subset, split=ref.split, revision=ref.revision, streaming=ref.streaming
        )
    return rows.to_iterable_dataset(num_shards=1) if ref.streaming else rows


def _revision(pool: Pool) -> str:
    """The commit the pool's revision stands for: itself, or what the hub says (one look-up)."""
    if pool.config.revision and re.fullmatch(r"[0-9a-f]{40}", pool.config.revision):
        return pool.config.revision
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(str(pool.config.dataset), revision=pool.config.revision).sha)
    except (OSError, ValueError) as error:
        raise InputError(
            "a data set is not found on the Hugging Face hub",
            where=pool.files_key,
            got=f"{pool.config.dataset} ({str(error).strip() or type(error).__name__})",
            wanted="a folder that exists, or a name on the hub and a way to reach it",
            remedy=f"without a network, give the commit: {pool.key('revision')}: <40 hex digits>",
        ) from error
