"""Columns of rows and tables by name: dots reach into structs, and a column whose own name has dots in it wins."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mixray.data.pools import Pool
from mixray.errors import InputError

MISSING = object()


def value_at(row: Mapping[str, Any], path: str) -> Any:
    """The value of a column, or MISSING."""
    if path in row:
        return row[path]
    head, dot, rest = path.partition(".")
    inner = row.get(head, MISSING)
    return value_at(inner, rest) if dot and isinstance(inner, Mapping) else MISSING


def type_at(schema: Any, path: str) -> Any | None:
    """The Arrow type of a column in a schema or struct type; None where there is none."""
    if path in schema.names:
        return schema.field(path).type
    head, dot, rest = path.partition(".")
    if not dot or head not in schema.names or not pa.types.is_struct(schema.field(head).type):
        return None
    return type_at(schema.field(head).type, rest)


def column_at(table: Any, path: str) -> Any:
    """The column of a table or record batch, which must be there."""
    if path in table.schema.names:
        return table.column(path)
    head, *inner = path.split(".")
    return pc.struct_field(table.column(head), inner)


def written(value: Any) -> str | None:
    """A value as a run file writes it: text as it is, numbers and booleans as in JSON; None for anything else."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, bool | int | float) else None


def not_text(pool: Pool, column: str, kind: str, place: str) -> InputError:
    return InputError(
        "a column holds no text", where=pool.key("text"), got=f"{column}: {kind} in {place}", wanted="text"
    )


def missing_column(pool: Pool, field: str, path: str, columns: Iterable[str], place: str) -> InputError:
    """``field`` of the pool names the column ``path``, which ``place`` does not have."""
    return InputError(
        "a column is missing",
        where=pool.key(field),
        got=f"{path}, but {place} has the columns {', '.join(sorted(columns)) or '(none)'}",
        wanted="the name of a column; dots reach into structs",
    )
