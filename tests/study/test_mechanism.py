"""Measures of arms and of exact heads: known directions, the bound, and which rows they are taken on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mixray.config.robust import MeasuresConfig
from mixray.config.training import HeadConfig
from mixray.data.tabular.grouped import GroupedTask
from mixray.models import Classifier
from mixray.study.mechanism import References, completeness_of, exact_heads, measured_rows, measures_of_arm
from tests.study.conftest import toy_rows

CONFIG = MeasuresConfig(rows=300)


def linear(weights: np.ndarray, bias: np.ndarray) -> Classifier:
    model = Classifier(HeadConfig(), features=weights.shape[1], classes=len(weights), seed=0)
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(weights))
        model.head.bias.copy_(torch.from_numpy(bias))
    return model


@pytest.mark.parametrize("reference", ["spurious", "oracle", "robust", "erm"])
def test_a_head_that_is_a_reference_aligns_with_it_and_obeys_the_bound(reference: str) -> None:
    rows, l2 = toy_rows(), 0.05
    references = References.of(rows.features.astype(np.float64), rows, l2)
    head = getattr(references, reference)
    measures = measures_of_arm(linear(head.weights, head.bias), rows, l2=l2, config=CONFIG, seed=0)
    bound, cosines = measures.bound, measures.alignment
    assert bound is not None
    assert cosines is not None
    if reference in ("spurious", "oracle"):
        assert getattr(cosines, reference) == pytest.approx(1, abs=1e-6)
    assert bound.holds
    assert bound.slack == pytest.approx(bound.gap - bound.distance)
    if reference == "robust":
        assert bound.gap == pytest.approx(0, abs=1e-5)


def test_the_spurious_head_follows_the_shortcut_and_the_oracle_less_than_erm() -> None:
    rows = toy_rows(400)
    references = References.of(rows.features.astype(np.float64), rows, 0.05)
    assert references.spurious is not None

    def share(weights: np.ndarray) -> float:
        direction = weights[1] - weights[0]
        return float(abs(direction[1]) / np.abs(direction).sum())

    assert share(references.oracle.weights) < share(references.erm.weights) < share(references.spurious.weights)


@pytest.mark.parametrize("l2", [0.001, 0.1, 1.0])
def test_the_bound_holds_for_exact_heads_at_every_strength(l2: float) -> None:
    heads = exact_heads(toy_rows(200), toy_rows(100, seed=1), l2=l2)
    assert heads.bound.holds
    assert heads.certificate < 1e-5
    assert heads.worst_loss.group_dro <= heads.worst_loss.erm
    assert heads.spurious is not None
    assert heads.spurious.group_dro < heads.spurious.erm


def test_without_l2_there_are_neither_references_nor_a_bound() -> None:
    measures = measures_of_arm(linear(np.eye(2), np.zeros(2)), toy_rows(), l2=0.0, config=CONFIG, seed=0)
    assert measures.completeness is not None
    assert (measures.bound, measures.alignment) == (None, None)


def test_completeness_carries_the_settings_on_which_it_depends() -> None:
    rows = toy_rows(200)
    config = MeasuresConfig(estimator="random_forest", pca=2)
    spread = measures_of_arm(linear(np.eye(2), np.zeros(2)), rows, l2=0.0, config=config, seed=0).completeness
    assert spread is not None
    assert (spread.dimensions, spread.estimator) == (2, "random_forest")
    assert spread.kept_variance == pytest.approx(1)
    assert 0 <= spread.completeness <= 1
    assert completeness_of(np.zeros((200, 3)), rows, config, 0) is None


def test_measured_rows_keep_every_group(digits: GroupedTask) -> None:
    rows = measured_rows(digits, 200, 0)
    counts = np.bincount(rows.group_ids)
    assert counts[[1, 2]].tolist() == digits.training_counts[[1, 2]].tolist()
    assert counts[[0, 3]] == pytest.approx(digits.training_counts[[0, 3]] / 5, abs=1)
    assert len(measured_rows(digits, 1000, 0)) == 1000
