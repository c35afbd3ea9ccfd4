"""The classifier and its loss: what is differentiated is the weighted loss with the whole penalty."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from mixray.config.training import HeadConfig
from mixray.models import Classifier, ClassifierLoss

LINEAR, MLP = HeadConfig(), HeadConfig.model_validate({"head": "mlp", "hidden": [8, 4]})


@pytest.mark.parametrize(("config", "parameters"), [(LINEAR, 5 * 3 + 3), (MLP, 5 * 8 + 8 + 8 * 4 + 4 + 4 * 3 + 3)])
def test_a_head_stands_on_its_trunk(config: HeadConfig, parameters: int) -> None:
    model = Classifier(config, features=5, classes=3, seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    features = torch.randn(7, 5)
    assert model(features).equal(model.head(model.trunk(features)))


def test_the_first_weights_are_the_seeds_and_draw_nothing_from_the_global_generator() -> None:
    torch.manual_seed(0)
    first = torch.randn(1)
    torch.manual_seed(0)
    one, same, other = (Classifier(MLP, features=5, classes=3, seed=seed).head.weight for seed in (1, 1, 2))
    assert torch.randn(1).equal(first)
    assert one.equal(same)
    assert not one.equal(other)


@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 3.0, 0.5]])
def test_the_penalty_has_the_weight_of_the_rows(weights: list[float] | None) -> None:
    model, l2 = Classifier(MLP, features=5, classes=3, seed=0), 0.3
    features, labels = torch.randn(4, 5), torch.tensor([0, 1, 2, 1])
    row_weights = None if weights is None else torch.tensor(weights)
    total, plain = ClassifierLoss(model, l2)(features, labels, row_weights=row_weights)
    losses = cross_entropy(model(features), labels, reduction="none")
    squares = sum(parameter.square().sum() for parameter in model.parameters())
    expected = ((losses + l2 / 2 * squares) * (1 if row_weights is None else row_weights)).sum()
    assert plain.equal(losses.detach())
    assert not plain.requires_grad
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    ours = torch.autograd.grad(total, list(model.parameters()), retain_graph=True)
    theirs = torch.autograd.grad(expected, list(model.parameters()))
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(ours, theirs, strict=True))


def test_without_l2_there_is_no_penalty() -> None:
    model = Classifier(LINEAR, features=5, classes=3, seed=0)
    total, plain = ClassifierLoss(model, 0.0)(torch.randn(4, 5), torch.tensor([0, 1, 2, 1]))
    assert total.item() == plain.sum().item()
