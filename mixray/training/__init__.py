"""The torch training loop that proxies and retraining share: optimizer, schedule, checkpoint."""

from mixray.training.batch import Batch, BatchStream, ColumnAsGroups, CompletionsAlone, SourcesAsGroups, WindowStream
from mixray.training.checkpoint import Checkpoint, StorageCheckpoint, delete_states
from mixray.training.loop import HeldOut, step_count, train
from mixray.training.loss import RowLoss, weighted_sum
from mixray.training.objective import Objective
from mixray.training.progress import Progress, TrainReport
from mixray.training.world import Preempted, World, autocast, device_for, use_resources

__all__ = [
    "Batch",
    "BatchStream",
    "Checkpoint",
    "ColumnAsGroups",
    "CompletionsAlone",
    "HeldOut",
    "Objective",
    "Preempted",
    "Progress",
    "RowLoss",
    "SourcesAsGroups",
    "StorageCheckpoint",
    "TrainReport",
    "WindowStream",
    "World",
    "autocast",
    "delete_states",
    "device_for",
    "step_count",
    "train",
    "use_resources",
    "weighted_sum",
]
