"""Classifiers of grouped rows: models, arms that train them, and what explains their robustness. Runs without Ray."""

from mixray.study.arm import TrainedArm, results_of, train_arm
from mixray.study.mechanism import measured_rows, measures_of_heads

__all__ = [
    "TrainedArm",
    "measured_rows",
    "measures_of_heads",
    "results_of",
    "train_arm",
]
