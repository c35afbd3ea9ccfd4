"""How results look in a notebook: tables as HTML, without styles of their own, so that they follow its theme."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

LEFT = " style='text-align:left'"


def html_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "") -> str:
    """Return an HTML table. The first column is text, the others are numbers; every cell is escaped."""
    head = "".join(f"<th{'' if place else LEFT}>{escape(name)}</th>" for place, name in enumerate(columns))
    body = "".join(
        "<tr>" + "".join(f"<td{'' if place else LEFT}>{escape(cell)}</td>" for place, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f"<table><caption{LEFT}>{escape(caption)}</caption><tr>{head}</tr>{body}</table>"
