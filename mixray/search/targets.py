"""One problem for all the targets of a mixture: each gives an objective, the run file says what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mixray.config.mixture import MixtureConfig
from mixray.search.rows import Rows
from mixray.simplex import CrossEntropy, FeasibleSet, Goal, Mean, Prior, Problem, Worst, solve_problem

Losses = tuple[CrossEntropy, ...]
"""One of every target."""


def problem_of(
    rows: Mapping[str, Rows | CrossEntropy], config: MixtureConfig, feasible: FeasibleSet, prior: NDArray[np.float64]
) -> Problem:
    """``rows``: target -> its rows, or an objective whose rows are elsewhere; ``prior``: the shares that
    ``mixture.prior`` pulls to."""
    pull = Prior.of(prior, config.prior.strength, len(prior))
    allowed = (feasible.upper > 0) & ((prior > 0) if pull else True)
    objectives = tuple(own.objective(allowed) if isinstance(own, Rows) else own for own in rows.values())
    return Problem(objectives, feasible, _goal(list(rows), objectives, config, feasible), pull)


def _goal(targets: list[str], objectives: Losses, config: MixtureConfig, feasible: FeasibleSet) -> Goal:
    if config.over != "worst":
        weights = np.array([config.target_weights.get(target, 1.0) for target in targets])
        return Mean.of(weights / weights.sum(), len(targets))
    settings = config.worst
    prior = None if settings.prior is None else np.array([settings.prior[target] for target in targets])
    return Worst.of(
        len(targets),
        _offsets(objectives, config, feasible),
        None if prior is None else prior / prior.sum(),
        settings.tau,
    )


def _offsets(objectives: Losses, config: MixtureConfig, feasible: FeasibleSet) -> NDArray[np.float64] | None:
    """What every target's loss is compared with: nothing, its best single source, or its own best mixture."""
    if config.worst.offsets == "none":
        return None
    if config.worst.offsets == "best_single":
        return np.array([objective.single_losses().min() for objective in objectives])
    alone = [solve_problem(Problem((objective,), feasible), solver="auto") for objective in objectives]
    return np.array([solution.loss for solution in alone])
