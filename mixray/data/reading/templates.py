"""Which columns make a row's text: one, or a template of several, and of a multiple-choice item its right answer.

``text: "{question} {answer}"`` with ``answer: {options: [sol1, sol2], label: label}`` gives the question and the option
whose number, or whose label, the row says is right.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from string import Formatter
from typing import Any

from mixray.config.data import AnswerConfig
from mixray.data.pools import Pool
from mixray.data.reading.columns import MISSING, missing_column, not_text, value_at, written
from mixray.errors import InputError

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
