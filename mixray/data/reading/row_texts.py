"""The text of a row, or its prompt and completion: columns or templates of several, of the rows that ``where`` keeps.

``text: "{question} {answer}"`` with ``answer: {options: [sol1, sol2], label: label}`` gives the question and the option
whose number, or whose label, the row says is right. In names of columns dots reach into structs, and a column whose own
name has dots in it wins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from string import Formatter
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from mixray.config.data import AnswerConfig, written
from mixray.data.pools import Pool
from mixray.errors import InputError

Content = TypeVar("Content")
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


class Example(NamedTuple):
    """A prompt and the completion that shall follow it.

    ``options``: of a multiple-choice item, all of its completions, and ``right`` the number of the right one among
    them; empty where there is nothing to choose from. ``before``: (role, content) of the messages before the prompt,
    for a chat template.
    """

    prompt: str
    completion: str
    options: tuple[str, ...] = ()
    right: int = 0
    before: tuple[tuple[str, str], ...] = ()

    @property
    def context(self) -> str:
        """The text of all messages before the completion."""
        return "".join(content for _, content in self.before) + self.prompt


def row_text(row: Row | None, pool: Pool, counts: Counter[str], place: Place) -> str | None:
    """Return the text of a row, or None where there is no text to use; ``counts`` says why.

    ``row`` is None if the row cannot be decoded. Raises InputError if a column is missing or does not hold text.
    """
    return _decoded(row, pool, counts, lambda row: _text(row, pool, "text", place))


def row_example(row: Row | None, pool: Pool, counts: Counter[str], place: Place) -> Example | None:
    """Return the prompt and the completion of a row, or None where there is no completion to use; as ``row_text``."""
    return _decoded(row, pool, counts, lambda row: _example(row, pool, place))


def _decoded(
    row: Row | None, pool: Pool, counts: Counter[str], read: Callable[[Row], Content | None]
) -> Content | None:
    """Return what ``read`` finds in a row that the pool keeps, or None; ``counts`` says why."""
    if row is None:
        counts["skipped_not_utf8"] += 1
        return None
    if not all(written(value_at(row, path)) == required for path, required in pool.config.where.items()):
        counts["filtered"] += 1
        return None
    try:
        content = read(row)
    except UnicodeError:
        counts["skipped_not_utf8"] += 1
        return None
    counts["skipped_empty"] += content is None
    return content


def _text(row: Row, pool: Pool, key: str, place: Place, option: Any = None) -> str | None:
    """Return the text that ``key`` of the run file names; None where it is null. Raises UnicodeError.

    ``option``: what ``{answer}`` stands for; None: the right option.
    """
    template = pool.config.templates[key]
    is_template = _is_template(template)
    value = _filled(row, pool, key, place, option) if is_template else _column(row, pool, key, template, place)
    if value is None:
        return None
    if not isinstance(value, str | bytes):
        raise _not_text(pool, key, template, type(value).__name__, place())
    text = value.decode() if isinstance(value, bytes) else value
    text.encode()  # fails on a lone surrogate, which JSON may hold
    return text


def _example(row: Row, pool: Pool, place: Place) -> Example | None:
    """Return a row's prompt and completion; None where one of them is null or the completion is blank."""
    if pool.config.messages is not None:
        return _conversation(row, pool, place)
    prompt, completion = (_text(row, pool, key, place) for key in ("prompt", "completion"))
    if prompt is None or completion is None or _is_blank(completion):
        return None
    system = None if pool.config.system is None else _text(row, pool, "system", place)
    before = () if _is_blank(system) else (("system", str(system)),)
    if pool.config.answer is None:
        return Example(prompt, completion, before=before)
    options, right = _options(row, pool.config.answer, pool, place)
    if _is_blank(options[right]):
        return None
    # Null or nothing stands where an item has fewer options than there are columns.
    numbers = [number for number, option in enumerate(options) if not _is_blank(option)]
    if len(numbers) < 2:
        return Example(prompt, completion, before=before)
    texts = [_text(row, pool, "completion", place, options[number]) or "" for number in numbers]
    return Example(prompt, completion, tuple(texts), numbers.index(right), before)


def _conversation(row: Row, pool: Pool, place: Place) -> Example | None:
    """Return a row's conversation; None where it is null, empty or ends in a blank message. Raises UnicodeError."""
    path = pool.config.messages
    assert path is not None, "the pool holds conversations"
    value = _column(row, pool, "messages", path, place)
    if not value:
        return None
    messages = []
    for message in value if isinstance(value, list) else [value]:
        parts = [message.get(key) for key in ("role", "content")] if isinstance(message, Mapping) else []
        if not parts or not all(isinstance(part, str) for part in parts):
            raise _not_messages(pool, path, str(message)[:80], place())
        messages.append((str(parts[0]), str(parts[1])))
        messages[-1][1].encode()  # fails on a lone surrogate, which JSON may hold
    roles = [role for role, _ in messages]
    if roles[-2:] != ["user", "assistant"]:
        raise _not_messages(pool, path, f"the roles {', '.join(roles)}", place())
    (_, prompt), (_, completion) = messages[-2:]
    return None if _is_blank(completion) else Example(prompt, completion, before=tuple(messages[:-2]))


def _not_messages(pool: Pool, path: str, got: str, place: str) -> InputError:
    return InputError(
        "a column holds no conversation",
        where=pool.key("messages"),
        got=f"{path}: {got} in {place}",
        wanted="a list of {role, content} whose last two roles are user and assistant",
        remedy="leave other rows out with where, or cut conversations after an answer",
    )


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


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
    for key, column in pool.config.templates.items():
        kind = type_at(schema, column)
        if kind is None or key == "messages":  # a template, whose columns may hold numbers, or lists
            continue
        text_kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not any(is_kind(text_kind) for is_kind in _TEXT_TYPES):
            raise _not_text(pool, key, column, str(kind), place)


def named_columns(pool: Pool) -> list[tuple[str, str]]:
    """Return (field of the run file, column) of everything that reading the pool needs."""
    columns = [("where", path) for path in pool.config.where]
    answer = pool.config.answer
    for key, template in pool.config.templates.items():
        if _is_template(template):
            names = [name for _, name in _pieces(pool, key) if name and not (answer and name == ANSWER)]
            columns += [(key, name) for name in names]
        else:
            columns.append((key, template))
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


def _not_text(pool: Pool, key: str, column: str, kind: str, place: str) -> InputError:
    return InputError("a column holds no text", where=pool.key(key), got=f"{column}: {kind} in {place}", wanted="text")


def _column(row: Row, pool: Pool, field: str, path: str, place: Place) -> Any:
    value = value_at(row, path)
    if value is MISSING:
        raise missing_column(pool.key(field), path, row, place())
    return value


# ------------------------------------------------------------------------------------------------------------ templates


def _is_template(template: str) -> bool:
    return "{" in template


def _filled(row: Row, pool: Pool, key: str, place: Place, option: Any) -> str | None:
    """Return the template with the row's values in it; None if one of them is null. ``option``: see ``_text``."""
    text = ""
    for literal, name in _pieces(pool, key):
        text += literal
        if name is None:
            continue
        answer = pool.config.answer if name == ANSWER else None
        if answer is None:
            value = _column(row, pool, key, name, place)
        else:
            value = _right_option(row, answer, pool, place) if option is None else option
        if value is None:
            return None
        piece = written(value)
        if piece is None:
            raise _not_text(pool, key, name, type(value).__name__, place())
        text += piece
    return text


def _pieces(pool: Pool, key: str) -> list[tuple[str, str | None]]:
    """Return (literal text, column after it) of the template, in order."""
    template = pool.config.templates[key]
    try:
        fields = list(Formatter().parse(template))
        if any(conversion or layout for _, _, layout, conversion in fields):
            raise ValueError("a column takes no '!' and no ':'")
        return [(literal, name) for literal, name, _, _ in fields]
    except ValueError as error:
        raise InputError(
            "a template cannot be read",
            where=pool.key(key),
            got=f"{template} ({error})",
            wanted='columns in braces, such as "{question} {answer}"; {{ and }} for braces',
        ) from error


def _option_columns(answer: AnswerConfig) -> list[str]:
    return [answer.options] if isinstance(answer.options, str) else answer.options


def _right_option(row: Row, answer: AnswerConfig, pool: Pool, place: Place) -> Any:
    options, right = _options(row, answer, pool, place)
    return options[right]


def _scalars(value: Any, pool: Pool, field: str, path: str, place: Place) -> list[Any]:
    """Return the elements of a column that must hold a list of text or numbers; none of null."""
    if value is None:
        return []
    if isinstance(value, list) and all(each is None or written(each) is not None for each in value):
        return value
    raise InputError(
        "a column holds no list",
        where=pool.key(field),
        got=f"{path} = {value} in {place()}",
        wanted="a list of text or numbers",
    )


def _options(row: Row, answer: AnswerConfig, pool: Pool, place: Place) -> tuple[list[Any], int]:
    """Return the options of a multiple-choice item and the number of the right one. Raises InputError for none."""
    options = [_column(row, pool, "answer.options", path, place) for path in _option_columns(answer)]
    if isinstance(answer.options, str):
        options = _scalars(options[0], pool, "answer.options", answer.options, place)
    label = written(_column(row, pool, "answer.label", answer.label, place))
    labels: list[Any] = list(range(len(options)))
    if answer.labels is not None:
        column = _column(row, pool, "answer.labels", answer.labels, place)
        labels = _scalars(column, pool, "answer.labels", answer.labels, place)
    names = [written(each) for each in labels]
    if label in names and names.index(label) < len(options):
        return options, names.index(label)
    raise InputError(
        "a row has no right answer",
        where=pool.key("answer.label"),
        got=f"{answer.label} = {label} in {place()}",
        wanted=f"one of {', '.join(str(name) for name in names)}, for {len(options)} options",
        remedy="take a split that has its answers",
    )
