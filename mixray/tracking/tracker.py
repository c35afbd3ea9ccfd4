"""What the pipeline tells about a run, and to whom it need not matter: the tracker's contract.

A tracker never makes the run wait and never stops it. It may be told everything again, after a crash or by a run whose
results were all cached: what is known is not written twice. So the pipeline need not know what an earlier attempt told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from mixray.tracking.records import Context, Status


class Tracker(Protocol):
    """What the pipeline tells. ``key``: "" is the run itself, "proxy/python" or "arm/mixmin-sklearn" a child of it."""

    def start(
        self, key: str, *, params: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None
    ) -> None:
        """A run begins. ``params`` may nest (``flatten``); a parameter once told keeps its value.

        May be called again to add parameters and tags.
        """

    def metrics(self, key: str, values: Iterable[tuple[str, float, int]], times: Sequence[int] | None = None) -> None:
        """Values as (metric, value, step), steps rising for each metric; steps up to the last one known are left out.

        ``times``: milliseconds since 1970, one for each value; now by default.
        """

    def artifact(self, key: str, filename: str, data: bytes) -> None:
        """A small file, such as a figure's PNG; told again with other bytes it is replaced."""

    def dataset(
        self, key: str, name: str, *, digest: str, source: str, context: Context, profile: Mapping[str, int]
    ) -> None:
        """Data that the run reads. ``digest``: sha256 in hex; ``source``: path or URI; ``profile``: counts."""

    def finish(self, key: str, status: Status = "FINISHED") -> None:
        """A run ends."""

    def flush(self) -> None:
        """Deliver soon. Does not wait."""

    def close(self, timeout: float = 60.0) -> None:
        """Deliver or keep everything, within about ``timeout`` seconds."""

    def view_command(self) -> str:
        """What a person pastes to see the run; empty where nothing is tracked."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End what has started and not finished (FINISHED; FAILED on an error, KILLED on an interrupt), then close."""


class NoTracker:
    """A tracker that forgets, for tests and for library use."""

    def start(
        self, key: str, *, params: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None
    ) -> None:
        pass

    def metrics(self, key: str, values: Iterable[tuple[str, float, int]], times: Sequence[int] | None = None) -> None:
        pass

    def artifact(self, key: str, filename: str, data: bytes) -> None:
        pass

    def dataset(
        self, key: str, name: str, *, digest: str, source: str, context: Context, profile: Mapping[str, int]
    ) -> None:
        pass

    def finish(self, key: str, status: Status = "FINISHED") -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self, timeout: float = 60.0) -> None:
        pass

    def view_command(self) -> str:
        return ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass
