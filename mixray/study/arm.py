"""One arm under one seed: trained, its best model on the validation part kept, measured on the test part once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixray.config.robust import RobustArm, RobustConfig
from mixray.config.training import LoopConfig
from mixray.data.tabular.task import Task
from mixray.models import Classifier, ClassifierLoss
from mixray.robust.worst_group import GroupValues
from mixray.study.mechanism import measured_rows, measures_of_arm
from mixray.study.objectives import objective_of
from mixray.study.selection import SelectingCheckpoint, Selection, accuracy
from mixray.study.stream import stream_of
from mixray.training import Checkpoint, Progress, TrainReport, device_for, train
from mixray.training.progress import save_steps


@dataclass(frozen=True, eq=False)
class TrainedArm:
    """The model that was selected, and the run that it comes from."""

    model: Classifier
    selection: Selection
    report: TrainReport


def train_arm(
    task: Task, config: RobustConfig, arm: RobustArm, seed: int, *, checkpoint: Checkpoint | None = None
) -> TrainedArm:
    """All arms of a seed begin at the same weights and take the same number of steps of the same size."""
    steps = config.step_count(len(task.train))
    device = device_for(config.resources.gpus)
    model = Classifier(
        config.model, features=task.train.features.shape[1], classes=len(task.label_names), seed=seed
    ).to(device)
    selection = Selection(task.validation, len(task.group_names), config.select_by)
    due = save_steps(steps, config.evaluations)

    def evaluate(record: Progress) -> None:
        if record.step in due:
            selection.measure(record.step, model)

    report = train(
        model,
        stream_of(arm, task, seed),
        steps=steps,
        config=LoopConfig(optimizer=config.optimizer, batch=config.batch, precision=config.precision),
        device=device,
        seed=seed,
        loss=lambda trained: ClassifierLoss(trained, config.l2),
        objective=objective_of(arm, config, task),
        group_names=task.group_names,
        checkpoint=None if checkpoint is None else SelectingCheckpoint(checkpoint, selection),
        progress=evaluate,
    )
    model.load_state_dict(selection.best)
    model.eval()
    return TrainedArm(model, selection, report)


def results_of(trained: TrainedArm, task: Task, config: RobustConfig, seed: int) -> dict[str, Any]:
    """Everything that is told of an arm, plain numbers; None for a group without rows.

    test, validation: see ``described``; selected: the step of the model that they are of, and its score;
    curves: accuracy of each group on the validation part, and the training records with group losses and weights.
    """
    selection, groups = trained.selection, len(task.group_names)
    rows = measured_rows(task, config.measures.rows, seed)
    return {
        "seed": seed,
        "selected": {"by": config.select_by, "step": selection.best_step, "score": selection.best_score},
        "test": described(accuracy(trained.model, task.test, groups), task.training_counts),
        "validation": described(accuracy(trained.model, task.validation, groups), task.training_counts),
        "training_counts": task.training_counts.tolist(),
        "steps": trained.report.records[-1].step,
        "rows_seen": trained.report.tokens,
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
        "seconds": trained.report.seconds,
        "validation_curve": [[step, known(values)] for step, values in selection.history],
        "training_curve": [
            {
                "step": record.step,
                "loss": record.loss,
                "group_losses": record.group_losses,
                "group_weights": record.group_weights,
            }
            for record in trained.report.records
        ],
        "measures": measures_of_arm(trained.model, rows, l2=config.l2, config=config.measures, seed=seed),
        "warnings": task.warnings,
    }


def described(found: GroupValues, training_counts: NDArray[np.int64]) -> dict[str, Any]:
    """accuracy of each group with its count, the worst one, and the average in both meanings.

    ``average_training_share`` is None where a group of the training part has no rows here.
    """
    complete = bool((found.counts[training_counts > 0] > 0).all())
    return {
        "accuracy": known(found.values.tolist()),
        "counts": found.counts.tolist(),
        "worst_group": found.worst_group,
        "worst": found.worst,
        "average_test": found.average_test,
        "average_training_share": found.average_training_share(training_counts) if complete else None,
    }


def known(values: Sequence[float]) -> list[float | None]:
    """With None for NaN, as JSON has it."""
    return [None if math.isnan(value) else value for value in values]
