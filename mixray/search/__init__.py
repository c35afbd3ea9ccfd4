"""From prediction caches to mixtures: rows, constraints, the convex problem, error bars, what baselines would give.

Numbers only: it runs the same inside ``mixray run`` and, later and without a cluster, for ``mixray solve``.
"""

from mixray.search.again import Sweep, solve_again
from mixray.search.answer import Found, find_mixture
from mixray.search.constraints import baseline_mixtures, baseline_shares, feasible_set, natural_tokens
from mixray.search.stored import in_memory, mixture_targets, solve_once

__all__ = [
    "Found",
    "Sweep",
    "baseline_mixtures",
    "baseline_shares",
    "feasible_set",
    "find_mixture",
    "in_memory",
    "mixture_targets",
    "natural_tokens",
    "solve_again",
    "solve_once",
]
