"""The comparison of robust methods on grouped rows, and the measures that explain them. Runs without Ray."""

from mixray.study.arm import TrainedArm, predict, results_of, train_arm
from mixray.study.mechanism import seed_heads
from mixray.study.summary import FinishedArm, compare

__all__ = ["FinishedArm", "TrainedArm", "compare", "predict", "results_of", "seed_heads", "train_arm"]
