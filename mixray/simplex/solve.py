"""``solve``: from a table of log-probabilities to the best mixture, with a certificate."""

from __future__ import annotations

from difflib import get_close_matches

from numpy.typing import ArrayLike

from mixray.errors import InputError
from mixray.simplex.em import EM
from mixray.simplex.entropic import Entropic
from mixray.simplex.loop import Solution, Solver, minimise
from mixray.simplex.newton import Newton
from mixray.simplex.problem import Problem

SOLVERS: dict[str, Solver] = {"newton": Newton(), "entropic": Entropic(), "em": EM()}
TOLERANCE = 1e-8
MAX_ROUNDS = 10_000


def solve(
    log_probs: ArrayLike,
    *,
    row_weights: ArrayLike | None = None,
    lower: ArrayLike | None = None,
    upper: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    prior_strength: float = 0.0,
    solver: str | Solver = "newton",
    tolerance: float = TOLERANCE,
    max_rounds: int = MAX_ROUNDS,
    start: ArrayLike | None = None,
) -> Solution:
    """The source shares that minimise ``-sum_i w_i log sum_k shares_k exp(l_ik)`` over the simplex within bounds.

    This is MixMin's convex problem (arXiv 2502.10510): ``l_ik`` is the log-probability of row i under the proxy of
    source k, ``w_i`` the row's weight.

    Args:
        log_probs: nats, shape ``(rows, sources)``; computed in float64. -inf is allowed, NaN and +inf are not.
        row_weights: shape ``(rows,)``, finite, >= 0; 1/rows each by default. See ``row_weights`` for nats per token.
        lower, upper: bounds on the shares, one number or shape ``(sources,)``, within [0, 1].
        prior: shares ``(sources,)`` to stay near to; balanced by default. Matters only with a ``prior_strength``.
        prior_strength: adds ``prior_strength * KL(shares || prior)`` to the loss; nats per token.
        solver: ``newton``, ``entropic``, ``em``, or an object such as ``Entropic(fixed_step=1.0)``.
        tolerance: on the certified gap, nats per token.
        max_rounds: the status is ``round_limit`` when they did not suffice.
        start: shares to start from; the feasible ones nearest to balanced (or to the prior) by default.

    Returns:
        A ``Solution``.

    Raises:
        InputError: for a bad table (naming rows), bad weights, bounds that no mixture satisfies, an unknown solver.
    """
    chosen = _solver(solver)
    problem = Problem.of(log_probs, row_weights, lower, upper, prior, prior_strength)
    first = problem.centre() if start is None else problem.inside(start)
    return minimise(problem, chosen, first, tolerance, max_rounds)


def _solver(solver: str | Solver) -> Solver:
    if not isinstance(solver, str):
        return solver
    if solver not in SOLVERS:
        near = get_close_matches(solver, SOLVERS, n=1, cutoff=0.0)[0]
        raise InputError(f"unknown solver {solver!r}", wanted=", ".join(SOLVERS), remedy=f"did you mean {near!r}?")
    return SOLVERS[solver]
