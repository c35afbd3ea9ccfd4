"""A notice board: workers post progress records, the driver takes them down.

It carries news only. Losing it, or a notice on it, changes no result.
"""

from __future__ import annotations

from typing import Any

import ray


class Board:
    """``post`` from any worker, ``take`` from the driver."""

    def __init__(self) -> None:
        self._notices: list[tuple[str, Any]] = []

    def post(self, key: str, notice: Any) -> None:
        self._notices.append((key, notice))

    def take(self) -> list[tuple[str, Any]]:
        """Everything posted since the last call, oldest first."""
        notices, self._notices = self._notices, []
        return notices


BoardActor: Any = ray.remote(num_cpus=0, max_restarts=-1)(Board)
