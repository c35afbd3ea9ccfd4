"""Measures of arms and of exact heads: known directions, the bound, and which rows they are taken on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mixray.config.robust import MeasuresConfig
from mixray.config.training import HeadConfig
from mixray.data.tabular.task import Task
from mixray.models import Classifier
from mixray.study import measured_rows, measures_of_heads
from mixray.study.mechanism import completeness_of, measures_of_arm, references
from tests.study.conftest import toy_part

CONFIG = MeasuresConfig(rows=300)


def linear(weights: np.ndarray, bias: np.ndarray) -> Classifier:
    model = Classifier(HeadConfig(), features=weights.shape[1], classes=len(weights), seed=0)
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(weights))
        model.head.bias.copy_(torch.from_numpy(bias))
    return model


@pytest.mark.parametrize("reference", ["spurious", "oracle", "robust", "erm"])
def test_a_head_that_is_a_reference_aligns_with_it_and_obeys_the_bound(reference: str) -> None:
    part, l2 = toy_part(), 0.05
    known = references(part.features.astype(np.float64), part, np.bincount(part.group_ids), l2)
    head = getattr(known, reference)
    found = measures_of_arm(linear(head.weights, head.bias), part, l2=l2, config=CONFIG, seed=0)
    if reference in found["alignment"]:
        assert found["alignment"][reference] == pytest.approx(1, abs=1e-6)
    assert found["bound"]["holds"]
    assert found["bound"]["slack"] == pytest.approx(found["bound"]["gap"] - found["bound"]["distance"])
    if reference == "robust":
        assert found["bound"]["gap"] == pytest.approx(0, abs=1e-5)


def test_the_spurious_head_follows_the_shortcut_and_the_oracle_less_than_erm() -> None:
    part = toy_part(400)
    known = references(part.features.astype(np.float64), part, np.bincount(part.group_ids), 0.05)
    assert known.spurious is not None

    def share(weights: np.ndarray) -> float:
        direction = weights[1] - weights[0]
        return float(abs(direction[1]) / np.abs(direction).sum())

    assert share(known.oracle.weights) < share(known.erm.weights) < share(known.spurious.weights)


@pytest.mark.parametrize("l2", [0.001, 0.1, 1.0])
def test_the_bound_holds_for_exact_heads_at_every_strength(l2: float) -> None:
    found = measures_of_heads(toy_part(200), toy_part(100, seed=1), l2=l2)
    assert found["bound"]["holds"]
    assert found["certificate"] < 1e-5
    assert found["worst_loss"]["group_dro"] <= found["worst_loss"]["erm"]
    assert found["spurious"]["group_dro"] < found["spurious"]["erm"]


def test_without_l2_there_are_neither_references_nor_a_bound() -> None:
    found = measures_of_arm(linear(np.eye(2), np.zeros(2)), toy_part(), l2=0.0, config=CONFIG, seed=0)
    assert set(found) == {"completeness"}


def test_completeness_carries_what_it_hangs_on() -> None:
    part = toy_part(200)
    config = MeasuresConfig(estimator="random_forest", pca=2)
    found = measures_of_arm(linear(np.eye(2), np.zeros(2)), part, l2=0.0, config=config, seed=0)["completeness"]
    assert (found["dimensions"], found["estimator"]) == (2, "random_forest")
    assert found["kept_variance"] == pytest.approx(1)
    assert 0 <= found["completeness"] <= 1
    assert completeness_of(np.zeros((200, 3)), part, config, 0) is None


def test_measured_rows_keep_every_group(digits: Task) -> None:
    rows = measured_rows(digits, 200, 0)
    counts = np.bincount(rows.group_ids)
    assert counts[[1, 2]].tolist() == digits.training_counts[[1, 2]].tolist()
    assert counts[[0, 3]] == pytest.approx(digits.training_counts[[0, 3]] / 5, abs=1)
    assert len(measured_rows(digits, 1000, 0)) == 1000
