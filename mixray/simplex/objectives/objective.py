"""The interface of an objective: a convex function of the source shares with its gradient and curvature.

Solvers see nothing else. So they run unchanged on an array and on shards that hold more rows than one machine can.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mixray.simplex.checks import Mask, Matrix, Vector
from mixray.simplex.objectives.draws import Documents
from mixray.simplex.objectives.passes import Columns


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The objective at one point. ``gradient``: ``(sources,)``; ``curvature``: the second derivative with respect to
    the requested sources, ``(columns, columns)``, or None where none were requested."""

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

    @property
    def rounding(self) -> float:
        """By how much the precision in which the rows are stored may change any mixture's value."""
        ...

    @property
    def documents(self) -> int:
        """The number of documents, which are what a bootstrap draws."""
        ...

    def at(self, points: Matrix, columns: Columns | None = None) -> list[Evaluation]:
        """Evaluate every row of ``points`` ``(points, sources)`` in one pass over the rows of the data, with curvature
        over ``columns`` where there are any."""
        ...

    def loss(self, source_shares: Vector) -> float:
        """Return the value at any shares, feasible or not: inf where a row that counts cannot occur."""
        ...

    def row_losses(self, source_shares: Vector) -> Vector:
        """Return what each row adds to the value, ``(rows,)``."""
        ...

    def row_documents(self) -> Documents:
        """Return which document every row is part of."""
        ...

    def restricted_to(self, allowed: Mask) -> Objective:
        """Return the same function, exact for mixtures of the ``allowed`` sources only, ``(sources,)``."""
        ...

    def replicates(self, seed: int, target: int, numbers: range) -> Replicates:
        """Return the bootstrap replicates of these numbers, the same in every call.

        ``target``: the number of this objective in its problem, whose documents are drawn independently of others'.
        """
        ...


class Replicates(Protocol):
    """An objective under the row weights of a batch of bootstrap replicates."""

    @property
    def count(self) -> int: ...

    def at(self, points: Matrix, which: Columns, *, values: bool) -> list[Evaluation]:
        """Evaluate each point ``(points, sources)`` in the replicate that ``which`` numbers. Without ``values`` these
        may be wrong, which saves time."""
        ...

    def one(self, replicate: int) -> Objective:
        """Return one replicate as an objective."""
        ...

    def losses(self, mixtures: Matrix) -> Matrix:
        """Return the loss of every mixture ``(mixtures, sources)`` in every replicate, ``(replicates, mixtures)``."""
        ...
