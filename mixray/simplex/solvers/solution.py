"""``Solution``: what a solver returns, how it prints, and how it becomes a mixture file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from mixray.errors import InputError
from mixray.mixture import Mixture
from mixray.notebook import html_table
from mixray.simplex.analysis.gain import Gain, gains
from mixray.simplex.analysis.profile import profile_intervals
from mixray.simplex.checks import Matrix, Vector
from mixray.simplex.problem import Point
from mixray.simplex.solvers.loop import Outcome, Status
from mixray.simplex.solvers.quadratic import optimal_target_weights

MOST_PRINTED = 5
"""Sources whose shares ``repr`` names, the largest first."""


@dataclass(frozen=True, eq=False, repr=False)
class Solution:
    """A mixture with its certificate.

    ``weights``: the source shares, float64 ``(sources,)``, within their limits, sum 1 within 1e-12.
    ``loss``: nats per token of the fit rows, without the prior's term; of several targets, combined by the goal.
    ``gap``: a bound on how far the minimised value (the loss, plus the prior's term) is above the smallest possible one
    of the rows as they were given: float32 rows, as on shards, add what their rounding may hide.
    ``status``: ``converged``: the gap, of the rows as they are stored, is within the tolerance; ``round_limit``: it is
    not, after all rounds allowed; ``stalled``: numerical precision allows no further progress.
    ``trace``: float64 ``(rounds + 1, 2)``: the minimised value and the gap, from the start to the answer.
    ``losses``: of every target, ``(targets,)``; ``target_weights``: how much each counts at the answer, ``(targets,)``.
    ``point``: the answer as the problem evaluates it. ``solver``: its name; ``why``: why ``auto`` took it.
    ``source_names``: the columns of the data frame that was solved, else empty.
    """

    weights: Vector
    loss: float
    gap: float
    rounds: int
    status: Status
    trace: Matrix
    losses: Vector
    target_weights: Vector
    point: Point
    solver: str = ""
    why: str = ""
    source_names: tuple[str, ...] = ()

    @classmethod
    def of(cls, outcome: Outcome, solver: str, why: str) -> Self:
        """Return the solution at which a solver ended."""
        point = outcome.point
        return cls(
            weights=point.shares,
            loss=point.loss,
            gap=point.gap + point.storage_error,
            rounds=len(outcome.trace) - 1,
            status=outcome.status,
            trace=outcome.trace,
            losses=point.losses,
            target_weights=optimal_target_weights(point),
            point=point,
            solver=solver,
            why=why,
        )

    def gain(self, baseline: str | ArrayLike = "balanced") -> Gain:
        """Return what the solution gains over a baseline on documents that did not choose it, with a 95 % interval.

        ``baseline``: ``"balanced"``, or shares ``(sources,)``. Raises InputError for another name, shares that are not
        valid and shares that give some rows probability 0.
        """
        if isinstance(baseline, str):
            if baseline != "balanced":
                raise InputError(
                    "gain: not a valid baseline", got=repr(baseline), wanted="'balanced', or one share per source"
                )
            baseline = np.full(len(self.weights), 1 / len(self.weights))
        return gains(self.point, {"baseline": baseline})["baseline"]

    @cached_property
    def interval(self) -> Matrix:
        """The shares' 95 % intervals over documents, ``(sources, 2)``: see ``profile_intervals``."""
        return profile_intervals(self.point, seed=0)

    def to_mixture(self, source_names: Sequence[str] | None = None) -> Mixture:
        """Return the solution as a ``Mixture``, which can be saved as a mixture file and exported.

        ``source_names``: in the order of ``weights``; by default the columns of the data frame that was solved. Raises
        InputError where there are no names, or not one for each source.
        """
        names = list(self.source_names if source_names is None else source_names)
        if len(names) != len(self.weights) or len(set(names)) < len(names):
            raise InputError(
                "to_mixture: every source needs a name of its own",
                got=", ".join(names) or "no names",
                wanted=f"{len(self.weights)} names",
                remedy="solve a data frame with named columns, or to_mixture(['web', 'code', ...])",
            )
        return Mixture(
            sources=names,
            weights=dict(zip(names, self.weights.tolist(), strict=True)),
            loss={"mixmin": self.loss},
            gap=max(0.0, self.gap),
            rounds=self.rounds,
            solver=self.solver or None,
            solver_why=self.why or None,
            status=self.status,
        )

    def _shares_by_size(self) -> list[tuple[str, float]]:
        names = self.source_names or tuple(f"source {number}" for number in range(len(self.weights)))
        return [(names[place], float(self.weights[place])) for place in np.argsort(-self.weights, kind="stable")]

    def _facts(self) -> str:
        rounds = f"{self.rounds} round{'' if self.rounds == 1 else 's'}"
        return f"loss {self.loss:.6g} nats per token, gap {self.gap:.2g}, {self.status} after {rounds}"

    def __repr__(self) -> str:
        shares = self._shares_by_size()
        printed = ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares[:MOST_PRINTED])
        others = f", ... ({len(shares)} sources)" if len(shares) > MOST_PRINTED else ""
        return f"Solution({printed}{others}; {self._facts()})"

    def _repr_html_(self) -> str:
        """Return a table of the shares, largest first, for notebooks."""
        rows = [(name, f"{100 * share:.1f} %") for name, share in self._shares_by_size()]
        return html_table(("source", "share"), rows, caption=self._facts())
