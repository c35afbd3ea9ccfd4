"""From rows and tables to texts: the ``where`` filter, the text column or template, and what is no text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pyarrow as pa

from mixray.data.pools import Pool
from mixray.data.reading.columns import MISSING, column_at, missing_column, not_text, type_at, value_at, written
from mixray.data.reading.templates import fill, is_template, named_columns, whole_columns

_TEXT_TYPES = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
)


def row_text(row: Mapping[str, Any], pool: Pool, counts: Counter[str], place: Callable[[], str]) -> str | None:
    """The text of a row; None (and counted) if ``where`` leaves it out or it is null or no valid Unicode.

    ``place()`` names the row in errors. Raises InputError where a column is missing or holds no text.
    """
    if not all(written(value_at(row, path)) == required for path, required in pool.config.where.items()):
        counts["filtered"] += 1
        return None
    value = fill(row, pool, place) if is_template(pool) else value_at(row, pool.config.text)
    if value is MISSING:
        raise missing_column(pool, "text", pool.config.text, row, place())
    if value is None:
        counts["skipped_empty"] += 1
        return None
    if not isinstance(value, str):
        raise not_text(pool, pool.config.text, type(value).__name__, place())
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate
        counts["skipped_not_utf8"] += 1
        return None
    return value


def table_texts(table: Any, pool: Pool, counts: Counter[str], place: str) -> Iterator[str]:
    """The texts of a table's rows; ``check_schema`` has passed. ``place`` names the table in errors."""
    if is_template(pool):
        yield from _filled(table, pool, counts, place)
        return
    filters = [(column_at(table, path).to_pylist(), required) for path, required in pool.config.where.items()]
    texts = column_at(table, pool.config.text)
    if not pa.types.is_large_binary(texts.type) and not pa.types.is_binary(texts.type):
        texts = texts.cast(pa.large_string()).cast(pa.large_binary())
    for position, scalar in enumerate(texts):
        if not all(written(values[position]) == required for values, required in filters):
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
    """Raise InputError unless an Arrow schema has the columns that the run file names, and text for the text."""
    for field, path in named_columns(pool):
        if type_at(schema, path) is None:
            raise missing_column(pool, field, path, schema.names, place)
    kind = type_at(schema, pool.config.text)
    if kind is None:
        return  # a template
    held = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not any(is_kind(held) for is_kind in _TEXT_TYPES):
        raise not_text(pool, pool.config.text, str(kind), place)


def check_row(row: Mapping[str, Any], pool: Pool, place: Callable[[], str]) -> None:
    """Raise InputError unless a row has the columns that the run file names."""
    for field, path in named_columns(pool):
        if value_at(row, path) is MISSING:
            raise missing_column(pool, field, path, row, place())


def _filled(table: Any, pool: Pool, counts: Counter[str], place: str) -> Iterator[str]:
    columns = {name: table.column(name) for name in whole_columns(pool, table.schema.names)}
    for position in range(table.num_rows):
        try:
            row = {name: column[position].as_py() for name, column in columns.items()}
        except UnicodeDecodeError:
            counts["skipped_not_utf8"] += 1
            continue
        text = row_text(row, pool, counts, partial(str, place))
        if text is not None:
            yield text
