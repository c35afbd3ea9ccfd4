"""The prediction cache of a run as one Ray Dataset."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import ray.data

from mixray.cache import read_file
from mixray.errors import InputError
from mixray.runs import MixtureRun
from mixray.store import Artifact, Storage
from mixray.store.target_parts import part_files


def open_cache(run_folder: str, target: str) -> ray.data.Dataset:
    """One row per window of the target's fit part.

    Columns: ``document`` (16 bytes), ``window``, ``count`` (predicted tokens), and per source the proxy's
    log-probability of the window, total nats, and ``<source>.segments``, those of its segments, where stored.

    Lazy: files are read where the data set runs. Connects to Ray as Ray Data does. Raises InputError.
    """
    run = MixtureRun.open(run_folder)
    rows, columns = run.load_cache()
    if target not in rows:
        raise InputError("the run has no such target", where="target", got=target, wanted=f"one of {', '.join(rows)}")
    names = part_files(rows[target], "fit")
    files = ray.data.from_items([{"name": name} for name in names], override_num_blocks=len(names))
    read = partial(_read, storage=run.storage, rows=rows[target], columns=columns[target])
    return files.map_batches(read, batch_size=1, batch_format="pyarrow")


def _read(batch: Any, *, storage: Storage, rows: Artifact, columns: Mapping[str, Artifact]) -> Any:
    (name,) = batch["name"].to_pylist()
    return read_file(storage, name, rows, columns)
