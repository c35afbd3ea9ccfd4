"""The table of an audit: what was asked for beside what was read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.console import RenderableType

from mixray.report.layout import count_text, difference_text, new_table, number_text, share_text, titled


class AuditedSource(Protocol):
    """A row of the table. Shares are of the training tokens; ``loss`` is in nats per token; None: not known."""

    @property
    def source(self) -> str: ...
    @property
    def requested(self) -> float: ...
    @property
    def realised(self) -> float: ...
    @property
    def tokens(self) -> float: ...
    @property
    def documents(self) -> float | None: ...
    @property
    def epochs(self) -> float | None: ...
    @property
    def loss(self) -> float | None: ...


def audit_table(name: str, rows: Sequence[AuditedSource], misplaced: float) -> RenderableType:
    """Return the table of one training. ``misplaced``: the share of tokens that came from other sources than asked."""
    optional = [
        column for column in ("documents", "epochs", "loss") if any(getattr(row, column) is not None for row in rows)
    ]
    table = new_table("source", "requested", "realised", "difference", "tokens", *optional)
    for row in rows:
        cells = [share_text(row.requested), share_text(row.realised)]
        cells += [f"{difference_text(100 * (row.realised - row.requested), 2)} %", count_text(row.tokens)]
        for column in optional:
            value: float | None = getattr(row, column)
            cells.append("" if value is None else count_text(value) if column == "documents" else number_text(value))
        table.add_row(row.source, *cells)
    total = count_text(sum(row.tokens for row in rows))
    caption = f"{100 * misplaced:.2g} % of the {total} tokens came from other sources than asked for"
    losses = "; loss in nats per token" if "loss" in optional else ""
    return titled(f"{name}: shares of training tokens{losses}", table, caption)
