"""The run file's objective for an arm: every setting arrives, groups are the arm's sources in its order."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from mixray.config.objective import ALSOConfig, ALSOSettings, ObjectiveConfig
from mixray.config.training import OptimizerConfig
from mixray.robust import ALSO, new_objective
from mixray.robust.objective import ALSOObjective, DoReMiObjective, GroupDROObjective
from mixray.training import Objective

SHARES = {"low": 0.25, "one": 0.75}
PRESENCE = [0.5, 1.0]
IDS = torch.tensor([0, 1, 1, 1])
LOSSES = torch.tensor([3.0, 1.0, 1.0, 1.0])


def objective(**settings: Any) -> Objective | None:
    config = TypeAdapter(ObjectiveConfig).validate_python(settings)
    references = {"one": 0.5, "low": 2.9, "unused": 7.0}
    return new_objective(config, SHARES, windows=400, presence=PRESENCE, reference_losses=references)


def stepped(**settings: Any) -> tuple[list[float], list[float]]:
    """Row weights of the first step, and the group weights after it."""
    found, model = objective(**settings), nn.Linear(2, 1)
    assert found is not None
    optimizer = found.optimizer(model, OptimizerConfig(), torch.device("cpu"))
    with found.step(IDS) as row_weights:
        model(torch.ones(4, 2)).squeeze(1).mean().backward()
        found.observe(LOSSES, IDS)
    optimizer.step()
    return row_weights.tolist(), found.group_weights.tolist()


def test_erm_needs_none() -> None:
    assert objective(kind="erm") is objective() is None


def odds(weights: list[float]) -> float:
    """log of low's weight over one's."""
    return math.log(weights[0] / weights[1])


@pytest.mark.parametrize("kind", ["group_dro", "also"])
@pytest.mark.parametrize(
    ("settings", "first", "climbed"),
    [
        # Losses 3 and 1, low's divided by its presence, so 6 and 1; the rows' weights are 1/2 each, divided likewise.
        ({"missing": "inverse_presence"}, [1.0, 1 / 6], 0.1 * 5),
        ({}, [0.5, 1 / 6], 0.1 * 2),
        ({"missing": "present_only"}, [0.5, 1 / 6], 0.1 * 2),
        ({"missing": "ema"}, [0.5, 1 / 6], 0.1 * 2),
        ({"missing": "ema", "excess": "proxy"}, [0.5, 1 / 6], 0.1 * (0.1 - 0.5)),
        ({"missing": "ema", "prior": "shares"}, [0.25, 0.25], math.log(1 / 3) + 0.1 * 2),
        ({"missing": "ema", "prior": {"one": 1, "low": 3, "unused": 9}}, [0.75, 1 / 12], math.log(3) + 0.1 * 2),
        ({"missing": "ema", "prior": "shares", "tau": 2}, [0.25, 0.25], math.log(1 / 3) + 0.2 / 1.2),
    ],
)
def test_a_step_by_hand(kind: str, settings: dict[str, Any], first: list[float], climbed: float) -> None:
    row_weights, group_weights = stepped(**{"kind": kind, "step_size": 0.1, "tau": 0.0} | settings)
    assert row_weights == pytest.approx([first[0], first[1], first[1], first[1]])
    assert odds(group_weights) == pytest.approx(climbed)


def test_settings_of_group_dro_alone() -> None:
    # C / sqrt(n): 100 windows of low, 300 of one.
    _, weights = stepped(kind="group_dro", missing="ema", step_size=0.1, adjustment=30.0)
    assert odds(weights) == pytest.approx(0.1 * (2 + 30 / 10 - 30 / math.sqrt(300)))
    _, weights = stepped(kind="group_dro", alpha=0.5)
    assert weights == pytest.approx([0.5, 0.5])
    assert isinstance(objective(kind="group_dro"), GroupDROObjective)


def test_settings_of_also_alone() -> None:
    row_weights, weights = stepped(kind="also", weighting="group_sum", step_size=0.1, tau=0.0)
    assert row_weights == pytest.approx([0.25] * 4)
    assert odds(weights) == pytest.approx(0.0)  # 2/4 times sums of 3 each
    found, model = objective(kind="also", mode="descent_ascent", tau=0.3), nn.Linear(2, 1)
    assert isinstance(found, ALSOObjective)
    config = OptimizerConfig(learning_rate=0.5, betas=(0.7, 0.8), epsilon=1e-5, weight_decay=0.3)
    optimizer = found.optimizer(model, config, torch.device("cpu"))
    assert isinstance(optimizer, ALSO)
    assert optimizer.mode == "descent_ascent"
    for group, decay in zip(optimizer.param_groups, (0.3, 0.0), strict=True):  # matrices decay, biases do not
        assert (group["lr"], group["betas"], group["eps"], group["decoupled"]) == (0.5, (0.7, 0.8), 1e-5, True)
        assert group["weight_decay"] == decay


def test_doremi_by_hand() -> None:
    """Algorithm 1 of the paper, with the excess losses of three steps; a source that is absent keeps its last one."""
    doremi, model = DoReMiObjective(2, step_size=1.5, smoothing=0.1), nn.Linear(2, 1)
    doremi.optimizer(model, OptimizerConfig(), torch.device("cpu"))
    weights, mean = [0.5, 0.5], [0.0, 0.0]
    for ids, losses, excess in (
        ([0, 1, 1], [0.4, 0.0, 0.2], [0.4, 0.1]),
        ([1, 1], [0.5, 0.9], [0.4, 0.7]),
        ([0, 1], [0.0, 0.3], [0.0, 0.3]),
    ):
        with doremi.step(torch.tensor(ids)) as row_weights:
            expected = [weights[group] / ids.count(group) for group in ids]
            assert row_weights.tolist() == pytest.approx(expected), "of the step before"
            doremi.observe(torch.tensor(losses), torch.tensor(ids))
        raised = [weight * math.exp(1.5 * each) for weight, each in zip(weights, excess, strict=True)]
        weights = [0.9 * weight / sum(raised) + 0.1 / 2 for weight in raised]
        mean = [total + weight / 3 for total, weight in zip(mean, weights, strict=True)]
        assert doremi.group_weights.tolist() == pytest.approx(weights, abs=1e-6)
    assert doremi.mean_group_weights.tolist() == pytest.approx(mean, abs=1e-6)


def test_a_step_that_fails_leaves_the_parameters_where_they_were() -> None:
    found, model = objective(kind="also"), nn.Linear(2, 1)
    assert found is not None
    optimizer = found.optimizer(model, OptimizerConfig(), torch.device("cpu"))
    with found.step(IDS):
        model(torch.ones(4, 2)).sum().backward()
        found.observe(LOSSES, IDS)
    optimizer.step()
    before = model.weight.detach().clone()

    def failing() -> None:
        with found.step(IDS):
            assert not torch.equal(model.weight, before)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert torch.equal(model.weight, before)


def test_also_has_one_default_of_each_setting_in_run_files_and_in_python() -> None:
    config = ALSOConfig()
    defaults = {name: parameter.default for name, parameter in inspect.signature(ALSO.__init__).parameters.items()}
    for name in ("tau", "step_size", "missing", "mode", "weighting"):
        assert getattr(config, name) == defaults[name]
        if name != "weighting":
            assert getattr(ALSOSettings(), name) == defaults[name]
