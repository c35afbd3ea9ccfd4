"""Ways to choose a mixture that others are compared with, as plain functions of the sources' sizes or of a swarm."""

from mixray.methods.baselines import balanced, natural, temperature, unimax
from mixray.methods.choosing import Choice, best_expected, best_of_swarm
from mixray.methods.designs import random_mixtures, swarm_mixtures
from mixray.methods.outlook import MeasuredDifference, Outlook, outlook
from mixray.methods.surrogates import boosted_trees, gaussian_process, mixing_law, require_lightgbm, ridge

__all__ = [
    "Choice",
    "MeasuredDifference",
    "Outlook",
    "balanced",
    "best_expected",
    "best_of_swarm",
    "boosted_trees",
    "gaussian_process",
    "mixing_law",
    "natural",
    "outlook",
    "random_mixtures",
    "require_lightgbm",
    "ridge",
    "swarm_mixtures",
    "temperature",
    "unimax",
]
