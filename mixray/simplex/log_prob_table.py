"""The tables that ``solve`` accepts: numpy arrays, PyTorch tensors, pandas and polars data frames.

None of these packages but numpy is imported: an object with a method ``detach`` is a tensor, and one with ``columns``
is a data frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixray.errors import InputError
from mixray.simplex.checks import checked_table

ROUNDING = 1e-3
"""How far above 0, in nats, the rounding of a log-softmax may put a log-probability."""


@dataclass(frozen=True, eq=False)
class LogProbTable:
    """The log-probability of each row under each source's model, in nats, float ``(rows, sources)``.

    ``source_names``: the column names of a data frame, empty for other tables.
    """

    values: NDArray[np.floating]
    source_names: tuple[str, ...]

    @classmethod
    def of(cls, log_probs: Any, *, densities: bool = False, row_weights: ArrayLike | None = None) -> Self:
        """Check a table and take the names of its columns. Rows of weight 0 may hold anything.

        ``densities``: whether the values are log-densities, which may be above 0.

        Raises InputError for what is not a table of numbers, for two columns with the same name and, without
        ``densities``, for values above 0.
        """
        columns = getattr(log_probs, "columns", None)
        names = () if columns is None else tuple(str(column) for column in columns)
        if len(set(names)) < len(names):
            raise InputError(
                "log_probs: two columns have the same name", got=", ".join(names), wanted="one name per source"
            )
        values = checked_table(plain_array(log_probs))
        if not densities:
            weights = None if row_weights is None else np.asarray(row_weights)
            all_count = weights is None or weights.shape != (len(values),)  # other shapes are refused later
            _require_no_positive(values if weights is None or all_count else values[weights != 0])
        return cls(values, names)


def plain_array(values: Any) -> Any:
    """Return a tensor or a data frame as a numpy array, and anything else as it is.

    A tensor is detached from its gradient and moved to main memory; bfloat16, which numpy lacks, becomes float32.
    """
    if hasattr(values, "detach"):
        tensor = values.detach().cpu()
        return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    return values.to_numpy() if hasattr(values, "to_numpy") else values


def _require_no_positive(values: NDArray[np.floating]) -> None:
    """Raise InputError for values above 0, with a guess at what the table holds instead of log-probabilities."""
    if not len(values):
        return
    largest = float(values.max())
    if not 0 < largest < np.inf:  # NaN and +inf are refused later, with their rows
        return
    smallest = float(values.min())
    if largest <= ROUNDING and smallest < 0:
        return
    if smallest >= 0:
        mistake, remedy = (
            ("look like probabilities", "pass their logarithms: np.log(probabilities)")
            if largest <= 1
            else ("look like negated log-likelihoods (losses)", "pass them negated: -losses")
        )
    else:
        mistake, remedy = "are above 0, which no log-probability is", "densities=True where they are log-densities"
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    raise InputError(
        f"log_probs: the values {mistake}",
        got=f"{smallest:g} to {largest:g}; the largest in row {row}, column {column}",
        wanted="log-probabilities in nats, at most 0",
        remedy=remedy,
    )
