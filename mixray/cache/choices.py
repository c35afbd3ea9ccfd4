"""Which option of a multiple-choice item every model finds the likeliest.

The rows of the options are those of the target's held-out items, with two columns more: ``option``, the number of the
option in its item, and ``is_right``. An option may have several rows, as a document has several windows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mixray.cache.table import read_columns, read_file
from mixray.store import Artifact, Storage
from mixray.store.target_parts import OPTIONS, document_ids, part_files

Finds = NDArray[np.bool_]


def read_choices(storage: Storage, rows: Artifact, columns: Mapping[str, Artifact]) -> dict[str, Finds]:
    """Return whether each model finds the right option of each item, bool (items, models), for two ways to rank them.

    ``accuracy``: by the log-probability of all tokens of an option; ``accuracy_per_token``: by its mean over them. The
    right option is found where its value is above that of every other. ``columns``: model -> its column of the options.
    Raises CorruptedArtifactError as ``read_file`` does.
    """
    tables = []
    for name in part_files(rows, OPTIONS):
        table = read_file(storage, name, rows, columns)
        for column in ("option", "is_right"):
            table = table.append_column(column, read_columns(storage, rows, name, [column])[column])
        tables.append(table)
    joined = pa.concat_tables(tables)
    items = np.unique(document_ids(joined), return_inverse=True)[1].astype(np.int64)
    keys = np.stack([items, joined["option"].to_numpy()], axis=1)
    keys, first, option = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    log_probs = np.zeros((len(keys), len(columns)))
    np.add.at(log_probs, option, np.stack([joined[model].to_numpy() for model in columns], axis=1))
    tokens = np.bincount(option, joined["count"].to_numpy())
    is_right = joined["is_right"].to_numpy()[first]
    return {
        "accuracy": right_options(keys[:, 0], log_probs, is_right),
        "accuracy_per_token": right_options(keys[:, 0], log_probs / tokens[:, None], is_right),
    }


def right_options(items: NDArray[np.int64], values: NDArray[np.float64], is_right: Finds) -> Finds:
    """Return whether the right option of each item has the largest value, bool (items, models).

    ``items``: the item of every option, int64 (options,); ``values``: (options, models); ``is_right``: (options,).
    """
    others = np.full((items.max() + 1, values.shape[1]), -np.inf)
    np.maximum.at(others, items[~is_right], values[~is_right])
    return np.asarray(values[is_right] > others[items[is_right]])
