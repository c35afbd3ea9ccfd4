"""Where records are delivered: the contract between the tracker, which queues, and a sink, which writes.

A sink is idempotent: told the same record twice, it writes it once. So whoever is in doubt may send again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mixray.tracking.records import Record


class Unreachable(Exception):
    """The sink cannot be written to for now. Nothing is lost: the same records may be sent again later."""


class Sink(Protocol):
    def send(self, records: Sequence[Record]) -> None:
        """Write the records, in order. Raises Unreachable; some of them may then have been written."""

    def page(self) -> str:
        """The run's own page, as the part of a server's address behind ``#``; empty before there is one."""
