"""How numbers, tables and pages look on a terminal: the style that every table of mixray shares."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import IO

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

UNLIMITED_WIDTH = 10_000
"""Characters a line may have where nobody looks at a terminal: a file or a pipe is never wrapped."""
FOLDED_TEXT_WIDTH = 12
"""Characters that a column of text keeps beside numbers on a narrow terminal."""
COLUMN_GAP = 3


def print_report(parts: Iterable[RenderableType], file: IO[str] | None = None) -> None:
    """Print tables and lines, by default to standard output.

    On a terminal, text wraps at its width; a terminal too narrow for a table's numbers gets the whole numbers and wraps
    the lines itself. Where the output is not a terminal, nothing is wrapped.
    """
    console = Console(file=file or sys.stdout)
    if not console.is_terminal:
        console.width = UNLIMITED_WIDTH
    terminal_width = console.width
    for part in parts:
        console.width = max(terminal_width, _width_of_numbers(part))
        console.print(part)


def _width_of_numbers(part: RenderableType) -> int:
    """Return the width in characters below which a table's numbers would be cut; text columns fold."""
    if isinstance(part, Group):
        return max(map(_width_of_numbers, part.renderables), default=0)
    if not isinstance(part, Table):
        return 0
    width = 0
    for column in part.columns:
        lines = [line for cell in (column.header, *column.cells) for line in str(cell).splitlines()]
        width += COLUMN_GAP + (max(map(cell_len, lines), default=0) if column.no_wrap else FOLDED_TEXT_WIDTH)
    return width


def new_table(*columns: str) -> Table:
    """Return an empty table in mixray's style. The first column is text that may wrap, the others are numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for text_column in columns[:1]:
        table.add_column(text_column, overflow="fold")
    for number_column in columns[1:]:
        table.add_column(number_column, justify="right", no_wrap=True)
    return table


def titled(title: str, table: Table, caption: str = "") -> RenderableType:
    """Return the table between a title and a caption, which, unlike Rich's own, may be wider than the table."""
    below: list[RenderableType] = [Text(caption, style="italic"), ""] if caption else []
    return Group(Text(title, style="bold"), table, *below)


def share_text(share: float) -> str:
    """Write a share of a mixture with one decimal: ``62.1 %``, a small one as ``< 0.1 %``, zero as ``0 %``."""
    if share == 0:
        return "0 %"
    return "< 0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"


def percent(ratio: float) -> str:
    """Write a ratio in percent: one decimal from one percent up, three significant digits below (``0.41 %``)."""
    return f"{100 * ratio:.1f} %" if ratio >= 0.01 else f"{100 * ratio:.3g} %"


def count_text(count: float) -> str:
    """Write a count with three significant digits and its prefix: ``2.00 M``."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:#.3g}".rstrip(".") + f" {prefix}"
    return f"{count:.0f}"


def small_text(value: float) -> str:
    """Write a small loss or gap with two significant digits: ``3.2e-10``, zero as ``0``."""
    return f"{value:.1e}" if value else "0"


def number_text(value: float, digits: int = 4) -> str:
    """Write a number with a fixed number of digits, zero as ``0``."""
    return f"{value:.{digits}f}" if value else "0"


def difference_text(value: float, digits: int = 4) -> str:
    """Write a difference with its sign and a fixed number of digits: ``+0.1391``, zero as ``0``."""
    return f"{value:+.{digits}f}" if value else "0"


def counted(number: int, noun: str) -> str:
    """Write a number with its noun: ``1 round``, ``2 rounds``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
