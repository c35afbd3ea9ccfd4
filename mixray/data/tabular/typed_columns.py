"""Columns of tables as arrays: numbers, lists of numbers, classes. What a column does not hold is an InputError.

``key``: the dotted key of the run file that names the column.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixray.errors import InputError

MISSING = "(missing)"
"""The value of a categorical column where there is none."""
ROUNDING = 1e-13
"""A deviation below so much of the mean is rounding."""
LARGEST = 1e100
"""Of numbers: the squares of larger ones, summed, may be none."""
Texts = NDArray[np.str_]


def names_of(values: Texts) -> tuple[str, ...]:
    """The values that occur, sorted."""
    return tuple(np.unique(values).tolist())


def ids_in(values: Texts, names: tuple[str, ...]) -> NDArray[np.int64]:
    """Places in ``names``; -1 for a value that is not there."""
    order = np.argsort(np.array(names))
    places = np.searchsorted(np.array(names)[order], values).clip(max=len(names) - 1)
    found = order[places]
    return np.where(np.array(names)[found] == values, found, -1).astype(np.int64)


def without_rounding(deviation: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """The columns' deviations, 0 for those of constant columns, whose means are not exact."""
    return np.where(deviation > ROUNDING * np.abs(mean), deviation, 0.0)


def check_columns(present: Iterable[str], named: Mapping[str, Iterable[str]], place: str) -> None:
    """Raise InputError for a column that is missing or stands twice. ``named``: dotted key of the run file -> the
    columns it names."""
    known = Counter(present)
    for key, names in named.items():
        for name in names:
            if known[name] > 1:
                raise InputError(
                    "a column stands twice", where=key, got=f"{name}, in {place}", wanted="columns of different names"
                )
            if name not in known:
                raise InputError(
                    "a column is missing",
                    where=key,
                    got=f"{name}, but {place} has the columns {', '.join(sorted(known)) or '(none)'}",
                    wanted="the name of a column",
                )


def numbers(table: Any, name: str, key: str) -> NDArray[np.float64]:
    column = table.column(name)
    kind = column.type
    are_numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if not (are_numbers or pa.types.is_null(kind)):
        raise InputError(
            "a numeric column does not hold numbers",
            where=f"{key}, column {name}",
            got=f"{kind}, for instance {_first_value(column)!r}",
            wanted="integers, floating-point numbers or booleans",
            remedy="name it under categorical, or mend the column",
        )
    values: NDArray[np.float64] = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    _refuse_no_numbers(values[:, None], f"{key}, column {name}")
    return values


def lists(table: Any, name: str, key: str) -> NDArray[np.float64]:
    column = table.column(name).combine_chunks()
    kind, where = column.type, f"{key}, column {name}"
    are_lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    hold_numbers = are_lists and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))
    wanted = "lists of numbers, all of one length"
    if not hold_numbers:
        raise InputError("the features are not lists of numbers", where=where, got=str(kind), wanted=wanted)
    if column.null_count:
        raise InputError("a row has no features", where=where, got=f"{column.null_count} missing", wanted=wanted)
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) != 1 or not lengths[0]:
        raise InputError(
            "the features differ in length", where=where, got=f"lengths {sorted(lengths)[:5]}", wanted=wanted
        )
    flat = pc.cast(column.flatten(), pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    values: NDArray[np.float64] = flat.reshape(len(column), lengths[0])
    _refuse_no_numbers(values, where)
    return values


def _refuse_no_numbers(values: NDArray[np.float64], where: str) -> None:
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise InputError(
            "a number is missing or not finite",
            where=f"{where}, row {bad[0]}",
            got=f"{len(bad)} of {len(values)} rows with null, NaN or infinity",
            wanted="a finite number in every row",
            remedy="fill the gaps or drop the rows before; a categorical column may have gaps",
        )
    large = np.flatnonzero((np.abs(values) > LARGEST).any(axis=1))
    if len(large):
        raise InputError(
            "a number is too large",
            where=f"{where}, row {large[0]}",
            got=f"{len(large)} of {len(values)} rows with more than {LARGEST:g}",
            wanted=f"numbers from {-LARGEST:g} to {LARGEST:g}",
            remedy="drop the rows before, or fill them if the number stands for none",
        )


def texts(table: Any, name: str, key: str, *, missing: str | None = None) -> Texts:
    """A column as text. ``missing``: what stands for null; None: null is refused."""
    column = table.column(name)
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    plain = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind)
    if not (plain or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise InputError(
            "a column does not hold classes",
            where=f"{key}, column {name}",
            got=f"{kind}, for instance {_first_value(column)!r}",
            wanted="text, integers or booleans",
            remedy="name it under numeric, or cut it into classes before" if key.endswith("categorical") else None,
        )
    values = column.to_pylist()
    if missing is None and column.null_count:
        raise InputError(
            "a value is missing",
            where=f"{key}, column {name}, row {values.index(None)}",
            got=f"{column.null_count} of {len(values)} rows without one",
            wanted="a value in every row",
            remedy="drop the rows or fill the gaps before",
        )
    return np.array([missing if value is None else _written(value) for value in values], dtype=np.str_)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _first_value(column: Any) -> Any:
    return next((value for value in column.to_pylist()[:100] if value is not None), None)
