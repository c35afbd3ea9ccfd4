"""What an arm minimises, as the training loop takes it."""

from __future__ import annotations

from functools import partial

from mixray.config.robust import RobustArm, RobustConfig
from mixray.data.tabular.task import Task
from mixray.robust import ALSO, GroupDRO
from mixray.robust.objective import ALSOObjective, GroupDROObjective
from mixray.training import Objective


def objective_of(arm: RobustArm, config: RobustConfig, task: Task) -> Objective | None:
    """None for the arms that minimise a mean over rows."""
    groups = len(task.group_names)
    if arm == "group_dro":
        return GroupDROObjective(
            GroupDRO(groups, training_counts=task.training_counts.tolist(), **config.group_dro.model_dump())
        )
    if arm == "also":
        return ALSOObjective(partial(ALSO, num_groups=groups, **config.also.model_dump()))
    return None
