"""The convex problem: objective, solvers, constraints, certificate, error bars. It sees numbers, not a cache."""

from mixray.simplex.bootstrap import Bootstrap, bootstrap
from mixray.simplex.em import EM
from mixray.simplex.entropic import Entropic
from mixray.simplex.evaluate import mixed_log_probs, mixture_loss
from mixray.simplex.loop import Solution, Solver
from mixray.simplex.newton import Newton
from mixray.simplex.rows import Weighting, row_weights, sum_by_document
from mixray.simplex.solve import solve

__all__ = [
    "EM",
    "Bootstrap",
    "Entropic",
    "Newton",
    "Solution",
    "Solver",
    "Weighting",
    "bootstrap",
    "mixed_log_probs",
    "mixture_loss",
    "row_weights",
    "solve",
    "sum_by_document",
]
