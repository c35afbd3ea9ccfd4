"""Which of an arm's models counts: the best on the validation part, by the worst group or by the average as asked."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mixray.config.robust import Criterion
from mixray.data.tabular.task import Part
from mixray.robust.worst_group import GroupValues, group_accuracy
from mixray.training import Checkpoint

State = dict[str, Any]


@torch.no_grad()
def accuracy(model: nn.Module, part: Part, num_groups: int) -> GroupValues:
    """Accuracy of each group; groups without rows are NaN."""
    device = next(model.parameters()).device
    logits = model(torch.from_numpy(part.features).to(device))
    return group_accuracy(logits.argmax(1), part.labels, part.group_ids, num_groups=num_groups)


def score(found: GroupValues, select_by: Criterion) -> float:
    return found.worst if select_by == "worst_group" else found.average_test


@dataclass
class Selection:
    """Measures a model now and then; keeps the best and how accuracy went. Of equals the first is kept."""

    validation: Part
    num_groups: int
    select_by: Criterion

    def __post_init__(self) -> None:
        self.history: list[tuple[int, list[float]]] = []
        self.best_step, self.best_score = 0, -1.0
        self.best: State = {}

    def measure(self, step: int, model: nn.Module) -> GroupValues:
        """``step``: from 1, after which the model is this."""
        model.eval()
        found = accuracy(model, self.validation, self.num_groups)
        model.train()
        self.history.append((step, found.values.tolist()))
        if score(found, self.select_by) > self.best_score:
            self.best_step, self.best_score = step, score(found, self.select_by)
            self.best = copy.deepcopy(model.state_dict())
        return found

    def state(self) -> State:
        return {"history": self.history, "step": self.best_step, "score": self.best_score, "best": self.best}

    def restore(self, state: State) -> None:
        self.history = [(step, list(values)) for step, values in state["history"]]
        self.best_step, self.best_score, self.best = state["step"], state["score"], state["best"]


@dataclass(frozen=True)
class SelectingCheckpoint:
    """A checkpoint that keeps the selection with the rest, so that a run that went on selects as if it had not died."""

    inner: Checkpoint
    selection: Selection

    def latest(self) -> State | None:
        state = self.inner.latest()
        if state is not None:
            self.selection.restore(state["selection"])
        return state

    def save(self, step: int, state: State) -> None:
        self.inner.save(step, state | {"selection": self.selection.state()})
