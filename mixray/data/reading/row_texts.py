"""The text of a row: the columns that the run file names, a template of several, and the rows that ``where`` keeps.

``text: "{question} {answer}"`` with ``answer: {options: [sol1, sol2], label: label}`` gives the question and the option
whose number, or whose label, the row says is right.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from string import Formatter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mixray.config.data import AnswerConfig
from mixray.data.pools import Pool
from mixray.errors import InputError

# -------------------------------------------------------------------------------------------------------------- columns


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


# ------------------------------------------------------------------------------------------------------------ templates


ANSWER = "answer"


def is_template(pool: Pool) -> bool:
    return "{" in pool.config.text


def named_columns(pool: Pool) -> list[tuple[str, str]]:
    """(field of the run file, column) of everything that reading the pool needs."""
    columns = [("where", path) for path in pool.config.where]
    if not is_template(pool):
        return [*columns, ("text", pool.config.text)]
    answer = pool.config.answer
    columns += [("text", name) for _, name in _pieces(pool) if name and not (answer and name == ANSWER)]
    if answer is not None:
        columns += [("answer.options", path) for path in _option_columns(answer)]
        columns += [("answer.label", answer.label)]
        columns += [("answer.labels", answer.labels)] if answer.labels is not None else []
    return columns


def whole_columns(pool: Pool, columns: Collection[str]) -> list[str]:
    """The top-level ones among ``columns`` that hold all named columns."""
    return sorted({path if path in columns else path.partition(".")[0] for _, path in named_columns(pool)})


def fill(row: Mapping[str, Any], pool: Pool, place: Callable[[], str]) -> Any:
    """The text of a row by the template; None where a column of it is null.

    Raises InputError where a column is missing or the right answer cannot be told. ``place()`` names the row.
    """
    text = ""
    for literal, name in _pieces(pool):
        text += literal
        if name is None:
            continue
        answered = pool.config.answer if name == ANSWER else None
        value = _column(row, pool, "text", name, place) if answered is None else _answer(row, answered, pool, place)
        if value is None:
            return None
        piece = written(value)
        if piece is None:
            raise not_text(pool, name, type(value).__name__, place())
        text += piece
    return text


def _pieces(pool: Pool) -> list[tuple[str, str | None]]:
    """(literal text, column after it) of the template, in order."""
    try:
        return [(literal, name) for literal, name, _, _ in Formatter().parse(pool.config.text)]
    except ValueError as error:
        raise InputError(
            "a template cannot be read",
            where=pool.key("text"),
            got=f"{pool.config.text} ({error})",
            wanted='columns in braces, such as "{question} {answer}"; {{ and }} for braces',
        ) from error


def _option_columns(answer: AnswerConfig) -> list[str]:
    return [answer.options] if isinstance(answer.options, str) else answer.options


def _answer(row: Mapping[str, Any], answer: AnswerConfig, pool: Pool, place: Callable[[], str]) -> Any:
    """The right option's text."""
    options = [_column(row, pool, "answer.options", path, place) for path in _option_columns(answer)]
    if isinstance(answer.options, str):
        options = list(options[0] or [])
    label = written(_column(row, pool, "answer.label", answer.label, place))
    labels: list[Any] = list(range(len(options)))
    if answer.labels is not None:
        labels = list(_column(row, pool, "answer.labels", answer.labels, place) or [])
    names = [written(each) for each in labels]
    if label in names and names.index(label) < len(options):
        return options[names.index(label)]
    raise InputError(
        "a row has no right answer",
        where=pool.key("answer.label"),
        got=f"{answer.label} = {label} in {place()}",
        wanted=f"one of {', '.join(str(name) for name in names)}, for {len(options)} options",
        remedy="take a split that has its answers",
    )


def _column(row: Mapping[str, Any], pool: Pool, field: str, path: str, place: Callable[[], str]) -> Any:
    value = value_at(row, path)
    if value is MISSING:
        raise missing_column(pool, field, path, row, place())
    return value


# ---------------------------------------------------------------------------------------------------------------- texts


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
