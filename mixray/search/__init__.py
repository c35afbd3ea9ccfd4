"""From prediction caches to mixtures: the convex problem of a run, its answer, and the arms that are retrained on it.

It computes on numbers alone: the same code serves ``mixray run`` on a cluster and ``mixray solve`` without one.
"""

from mixray.search.again import Sweep, solve_again
from mixray.search.arms import (
    ArmArtifacts,
    ArmModel,
    arm_models,
    held_out_curves,
    with_files_read,
    with_held_out_results,
)
from mixray.search.diagnosis import example_signs_once, signs_once
from mixray.search.forecasts import rehearsed_mixtures, with_forecast
from mixray.search.problem import baseline_shares, baselines_of, feasible_set, problem_to_vary, require_mixtures
from mixray.search.rivals import doremi_flops, with_doremi, with_rivals
from mixray.search.solving import MixtureProblems, SolvedMixture, find_mixture, in_memory, mixture_targets, solve_once
from mixray.search.swarm import MeasuredSwarm, NoiseFloor, design_mixtures, swarm_seeds, swarm_tokens

__all__ = [
    "ArmArtifacts",
    "ArmModel",
    "MeasuredSwarm",
    "MixtureProblems",
    "NoiseFloor",
    "SolvedMixture",
    "Sweep",
    "arm_models",
    "baseline_shares",
    "baselines_of",
    "design_mixtures",
    "doremi_flops",
    "example_signs_once",
    "feasible_set",
    "find_mixture",
    "held_out_curves",
    "in_memory",
    "mixture_targets",
    "problem_to_vary",
    "rehearsed_mixtures",
    "require_mixtures",
    "signs_once",
    "solve_again",
    "solve_once",
    "swarm_seeds",
    "swarm_tokens",
    "with_doremi",
    "with_files_read",
    "with_forecast",
    "with_held_out_results",
    "with_rivals",
]
