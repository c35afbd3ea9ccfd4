"""One arm under one seed: which rows it draws, what it minimises, which of its models is selected, how good that is.

All arms of a seed start from the same weights and take the same number of steps of the same size. The validation part
alone selects the model; the test part is used once, to judge the selected one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mixray.config.robust import Criterion, RobustArm, RobustConfig
from mixray.config.training import LoopConfig
from mixray.data.draws import Draws, GroupBalanced, InEpochs
from mixray.data.tabular.grouped import GroupedRows, GroupedTask, importance_weights
from mixray.models import Classifier, ClassifierLoss
from mixray.report.robust.results import Accuracy, SeedResult, SelectedModel, TaskWarning, TrainingPoint
from mixray.robust import ALSO, GroupDRO
from mixray.robust.objective import ALSOObjective, GroupDROObjective
from mixray.robust.worst_group import GroupAccuracy, group_accuracy
from mixray.study.intervals import Predictions
from mixray.study.mechanism import measured_rows, measures_of_arm
from mixray.training import Batch, Checkpoint, Objective, Progress, TrainReport, device_for, train
from mixray.training.checkpoint import State
from mixray.training.progress import milestones

# --------------------------------------------------------------------------------------------- what an arm trains on


class ArmStream:
    """The training rows in the arm's order, with their groups and weights."""

    def __init__(self, task: GroupedTask, draws: Draws, group_weights: NDArray[np.float64] | None) -> None:
        """Read a task's rows as drawn.

        ``group_weights``: float64 (groups,), factors of the losses of each group's rows; None: all 1.
        """
        self._rows, self._draws, self._group_weights = task.train, draws, group_weights

    def read(self, start: int, stop: int) -> Batch:
        rows = self._draws.rows(start, stop)
        group_ids = self._rows.group_ids[rows]
        weights = None if self._group_weights is None else self._group_weights[group_ids]
        return Batch((self._rows.features[rows], self._rows.labels[rows]), group_ids, weights)


def stream_of(arm: RobustArm, task: GroupedTask, seed: int) -> ArmStream:
    """Return the arm's stream: rows in epochs except for ``balanced``, weights of 1 except for ``importance``."""
    if arm == "balanced":
        return ArmStream(task, GroupBalanced(task.train.group_ids, seed), None)
    weights = importance_weights(task.training_counts) if arm == "importance" else None
    return ArmStream(task, InEpochs(len(task.train), seed), weights)


def objective_of(arm: RobustArm, config: RobustConfig, task: GroupedTask) -> Objective | None:
    """Return what the arm minimises, None for the mean over rows."""
    groups = len(task.group_names)
    if arm == "group_dro":
        return GroupDROObjective(
            GroupDRO(groups, training_counts=task.training_counts.tolist(), **config.group_dro.model_dump())
        )
    if arm == "also":
        return ALSOObjective(partial(ALSO, num_groups=groups, **config.also.model_dump()))
    return None


# --------------------------------------------------------------------------------------------------- model selection


@torch.no_grad()
def predict(model: nn.Module, rows: GroupedRows) -> Predictions:
    device = next(model.parameters()).device
    classes = model(torch.from_numpy(rows.features).to(device)).argmax(1).cpu().numpy()
    return Predictions(rows.row_ids, rows.group_ids, classes == rows.labels)


def accuracy(model: nn.Module, rows: GroupedRows, num_groups: int) -> GroupAccuracy:
    """Return the accuracy of each group, NaN for groups without rows."""
    return group_accuracy(predict(model, rows).correct, np.ones(len(rows), bool), rows.group_ids, num_groups=num_groups)


class Selection:
    """Judges a model on the validation part from time to time, and keeps the best one; of equal ones the first."""

    def __init__(self, validation: GroupedRows, num_groups: int, select_by: Criterion) -> None:
        self.validation, self.num_groups, self.select_by = validation, num_groups, select_by
        self.history: list[tuple[int, list[float]]] = []
        self.best_step, self.best_score = 0, -1.0
        self.best: State = {}

    def measure(self, step: int, model: nn.Module) -> None:
        """Judge the model as it is after ``step`` steps."""
        model.eval()
        values = accuracy(model, self.validation, self.num_groups)
        model.train()
        self.history.append((step, values.values.tolist()))
        score = values.worst if self.select_by == "worst_group" else values.average_test
        if score > self.best_score:
            self.best_step, self.best_score = step, score
            self.best = copy.deepcopy(model.state_dict())

    def state(self) -> State:
        return {"history": self.history, "step": self.best_step, "score": self.best_score, "best": self.best}

    def restore(self, state: State) -> None:
        self.history = [(step, list(values)) for step, values in state["history"]]
        self.best_step, self.best_score, self.best = state["step"], state["score"], state["best"]


@dataclass(frozen=True)
class SelectingCheckpoint:
    """A checkpoint that also stores the selection, so that a resumed run selects the same model."""

    inner: Checkpoint
    selection: Selection

    def latest(self) -> State | None:
        state = self.inner.latest()
        if state is not None:
            self.selection.restore(state["selection"])
        return state

    def save(self, step: int, state: State) -> None:
        self.inner.save(step, state | {"selection": self.selection.state()})


# ------------------------------------------------------------------------------------------------- training, results


@dataclass(frozen=True, eq=False)
class TrainedArm:
    """The selected model, and the training that it comes from."""

    model: Classifier
    selection: Selection
    report: TrainReport


def train_arm(
    task: GroupedTask, config: RobustConfig, arm: RobustArm, seed: int, *, checkpoint: Checkpoint | None = None
) -> TrainedArm:
    steps = config.step_count(len(task.train))
    device = device_for(config.resources.gpus)
    model = Classifier(
        config.model, features=task.train.features.shape[1], classes=len(task.label_names), seed=seed
    ).to(device)
    selection = Selection(task.validation, len(task.group_names), config.select_by)
    due = milestones(steps, config.evaluations)

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


def results_of(trained: TrainedArm, task: GroupedTask, config: RobustConfig, arm: RobustArm, seed: int) -> SeedResult:
    """Judge the selected model on the test part, and measure why it is as robust as it is."""
    selection, groups = trained.selection, len(task.group_names)
    rows = measured_rows(task, config.measures.rows, seed)
    return SeedResult(
        arm=arm,
        seed=seed,
        label_names=task.label_names,
        group_names=task.group_names,
        spurious_names=task.spurious_names,
        feature_names=task.feature_names,
        selected=SelectedModel(by=config.select_by, step=selection.best_step, score=selection.best_score),
        test=accuracy_record(accuracy(trained.model, task.test, groups), task.training_counts),
        validation=accuracy_record(accuracy(trained.model, task.validation, groups), task.training_counts),
        training_counts=tuple(task.training_counts.tolist()),
        steps=trained.report.records[-1].step,
        rows_seen=trained.report.tokens,
        parameters=sum(parameter.numel() for parameter in trained.model.parameters()),
        seconds=trained.report.seconds,
        validation_curve=tuple((step, none_for_nan(values)) for step, values in selection.history),
        training_curve=tuple(TrainingPoint.model_validate(record) for record in trained.report.records),
        measures=measures_of_arm(trained.model, rows, l2=config.l2, config=config.measures, seed=seed),
        warnings=tuple(TaskWarning(**warning) for warning in task.warnings),
    )


def accuracy_record(values: GroupAccuracy, training_counts: NDArray[np.int64]) -> Accuracy:
    every_group = bool((values.counts[training_counts > 0] > 0).all())
    return Accuracy(
        accuracy=none_for_nan(values.values.tolist()),
        counts=tuple(values.counts.tolist()),
        worst_group=values.worst_group,
        worst=values.worst,
        average_test=values.average_test,
        average_training_share=values.average_training_share(training_counts) if every_group else None,
    )


def none_for_nan(values: Sequence[float]) -> tuple[float | None, ...]:
    return tuple(None if math.isnan(value) else value for value in values)
