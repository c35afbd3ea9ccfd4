"""The torch training loop that proxies and retraining share: optimiser, schedule, checkpoint."""

from mixray.training.checkpoint import Checkpoint, StorageCheckpoint
from mixray.training.device import autocast, device_for
from mixray.training.loop import WindowStream, step_count, train
from mixray.training.progress import Progress, TrainReport
from mixray.training.world import World

__all__ = [
    "Checkpoint",
    "Progress",
    "StorageCheckpoint",
    "TrainReport",
    "WindowStream",
    "World",
    "autocast",
    "device_for",
    "step_count",
    "train",
]
