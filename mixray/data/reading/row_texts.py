"""The text of a row: a column or a template of several, of the rows that ``where`` keeps.

``text: "{question} {answer}"`` with ``answer: {options: [sol1, sol2], label: label}`` gives the question and the option
whose number, or whose label, the row says is right. In names of columns dots reach into structs, and a column whose own
name has dots in it wins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from string import Formatter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mixray.config.data import AnswerConfig, written
from mixray.data.pools import Pool
from mixray.errors import InputError

Row = Mapping[str, Any]
Place = Callable[[], str]
"""Names a row in an error. It is called only when there is an error, because counting lines takes time."""
ANSWER = "answer"
MISSING = object()
TABLE_ROWS = 64
"""How many rows of a table are in memory at once."""
_TEXT_TYPES = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
)


def row_text(row: Row | None, pool: Pool, counts: Counter[str], place: Place) -> str | None:
    """Return the text of a row, or None where there is no text to use; ``counts`` says why.

    ``row`` is None if the row cannot be decoded. Raises InputError if a column is missing or does not hold text.
    """
    if row is None:
        counts["skipped_not_utf8"] += 1
        return None
    if not all(written(value_at(row, path)) == required for path, required in pool.config.where.items()):
        counts["filtered"] += 1
        return None
    value = _filled(row, pool, place) if _is_template(pool) else _column(row, pool, "text", pool.config.text, place)
    if value is None:
        counts["skipped_empty"] += 1
        return None
    if not isinstance(value, str | bytes):
        raise _not_text(pool, pool.config.text, type(value).__name__, place())
    try:
        text = value.decode() if isinstance(value, bytes) else value
        text.encode()  # fails on a lone surrogate, which JSON may hold
    except UnicodeError:
        counts["skipped_not_utf8"] += 1
        return None
    return text


def table_rows(table: Any, pool: Pool) -> Iterator[Row | None]:
    """Yield the named columns of a table's rows; None for a row that is not UTF-8. ``check_schema`` has passed."""
    columns = {path: column_at(table, path) for _, path in named_columns(pool)}
    for scalars in zip(*columns.values(), strict=True):
        try:
            yield {path: scalar.as_py() for path, scalar in zip(columns, scalars, strict=True)}
        except UnicodeDecodeError:
            yield None


def check_row(row: Row, pool: Pool, place: Place) -> None:
    """Raise InputError unless a row has the columns that the run file names."""
    for field, path in named_columns(pool):
        _column(row, pool, field, path, place)


def check_schema(schema: Any, pool: Pool, place: str) -> None:
    """Raise InputError unless an Arrow schema has the columns that the run file names, and text for the text."""
    for field, path in named_columns(pool):
        if type_at(schema, path) is None:
            raise missing_column(pool.key(field), path, schema.names, place)
    kind = type_at(schema, pool.config.text)
    if kind is None:  # a template, whose columns may hold numbers
        return
    text_kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not any(is_kind(text_kind) for is_kind in _TEXT_TYPES):
        raise _not_text(pool, pool.config.text, str(kind), place)


def named_columns(pool: Pool) -> list[tuple[str, str]]:
    """Return (field of the run file, column) of everything that reading the pool needs."""
    columns = [("where", path) for path in pool.config.where]
    if not _is_template(pool):
        return [*columns, ("text", pool.config.text)]
    answer = pool.config.answer
    columns += [("text", name) for _, name in _pieces(pool) if name and not (answer and name == ANSWER)]
    if answer is not None:
        columns += [("answer.options", path) for path in _option_columns(answer)]
        columns += [("answer.label", answer.label)]
        columns += [("answer.labels", answer.labels)] if answer.labels is not None else []
    return columns


def top_columns(pool: Pool, columns: Collection[str]) -> list[str]:
    """Return the top-level columns, among ``columns``, that hold all named columns."""
    return sorted({path if path in columns else path.partition(".")[0] for _, path in named_columns(pool)})


# -------------------------------------------------------------------------------------------------------------- columns


def value_at(row: Row, path: str) -> Any:
    """Return the value of a column, or MISSING."""
    if path in row:
        return row[path]
    head, dot, rest = path.partition(".")
    inner = row.get(head, MISSING)
    return value_at(inner, rest) if dot and isinstance(inner, Mapping) else MISSING


def type_at(schema: Any, path: str) -> Any | None:
    """Return the Arrow type of a column in a schema or struct type; None if there is no such column."""
    if path in schema.names:
        return schema.field(path).type
    head, dot, rest = path.partition(".")
    if not dot or head not in schema.names or not pa.types.is_struct(schema.field(head).type):
        return None
    return type_at(schema.field(head).type, rest)


def column_at(table: Any, path: str) -> Any:
    """Return the column of a table or record batch, which must be there."""
    if path in table.schema.names:
        return table.column(path)
    head, *inner = path.split(".")
    return pc.struct_field(table.column(head), inner)


def missing_column(key: str, path: str, columns: Iterable[str], place: str) -> InputError:
    """Return the error for the column ``path``, named by ``key`` of the run file, which ``place`` does not have."""
    return InputError(
        "a column is missing",
        where=key,
        got=f"{path}, but {place} has the columns {', '.join(sorted(columns)) or '(none)'}",
        wanted="the name of a column; dots reach into structs",
    )


def _not_text(pool: Pool, column: str, kind: str, place: str) -> InputError:
    return InputError(
        "a column holds no text", where=pool.key("text"), got=f"{column}: {kind} in {place}", wanted="text"
    )


def _column(row: Row, pool: Pool, field: str, path: str, place: Place) -> Any:
    value = value_at(row, path)
    if value is MISSING:
        raise missing_column(pool.key(field), path, row, place())
    return value


# ------------------------------------------------------------------------------------------------------------ templates


def _is_template(pool: Pool) -> bool:
    return "{" in pool.config.text


def _filled(row: Row, pool: Pool, place: Place) -> str | None:
    """Return the template with the row's values in it; None if one of them is null."""
    text = ""
    for literal, name in _pieces(pool):
        text += literal
        if name is None:
            continue
        answer = pool.config.answer if name == ANSWER else None
        value = _column(row, pool, "text", name, place) if answer is None else _right_option(row, answer, pool, place)
        if value is None:
            return None
        piece = written(value)
        if piece is None:
            raise _not_text(pool, name, type(value).__name__, place())
        text += piece
    return text


def _pieces(pool: Pool) -> list[tuple[str, str | None]]:
    """Return (literal text, column after it) of the template, in order."""
    try:
        fields = list(Formatter().parse(pool.config.text))
        if any(conversion or layout for _, _, layout, conversion in fields):
            raise ValueError("a column takes no '!' and no ':'")
        return [(literal, name) for literal, name, _, _ in fields]
    except ValueError as error:
        raise InputError(
            "a template cannot be read",
            where=pool.key("text"),
            got=f"{pool.config.text} ({error})",
            wanted='columns in braces, such as "{question} {answer}"; {{ and }} for braces',
        ) from error


def _option_columns(answer: AnswerConfig) -> list[str]:
    return [answer.options] if isinstance(answer.options, str) else answer.options


def _right_option(row: Row, answer: AnswerConfig, pool: Pool, place: Place) -> Any:
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
