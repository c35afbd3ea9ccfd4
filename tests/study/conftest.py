"""One thread, so that sums have one order; a small task and its run file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mixray.config.robust import DigitsConfig, RobustConfig
from mixray.data.tabular.grouped import GroupedRows, GroupedTask, digits_task


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> GroupedTask:
    return digits_task(DigitsConfig(correlation=0.95), 0)


def run_file(**changes: Any) -> RobustConfig:
    settings = {"name": "test", "data": {"digits": {}}, "steps": 40, "evaluations": 4, "measures": {"rows": 300}}
    return RobustConfig.model_validate(settings | changes)


def toy_rows(rows: int = 60, seed: int = 0) -> GroupedRows:
    """Two features, the label's and the shortcut's; groups of label and shortcut, each with a row."""
    draws = np.random.default_rng(seed)
    labels = np.arange(rows) % 2
    spurious = np.where(draws.random(rows) < 0.9, labels, 1 - labels)
    spurious[:4] = [0, 0, 1, 1]
    features = np.column_stack([2 * labels - 1, 2 * (2 * spurious - 1)]) + draws.normal(size=(rows, 2))
    return GroupedRows(features.astype(np.float32), labels, 2 * labels + spurious, spurious, np.arange(rows))
