"""The weights' fixed points and limits, in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixray.errors import InputError
from mixray.robust.group_weights import GroupWeights

EVERY = torch.ones(3, dtype=torch.bool)
LOSSES = torch.tensor([0.2, 1.0, 0.7], dtype=torch.float64)
PRIOR = [0.5, 0.3, 0.2]


def climbed(weights: GroupWeights, losses: torch.Tensor, steps: int, moving: torch.Tensor = EVERY) -> torch.Tensor:
    for _ in range(steps):
        weights.log_weights.copy_(weights.ascended(losses, moving))
    return weights.log_weights.exp()


@settings(max_examples=30)
@given(
    losses=st.lists(st.floats(-5, 5), min_size=3, max_size=3),
    prior=st.lists(st.floats(0.01, 1), min_size=3, max_size=3),
    tau=st.floats(0.3, 10),
    step_size=st.floats(0.2, 10),
)
def test_the_fixed_point_is_the_prior_times_exp_loss_over_tau(
    losses: list[float], prior: list[float], tau: float, step_size: float
) -> None:
    loss = torch.tensor(losses, dtype=torch.float64)
    weights = GroupWeights(3, step_size=step_size, tau=tau, prior=prior)
    # Each step brings the logarithms closer by 1 / (1 + step_size tau) <= 1 / 1.06.
    found = climbed(weights, loss, 800)
    expected = (torch.tensor(prior, dtype=torch.float64).log() + loss / tau).softmax(0)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("tau", [1e12, math.inf])
def test_a_large_tau_gives_the_prior(tau: float) -> None:
    found = climbed(GroupWeights(3, step_size=0.5, tau=tau, prior=PRIOR), LOSSES, 3)
    torch.testing.assert_close(found, torch.tensor(PRIOR, dtype=torch.float64), rtol=0, atol=1e-11)


@pytest.mark.parametrize("tau", [1e-3, 0.0])
def test_a_small_tau_gives_the_worst_group(tau: float) -> None:
    found = climbed(GroupWeights(3, step_size=0.5, tau=tau, prior=PRIOR), LOSSES, 5000)
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-12)


def test_without_a_step_size_nothing_moves() -> None:
    found = climbed(GroupWeights(3, step_size=0.0, tau=math.inf, prior=PRIOR), LOSSES, 3)
    torch.testing.assert_close(found, torch.tensor(PRIOR, dtype=torch.float64), rtol=1e-15, atol=0)


@given(
    losses=st.lists(st.floats(-50, 50), min_size=3, max_size=3),
    moving=st.lists(st.booleans(), min_size=3, max_size=3),
    tau=st.sampled_from([0.0, 0.1, 3.0]),
)
def test_groups_that_do_not_move_keep_their_weight_to_the_last_bit(
    losses: list[float], moving: list[bool], tau: float
) -> None:
    weights, mask = GroupWeights(3, step_size=0.5, tau=tau, prior=PRIOR), torch.tensor(moving)
    before = weights.log_weights.clone()
    after = climbed(weights, torch.tensor(losses, dtype=torch.float64), 1, mask)
    assert torch.equal(weights.log_weights[~mask], before[~mask])
    assert float(after.sum()) == pytest.approx(1, abs=1e-12)


def test_a_weight_comes_back_from_where_a_float_ends() -> None:
    weights = GroupWeights(2, step_size=1.0, tau=0.0, prior=None)
    every = torch.ones(2, dtype=torch.bool)
    climbed(weights, torch.tensor([0.0, 10.0], dtype=torch.float64), 100, every)
    assert float(weights.log_weights[0]) == pytest.approx(-1000, rel=1e-12)
    found = climbed(weights, torch.tensor([10.0, 0.0], dtype=torch.float64), 100, every)
    torch.testing.assert_close(found, torch.tensor([0.5, 0.5], dtype=torch.float64), rtol=1e-9, atol=0)


@pytest.mark.parametrize("tau", [0.0, 1.0, math.inf])
def test_a_prior_of_zero_is_for_ever(tau: float) -> None:
    weights = GroupWeights(3, step_size=1.0, tau=tau, prior=[1, 1, 0])
    found = climbed(weights, torch.tensor([0.0, 0.0, 9.0], dtype=torch.float64), 50)
    torch.testing.assert_close(found, torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64), rtol=1e-12, atol=0)


REFUSALS = [
    ({"tau": -0.1}, "tau"),
    ({"tau": math.nan}, "tau"),
    ({"step_size": -1.0}, "step_size"),
    ({"step_size": math.inf}, "step_size"),
    ({"prior": [0.5, 0.5]}, "prior"),
    ({"prior": [0.5, 0.6, -0.1]}, "prior"),
    ({"prior": [0.0, 0.0, 0.0]}, "prior"),
    ({"prior": [1.0, 1.0, math.nan]}, "prior"),
]


@pytest.mark.parametrize(("change", "where"), REFUSALS)
def test_settings_that_mean_nothing_are_refused(change: dict, where: str) -> None:
    with pytest.raises(InputError) as caught:
        GroupWeights(3, **({"step_size": 0.1, "tau": 0.0, "prior": None} | change))
    assert caught.value.where == where


def test_no_groups_at_all_are_refused() -> None:
    with pytest.raises(InputError, match="at least one group"):
        GroupWeights(0, step_size=0.1, tau=0.0, prior=None)
