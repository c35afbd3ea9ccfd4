"""What is minimised: a convex function of the source shares, known by its values, gradients and curvatures.

Solvers see nothing else. So they run unchanged on an array, on shard actors that hold more rows than one machine can,
and on a problem that needs no rows at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mixray.simplex.checks import Mask, Matrix, Vector

Columns = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The objective at one point. ``gradient``: ``(sources,)``; ``curvature``: the second derivative with respect to
    the sources asked for, ``(columns, columns)``, None when none were."""

    value: float
    gradient: Vector
    curvature: Matrix | None = None


class Objective(Protocol):
    """A convex function of the source shares, in nats per token (or the square of a prediction's unit)."""

    @property
    def rows(self) -> int: ...

    @property
    def sources(self) -> int: ...

    @property
    def total_weight(self) -> float | None:
        """W, for a cross entropy, where ``<-gradient(a), a> = W`` and hence, by Jensen's inequality,
        ``loss(a) - loss(b) <= W log(<-gradient(a), b> / W)``; None for what has no such identity."""
        ...

    def at(self, points: Matrix, columns: Columns | None = None) -> list[Evaluation]:
        """The objective at every row of ``points`` ``(points, sources)``, in one pass over the rows of the data; with
        curvature over ``columns`` where given."""
        ...

    def row_losses(self, source_shares: Vector) -> Vector:
        """What each row adds to the value, ``(rows,)``."""
        ...

    def restricted_to(self, allowed: Mask) -> Objective:
        """The same function, exact for mixtures of the ``allowed`` sources only, ``(sources,)``."""
        ...


class Replicates(Protocol):
    """One target under the weights of a batch of bootstrap replicates."""

    @property
    def count(self) -> int: ...

    def at(self, points: Matrix, which: Columns, *, values: bool) -> list[Evaluation]:
        """Each point ``(points, sources)`` in the replicate that ``which`` numbers; the values only if wanted."""
        ...

    def one(self, replicate: int) -> Objective: ...

    def losses(self, mixtures: Matrix) -> Matrix:
        """Of given mixtures ``(mixtures, sources)`` in every replicate, ``(replicates, mixtures)``."""
        ...


@runtime_checkable
class Resampling(Objective, Protocol):
    """An objective that draws its documents itself, because its rows are elsewhere."""

    @property
    def documents(self) -> int: ...

    @property
    def batch(self) -> int:
        """How many replicates it can work on at once."""
        ...

    def single_losses(self) -> Vector:
        """The value at each source alone, ``(sources,)``, from the rows as they were before any rounding."""
        ...

    def replicates(self, seed: int, target: int, numbers: range) -> Replicates:
        """The replicates of these numbers, the same whenever they are asked for; ``target``: this one's number, for
        draws of its own."""
        ...


class Rows(Objective, Protocol):
    """An objective whose rows are at hand: it can be asked under other weights, as the bootstrap does."""

    @property
    def row_weights(self) -> Vector: ...

    def reweighted(self, row_weights: Vector) -> Rows: ...

    def replicates_at(self, points: Matrix, row_weights: Matrix, *, values: bool) -> list[Evaluation]:
        """Each point ``(points, sources)`` under weights of its own ``(points, rows)``; the values only if wanted."""
        ...
