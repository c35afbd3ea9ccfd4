"""The convex problem: objectives, solvers, constraints, certificate, error bars. It sees numbers, not a cache."""

from mixray.simplex.bootstrap import Bootstrap, Documents, bootstrap
from mixray.simplex.cross_entropy import CrossEntropy
from mixray.simplex.em import EM
from mixray.simplex.entropic import Entropic
from mixray.simplex.evaluate import mixed_log_probs, mixture_loss
from mixray.simplex.feasible import FeasibleSet, Group
from mixray.simplex.goal import Goal, Mean, Worst
from mixray.simplex.loop import Solution, Solver
from mixray.simplex.newton import Newton
from mixray.simplex.objective import Evaluation, Objective
from mixray.simplex.prior import Prior
from mixray.simplex.problem import Point, Problem
from mixray.simplex.rows import Weighting, row_weights, sum_by_document
from mixray.simplex.solve import solve, solve_problem
from mixray.simplex.squared_error import SquaredError

__all__ = [
    "EM",
    "Bootstrap",
    "CrossEntropy",
    "Documents",
    "Entropic",
    "Evaluation",
    "FeasibleSet",
    "Goal",
    "Group",
    "Mean",
    "Newton",
    "Objective",
    "Point",
    "Prior",
    "Problem",
    "Solution",
    "Solver",
    "SquaredError",
    "Weighting",
    "Worst",
    "bootstrap",
    "mixed_log_probs",
    "mixture_loss",
    "row_weights",
    "solve",
    "solve_problem",
    "sum_by_document",
]
