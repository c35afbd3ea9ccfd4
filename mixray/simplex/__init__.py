"""The convex problem: objectives, solvers, constraints, certificate, error bars. It sees numbers, not a cache."""

from mixray.simplex.analysis.bootstrap import Bootstrap, Interchangeable, bootstrap, interchangeable
from mixray.simplex.analysis.gain import Gain, gains
from mixray.simplex.analysis.near_optimal import NearOptimal, PathPoint, effective_number, nearest_to_prior, prior_path
from mixray.simplex.analysis.offsets import BestMixture, BestSingle
from mixray.simplex.analysis.profile import profile_intervals
from mixray.simplex.analysis.realisable import Realisable, realisable
from mixray.simplex.analysis.worth import Prices, Worth, leave_one_out, paired_difference, shadow_prices
from mixray.simplex.feasible import FeasibleSet, Group
from mixray.simplex.goal import Goal, Mean, Prior, Worst
from mixray.simplex.objectives.cross_entropy import CrossEntropy
from mixray.simplex.objectives.objective import Evaluation, Objective
from mixray.simplex.objectives.rows import (
    Weighting,
    mixed_log_probs,
    mixture_loss,
    row_weights,
    sum_by_document,
)
from mixray.simplex.objectives.squared_error import SquaredError
from mixray.simplex.problem import Point, Problem
from mixray.simplex.solvers.first_order import Entropic
from mixray.simplex.solvers.loop import Solver
from mixray.simplex.solvers.newton import Newton
from mixray.simplex.solvers.reweighted import Reweighted, reweighted_log_probs, solve_reweighted
from mixray.simplex.solvers.solution import Solution
from mixray.simplex.solvers.solve import solve, solve_problem
from mixray.simplex.solvers.working_set import WorkingSet

__all__ = [
    "BestMixture",
    "BestSingle",
    "Bootstrap",
    "CrossEntropy",
    "Entropic",
    "Evaluation",
    "FeasibleSet",
    "Gain",
    "Goal",
    "Group",
    "Interchangeable",
    "Mean",
    "NearOptimal",
    "Newton",
    "Objective",
    "PathPoint",
    "Point",
    "Prices",
    "Prior",
    "Problem",
    "Realisable",
    "Reweighted",
    "Solution",
    "Solver",
    "SquaredError",
    "Weighting",
    "WorkingSet",
    "Worst",
    "Worth",
    "bootstrap",
    "effective_number",
    "gains",
    "interchangeable",
    "leave_one_out",
    "mixed_log_probs",
    "mixture_loss",
    "nearest_to_prior",
    "paired_difference",
    "prior_path",
    "profile_intervals",
    "realisable",
    "reweighted_log_probs",
    "row_weights",
    "shadow_prices",
    "solve",
    "solve_problem",
    "solve_reweighted",
    "sum_by_document",
]
