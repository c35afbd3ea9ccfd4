"""One column: what one model gives each row of one part (fit, held_out) of one target.

A column is an artifact of its own, so a new source adds one without touching the others. It has a file for every file
of the target's rows, each row keyed by (document, window): columns are joined by key, never by arrival order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mixray.errors import InputError
from mixray.store import fingerprint

KEY = ["document", "window"]


def column_id(
    model_id: str, rows_id: str, split: str, *, precision: str, on_gpu: bool, batch_tokens: int, token_log_probs: bool
) -> str:
    """The identity of a column: everything that decides its numbers, rounding included."""
    return fingerprint(["column", 1, model_id, rows_id, split, precision, on_gpu, batch_tokens, token_log_probs])


def column_table(
    rows: pa.Table, log_probs: np.ndarray, token_log_probs: Sequence[np.ndarray] | None, *, model: str, target: str
) -> pa.Table:
    """The column's table for a file of rows.

    ``log_probs``: float64 (rows,), total nats of each row's tokens; ``token_log_probs``: per row float32 (tokens,).
    Raises InputError naming model and document where a value is not finite.
    """
    bad = np.flatnonzero(~np.isfinite(log_probs))
    if bad.size:
        document, window = (rows[name][int(bad[0])].as_py() for name in KEY)
        raise InputError(
            f"{model} gives the target {target!r} a log-probability that is not a finite number",
            where=f"document {document.hex()}, window {window} ({bad.size} such rows in this file)",
            got=float(log_probs[bad[0]]),
            wanted="finite nats",
            remedy="look at the proxy's loss curve; a lower learning rate or float32 precision usually helps",
        )
    columns: dict[str, Any] = {name: rows[name] for name in KEY}
    columns["log_prob"] = pa.array(log_probs, pa.float64())
    if token_log_probs is not None:
        columns["token_log_probs"] = pa.array(
            [values.astype(np.float32) for values in token_log_probs], pa.list_(pa.float32())
        )
    return pa.table(columns)
