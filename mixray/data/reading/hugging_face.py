"""Reading Hugging Face data sets, from a folder or the hub.

A map-style data set is downloaded whole and read by ranges of rows, a streaming one by shards. Without a network,
files that were downloaded before are used again. ``datasets`` and ``huggingface_hub`` are slow to import, so they are
imported where they are used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from mixray.data.pools import Pool
from mixray.data.reading.row_texts import TABLE_ROWS, Place, Row, check_row, check_schema, table_rows, top_columns
from mixray.errors import InputError, first_line


@dataclass(frozen=True)
class DatasetRef:
    """Which data set to load, and how.

    ``path``: the absolute path of a folder, or a name on the hub. ``subset``: the configuration name on the hub.
    ``revision``: the commit on the hub, or for a folder the fingerprint of the list of its files.
    """

    path: str
    is_local: bool
    subset: str | None
    split: str
    revision: str
    streaming: bool


class HubUnreachableError(InputError):
    """The hub did not answer, so it is unknown whether it has what was asked for."""


def snapshot(
    name: str, kind: Literal["model", "dataset"], revision: str | None, patterns: Sequence[str], where: str
) -> Path:
    """Download the files of a repository on the hub that match ``patterns``, and return their folder.

    The folder's name is the commit. ``where``: the key of the run file, for error messages. Raises InputError if the
    hub does not have the repository, HubUnreachableError if the hub does not answer.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(name, repo_type=kind, revision=revision, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError) as error:
        raise InputError(
            f"the {kind} is not found on the Hugging Face hub",
            where=where,
            got=f"{name} ({first_line(error)})",
            wanted="a folder, or a name on the hub that this user may read",
        ) from error
    except OSError as error:
        raise HubUnreachableError(
            "the Hugging Face hub cannot be reached",
            where=where,
            got=f"{name} ({first_line(error)})",
            wanted="a folder, or a way to reach the hub",
            remedy="set HF_HUB_OFFLINE=1 to use what was downloaded before",
        ) from error


def local_folder(pool: Pool) -> Path | None:
    """Return the pool's folder, or None if it is a name on the hub. Raises InputError if it is neither."""
    assert pool.config.dataset is not None
    folder = Path(pool.config.dataset).expanduser().absolute()
    if folder.is_dir():
        return folder
    if re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", pool.config.dataset):
        return None
    raise InputError(
        "a data set is missing",
        where=pool.files_key,
        got=pool.config.dataset,
        wanted="a folder that exists or a name on the Hugging Face hub",
    )


def hub_revision(pool: Pool) -> str:
    """Return the commit that the pool's revision names on the hub. Without a network, the hub's last answer counts.

    Raises InputError if there is no such revision, HubUnreachableError if the hub does not answer.
    """
    if pool.config.revision and re.fullmatch(r"[0-9a-f]{40}", pool.config.revision):
        return pool.config.revision
    return snapshot(str(pool.config.dataset), "dataset", pool.config.revision, ["README.md"], pool.files_key).name


def dataset_rows(ref: DatasetRef, start: int, stop: int, pool: Pool) -> Iterator[tuple[Row | None, Place]]:
    """Yield rows [start, stop) of a map-style data set, or all rows of shard ``start`` of a streaming one.

    Each comes with a function that names its place for error messages. A row that is not UTF-8 is None.
    """
    rows = _load(ref, pool)
    if rows.features is not None:
        check_schema(rows.features.arrow_schema, pool, ref.path)
        rows = rows.select_columns(top_columns(pool, rows.column_names))
    if ref.streaming:
        for row in rows.shard(num_shards=rows.num_shards, index=start):
            yield row, lambda: ref.path
        return
    rows = rows.with_format("arrow")
    for first in range(start, stop, TABLE_ROWS):
        for row in table_rows(rows[first : min(first + TABLE_ROWS, stop)], pool):
            yield row, lambda: ref.path


def row_ranges(ref: DatasetRef, pool: Pool, part_bytes: int) -> list[tuple[int, int]]:
    """Return the ranges that ``dataset_rows`` takes: of rows of about ``part_bytes`` together, or of single shards."""
    rows = _load(ref, pool)
    if ref.streaming:
        return [(index, index + 1) for index in range(rows.num_shards)]
    step = max(1, part_bytes * len(rows) // max(1, rows.data.nbytes))
    return [(first, min(first + step, len(rows))) for first in range(0, len(rows), step)]


def check_local(ref: DatasetRef, pool: Pool) -> None:
    """Raise InputError unless the data set has the split and its first row the columns that the run file names."""
    row = next(iter(_load(replace(ref, streaming=True), pool)), None)
    if row is not None:
        check_row(row, pool, lambda: ref.path)


def _load(ref: DatasetRef, pool: Pool) -> Any:
    """Return a ``datasets.Dataset`` or, streaming, ``IterableDataset``. Raises InputError if it cannot be loaded."""
    from datasets.exceptions import DatasetsError

    try:
        return _load_once(ref)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:  # RuntimeError: it needs a loading script
        raise InputError(
            "a data set cannot be loaded",
            where=pool.files_key,
            got=f"{ref.path}, split {ref.split} ({first_line(error)})",
            wanted="a folder of save_to_disk or of data files, or a hub name, with this split",
        ) from error


@lru_cache(maxsize=8)
def _load_once(ref: DatasetRef) -> Any:
    """Load what ``save_to_disk`` wrote (several splits, or one), or else data files in a folder or on the hub."""
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
        revision = None if ref.is_local else ref.revision
        return datasets.load_dataset(ref.path, ref.subset, split=ref.split, revision=revision, streaming=ref.streaming)
    return rows.to_iterable_dataset(num_shards=1) if ref.streaming else rows
