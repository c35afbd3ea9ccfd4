"""Checks of a table of log-probabilities, row weights and shares. A message names the rows of a user's mistake."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixray.errors import InputError

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]

SHARES_TOLERANCE = 1e-6
"""How far from 1 the sum of given shares may be: they may have been written with few digits."""


def checked_log_probs(log_probs: ArrayLike) -> NDArray[np.floating]:
    """Return a float array ``(rows, sources)`` with at least one of each. Raises InputError, for NaN and +inf too."""
    table = checked_table(log_probs)
    require_numbers(row_maxima(table))
    return table


def checked_table(log_probs: ArrayLike) -> NDArray[np.floating]:
    """Return a float array ``(rows, sources)`` with at least one of each, of any values. Raises InputError."""
    table = np.asarray(log_probs)
    if table.ndim != 2 or 0 in table.shape or table.dtype.kind not in "fiu":
        raise InputError(
            "log_probs: a table of numbers is needed",
            got=f"shape {table.shape}, dtype {table.dtype}",
            wanted="(rows, sources), nats",
        )
    if table.dtype.kind != "f":
        table = table.astype(np.float64)
    return table


def row_maxima(table: NDArray[np.floating]) -> Vector:
    """Return the largest entry of every row, ``(rows,)``, NaN where there is one."""
    if table.shape[1] > 32:  # along a short axis numpy's reduction is slow, and columns are faster
        return np.asarray(table.max(axis=1), np.float64)
    largest = table[:, 0].astype(np.float64)
    for column in table.T[1:]:
        np.maximum(largest, column, out=largest)
    return largest


def require_numbers(row_max: Vector, first: int = 0) -> None:
    """Raise InputError, naming rows, where the largest entry of a row is NaN or +inf; ``first``: the first row's
    number."""
    refuse_rows(np.isnan(row_max), "hold NaN", first)
    refuse_rows(np.isposinf(row_max), "hold +inf", first)


def checked_row_weights(row_weights: ArrayLike | None, rows: int) -> Vector:
    """Return row weights, float64 ``(rows,)``, 1/rows each by default. Raises InputError unless all are finite and >=
    0, and some row counts."""
    if row_weights is None:
        return np.full(rows, 1 / rows)
    weights = np.asarray(row_weights, dtype=np.float64)
    if weights.shape != (rows,):
        raise InputError("row_weights: one weight per row is needed", got=f"shape {weights.shape}", wanted=f"({rows},)")
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if bad.size:
        raise InputError(
            f"row_weights: the weight of {name_rows(bad)} is not a valid weight",
            got=weights[bad[0]],
            wanted="finite, >= 0",
        )
    if not weights.any():
        raise InputError("row_weights: all weights are 0", wanted="at least one row that counts")
    return weights


def checked_shares(name: str, shares: ArrayLike, sources: int) -> Vector:
    """Return shares, float64 ``(sources,)``, scaled to sum to 1. Raises InputError unless they are >= 0 and their sum
    is within 1e-6 of 1."""
    values = np.asarray(shares, dtype=np.float64)
    if values.shape != (sources,) or not (values >= 0).all() or not abs(values.sum() - 1) <= SHARES_TOLERANCE:
        raise InputError(f"{name}: not valid shares", got=values, wanted=f"{sources} numbers >= 0 that sum to 1")
    scaled: Vector = values / values.sum()
    return scaled


def name_rows(rows: NDArray[np.intp]) -> str:
    listed = ", ".join(str(row) for row in rows[:8])
    return f"row{'s' if rows.size > 1 else ''} {listed}" + (f", ... ({rows.size} in all)" if rows.size > 8 else "")


def refuse_rows(bad: Mask, fault: str, first: int = 0) -> None:
    """Raise InputError where a row is bad; ``first``: the number of the mask's first row."""
    rows = first + np.flatnonzero(bad)
    if rows.size:
        raise InputError(
            f"log_probs: some rows {fault}",
            got=name_rows(rows),
            wanted="finite log-probabilities in nats; -inf for some sources only",
            remedy="score these rows again or leave them out",
        )
