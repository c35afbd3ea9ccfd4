"""``solve``: from a table of log-probabilities to the best mixture, with a certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from numpy.typing import ArrayLike

from mixray.errors import InputError
from mixray.simplex.feasible import FeasibleSet, Group
from mixray.simplex.goal import Prior, Worst
from mixray.simplex.log_prob_table import LogProbTable, plain_array
from mixray.simplex.objectives.cross_entropy import CrossEntropy
from mixray.simplex.problem import Problem
from mixray.simplex.solvers.first_order import Entropic, is_multiplicative
from mixray.simplex.solvers.loop import Solver, minimise
from mixray.simplex.solvers.newton import Newton
from mixray.simplex.solvers.smoothing import minimise_worst
from mixray.simplex.solvers.solution import Solution
from mixray.simplex.solvers.working_set import WorkingSet

SOLVERS: dict[str, Solver] = {
    "newton": Newton(),
    "entropic": Entropic(),
    "working_set": WorkingSet(),
}
TOLERANCE = 1e-8
MAX_ROUNDS = 10_000
MOST_CURVED, MOST_CURVED_WITH_PRIOR = 384, 1000
"""Sources up to which ``auto`` takes Newton's method with its sources x sources curvature: from there on the others are
never slower (measured on 2,000 and 20,000 rows of each kind of ``jobs/bench_simplex.py``)."""


def solve(
    log_probs: Any,
    *,
    densities: bool = False,
    row_weights: ArrayLike | None = None,
    documents: ArrayLike | None = None,
    lower: ArrayLike | None = None,
    upper: ArrayLike | None = None,
    groups: Sequence[Group] = (),
    prior: ArrayLike | None = None,
    prior_strength: float = 0.0,
    solver: str | Solver = "auto",
    tolerance: float = TOLERANCE,
    max_rounds: int = MAX_ROUNDS,
    start: ArrayLike | None = None,
) -> Solution:
    """Return the source shares that minimise ``-sum_i w_i log sum_k shares_k exp(l_ik)`` within constraints.

    This is MixMin's convex problem (arXiv 2502.10510): ``l_ik`` is the log-probability of row i under the proxy of
    source k, ``w_i`` the row's weight. Other objectives, and several at once: ``solve_problem``.

    Args:
        log_probs: nats, shape ``(rows, sources)``: an array, a PyTorch tensor, or a pandas or polars data frame, whose
            column names the solution keeps. Computed in float64. -inf is allowed; NaN and +inf are not.
        densities: whether the values are log-densities, which may be above 0.
        row_weights: shape ``(rows,)``, finite, >= 0; 1/rows each by default. See ``row_weights`` for nats per token.
        documents: which document each row is part of, shape ``(rows,)``: rows of one document are not independent,
            which ``gain`` and ``interval`` of the solution take into account; every row is a document by default.
        lower, upper: bounds on the shares, one number or shape ``(sources,)``, within [0, 1].
        groups: limits on sums over sources, e.g. ``[Group([0, 2], upper=0.3)]``.
        prior: shares ``(sources,)`` to stay near to; balanced by default. Matters only with a ``prior_strength``.
        prior_strength: adds ``prior_strength * KL(shares || prior)`` to the loss; nats per token.
        solver: ``auto`` (by the number of sources: ``Solution.why`` says), ``newton``, ``working_set`` (for hundreds of
            sources and more), ``entropic``, or an object such as ``Entropic(fixed_step=1.0)``.
        tolerance: on the certified gap, nats per token.
        max_rounds: the status is ``round_limit`` when they did not suffice.
        start: shares to start from; the feasible ones nearest to balanced (or to the prior) by default.

    Returns:
        A ``Solution``: ``weights`` are the shares, ``gap`` bounds the error of the loss; ``gain("balanced")`` says what
        they gain on fresh documents, ``interval`` how sure they are.

    Raises:
        InputError: for a table that is not valid (naming rows), positive values without ``densities``, row weights that
            are not valid, constraints that no mixture satisfies (naming a smallest conflict), an unknown solver.
    """
    _check(solver)
    weights = plain_array(row_weights)
    table = LogProbTable.of(log_probs, densities=densities, row_weights=weights)
    sources = table.values.shape[1]
    feasible = FeasibleSet.of(sources, lower, upper, groups, table.source_names)
    pull = Prior.of(prior, prior_strength, sources)
    allowed = feasible.upper > 0 if pull is None else (feasible.upper > 0) & (pull.shares > 0)
    objective = CrossEntropy.from_log_probs(table.values, weights, allowed, document_ids=plain_array(documents))
    problem = Problem((objective,), feasible, prior=pull)
    solution = solve_problem(problem, solver=solver, tolerance=tolerance, max_rounds=max_rounds, start=start)
    return replace(solution, source_names=table.source_names)


def solve_problem(
    problem: Problem,
    *,
    solver: str | Solver = "auto",
    tolerance: float = TOLERANCE,
    max_rounds: int = MAX_ROUNDS,
    start: ArrayLike | None = None,
) -> Solution:
    """The same for any ``Problem``: other objectives, several targets, rows that live elsewhere."""
    chosen, why = _chosen(solver, problem)
    first = problem.centre() if start is None else problem.inside(start)
    has_kinks = isinstance(problem.goal, Worst) and problem.goal.tau == 0
    if has_kinks and chosen == SOLVERS["newton"]:
        outcome = minimise_worst(problem, first, tolerance, max_rounds)
    else:
        outcome = minimise(problem, chosen, first, tolerance, max_rounds)
    name = next((name for name, known_solver in SOLVERS.items() if known_solver == chosen), type(chosen).__name__)
    return Solution.of(outcome, solver=name, why=why)


def _check(solver: str | Solver) -> None:
    if isinstance(solver, str) and solver not in ("auto", *SOLVERS):
        names = ["auto", *SOLVERS]
        near = get_close_matches(solver, names, n=1, cutoff=0.0)[0]
        raise InputError(f"unknown solver {solver!r}", wanted=", ".join(names), remedy=f"did you mean {near!r}?")


def _chosen(solver: str | Solver, problem: Problem) -> tuple[Solver, str]:
    """The solver and, where it was left to ``auto``, the reason."""
    _check(solver)
    if not isinstance(solver, str):
        return solver, ""
    if solver != "auto":
        return SOLVERS[solver], ""
    rows, sources = sum(objective.rows for objective in problem.objectives), problem.sources
    size = f"{sources:,} sources, {rows:,} rows"
    if sources <= (MOST_CURVED if problem.prior is None else MOST_CURVED_WITH_PRIOR):
        return SOLVERS["newton"], f"{size}: a curvature over all sources is cheap"
    if isinstance(problem.goal, Worst) and problem.goal.tau == 0:
        return SOLVERS["newton"], f"{size} and a worst case with kinks: the others may stall there"
    if problem.prior is None and not is_multiplicative(problem):
        return SOLVERS["newton"], f"{size}, a squared error: its curvature is worked out once"
    if problem.prior is None:
        return SOLVERS["working_set"], f"{size}: a curvature over all sources would be dear"
    return SOLVERS["entropic"], f"{size} and a prior, which gives every one a share: no curvature"
