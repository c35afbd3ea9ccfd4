"""Columns of rows and tables: dotted paths into structs, the ``where`` filter, and the text of a row.

A column whose own name has dots in it wins over a path into a struct.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
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


def row_text(row: Mapping[str, Any], pool: Pool, counts: Counter[str], place: Callable[[], str]) -> str | None:
    """The text of a row; None (and counted) if ``where`` leaves it out or it is null or no valid Unicode.

    ``place()`` names the row in errors. Raises InputError where the text column is missing or is no text.
    """
    if not all(_as_text(value_at(row, path)) == wanted for path, wanted in pool.config.where.items()):
        counts["filtered"] += 1
        return None
    value = value_at(row, pool.config.text)
    if value is MISSING:
        raise missing_column(pool, "text", row, place())
    if value is None:
        counts["skipped_empty"] += 1
        return None
    if not isinstance(value, str):
        raise _not_text(pool, type(value).__name__, place())
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate
        counts["skipped_not_utf8"] += 1
        return None
    return value


def table_texts(table: Any, pool: Pool, counts: Counter[str]) -> Iterator[str]:
    """The texts of a table's rows that ``where`` keeps and that are valid UTF-8; ``check_schema`` has passed."""
    filters = [(_column(table, path).to_pylist(), wanted) for path, wanted in pool.config.where.items()]
    texts = _column(table, pool.config.text)
    if not pa.types.is_large_binary(texts.type) and not pa.types.is_binary(texts.type):
        texts = texts.cast(pa.large_string()).cast(pa.large_binary())
    for position, scalar in enumerate(texts):
        if not all(_as_text(values[position]) == wanted for values, wanted in filters):
            counts["filtered"] += 1
            continue
        data = scalar.as_py()
        if data is None:
            counts["skipped_empty"] += 1
            continue
        try:
            yield data.decode()
        except UnicodeDecodeError:
            counts["skipped_not_utf8"] += 1


def check_schema(schema: Any, pool: Pool, place: str) -> None:
    """Raise InputError unless an Arrow schema has the text column, as text, and the columns of ``where``."""
    for path in pool.config.where:
        if _field_type(schema, path) is None:
            raise missing_column(pool, "where", schema.names, place, path)
    kind = _field_type(schema, pool.config.text)
    if kind is None:
        raise missing_column(pool, "text", schema.names, place)
    held = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not any(is_kind(held) for is_kind in _TEXT_TYPES):
        raise _not_text(pool, str(kind), place)


def missing_column(pool: Pool, field: str, columns: Iterable[str], place: str, column: str | None = None) -> InputError:
    return InputError(
        "a column is missing",
        where=pool.key(field),
        got=f"{column or pool.config.text}, but {place} has the columns {', '.join(sorted(columns)) or '(none)'}",
        wanted="the name of a column; dots reach into structs",
    )


def _not_text(pool: Pool, kind: str, place: str) -> InputError:
    return InputError(
        "a column holds no text", where=pool.key("text"), got=f"{pool.config.text}: {kind} in {place}", wanted="text"
    )


_TEXT_TYPES = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
)


def _field_type(schema: Any, path: str) -> Any | None:
    """The Arrow type at a path in a schema or struct type; None where there is none."""
    if path in schema.names:
        return schema.field(path).type
    head, dot, rest = path.partition(".")
    if not dot or head not in schema.names or not pa.types.is_struct(schema.field(head).type):
        return None
    return _field_type(schema.field(head).type, rest)


def _column(table: Any, path: str) -> Any:
    if path in table.schema.names:
        return table.column(path)
    head, *inner = path.split(".")
    return pc.struct_field(table.column(head), inner)


def _as_text(value: Any) -> str | None:
    """A value as the run file writes it: text as it is, numbers and booleans as in JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, bool | int | float) else None
