"""Groups that batches lack: who wins, at which batch size, and what is exact about it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from mixray.errors import InputError
from mixray.robust import GroupDRO, presence_probability
from mixray.robust.group_losses import GroupLosses

SHARES = torch.tensor([0.73, 0.22, 0.04, 0.01])
LOSSES = torch.tensor([1.0, 1.0, 1.0, 1.5])
STEPS = 5000


def batches(shares: torch.Tensor, batch: int, steps: int = STEPS) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.multinomial(shares, batch, replacement=True, generator=generator) for _ in range(steps)]


def weights_after(group_dro: GroupDRO, batches: list[torch.Tensor]) -> list[float]:
    for ids in batches:
        group_dro(LOSSES[ids], ids)
    return group_dro.group_weights.tolist()


def naive_weights(batches: list[torch.Tensor]) -> list[float]:
    """The published rule: an absent group's loss is 0."""
    log_weights = torch.zeros(4, dtype=torch.float64)
    for ids in batches:
        log_weights[ids.unique()] += 0.01 * LOSSES[ids.unique()]
    return log_weights.softmax(0).tolist()


@pytest.mark.parametrize("batch", [8, 32, 128])
@pytest.mark.parametrize(
    "policy",
    [
        {"missing": "inverse_presence"},
        {"missing": "inverse_presence", "presence": "known"},
        {"missing": "ema"},
        {"missing": "uniform_sampling"},
    ],
    ids=lambda policy: " ".join(policy.values()),
)
def test_the_worst_group_wins_at_every_batch_size(policy: dict, batch: int) -> None:
    settings = dict(policy)
    if "presence" in policy:
        settings["presence"] = presence_probability(SHARES, batch)
    shares = torch.full((4,), 0.25) if policy["missing"] == "uniform_sampling" else SHARES
    assert weights_after(GroupDRO(4, **settings), batches(shares, batch, 3000))[3] > 0.99


# The worst group's weight. The limit of the naive rule is the largest loss times P(group in batch).
@pytest.mark.parametrize(("batch", "low", "high"), [(8, 0.0, 1e-6), (32, 0.0, 1e-6), (128, 0.9, 1.0)])
def test_the_naive_rule_starves_it(batch: int, low: float, high: float) -> None:
    assert low <= naive_weights(batches(SHARES, batch))[3] <= high


@pytest.mark.parametrize(("batch", "low", "high"), [(8, 0.5, 0.7), (32, 0.98, 1.0), (128, 0.999, 1.0)])
def test_present_only_is_slow_for_groups_that_seldom_meet(batch: int, low: float, high: float) -> None:
    assert low <= weights_after(GroupDRO(4, missing="present_only"), batches(SHARES, batch))[3] <= high


def test_present_only_moves_no_weight_the_wrong_way() -> None:
    group_dro, last = GroupDRO(4, missing="present_only"), 0.25
    for ids in batches(SHARES, 8, 300):
        group_dro(LOSSES[ids], ids)
        now = float(group_dro.group_weights[3])
        assert now >= last - 1e-12
        last = now


def test_presence_probability_counts_batches() -> None:
    """All 3^4 batches of 4 rows."""
    shares = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    expected = torch.zeros(3, dtype=torch.float64)
    for batch in itertools.product(range(3), repeat=4):
        expected[list(set(batch))] += shares[list(batch)].prod()
    torch.testing.assert_close(presence_probability(shares, 4), expected, rtol=1e-12, atol=0)


def test_known_presence_is_right_on_average_over_all_batches() -> None:
    """The mean step of the log-weights, and the mean gradient, are those of a batch that has every group."""
    shares, batch = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64), 3
    group_means = torch.tensor([1.0, -2.0, 5.0], dtype=torch.float64)
    presence = presence_probability(shares, batch)
    climbs, slopes = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for rows in itertools.product(range(3), repeat=batch):
        group_dro, ids = GroupDRO(3, missing="inverse_presence", presence=presence, step_size=0.1), torch.tensor(rows)
        means = group_means.clone().requires_grad_()
        with group_dro.accumulating(ids):
            group_dro(means[ids], ids).backward()
        probability = shares[ids].prod()
        log_weights = group_dro.group_weights.log()
        climbs += probability * (log_weights - log_weights[0])
        slopes += probability * means.grad
    torch.testing.assert_close(climbs, 0.1 * (group_means - group_means[0]), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(slopes, torch.full((3,), 1 / 3, dtype=torch.float64), rtol=1e-10, atol=0)


def test_estimated_presence_adds_what_is_promised_on_average() -> None:
    """All 2^8 histories of a group that is there with probability .3: step t adds 1 - .7^t of its loss."""
    added = torch.zeros(8, dtype=torch.float64)
    for history in itertools.product([0, 1], repeat=8):
        probability = math.prod(0.3 if there else 0.7 for there in history)
        losses = GroupLosses(1, missing="inverse_presence", presence=None, smoothing=0.1)
        for step, there in enumerate(history):
            counts = torch.tensor([float(there)], dtype=torch.float64)
            means, scale, _ = losses.update(2.0 * counts, counts)
            added[step] += probability * float(means * scale) / 2
    expected = 1 - 0.7 ** torch.arange(1, 9, dtype=torch.float64)
    torch.testing.assert_close(added, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("missing", ["inverse_presence", "present_only", "ema"])
def test_a_group_that_never_comes_changes_nothing_for_the_others(missing: str) -> None:
    four, five = GroupDRO(4, missing=missing), GroupDRO(5, missing=missing)
    for ids in batches(SHARES, 16, 200):
        four(LOSSES[ids], ids)
        five(LOSSES[ids], ids)
    others = five.group_weights[:4]
    torch.testing.assert_close(others / others.sum(), four.group_weights, rtol=1e-10, atol=0)


def test_ema_takes_the_first_loss_whole_and_then_averages() -> None:
    losses = GroupLosses(2, missing="ema", presence=None, smoothing=0.25)
    for mean in (4.0, 8.0):
        found, _, moving = losses.update(torch.tensor([3 * mean, 0.0]), torch.tensor([3.0, 0.0]))
    assert float(found[0]) == 5.0
    assert moving.tolist() == [True, False]


@pytest.mark.parametrize("batch", [1, 8, 128])
def test_a_uniform_sampler_is_believed_and_another_is_not(batch: int) -> None:
    weights_after(GroupDRO(4, missing="uniform_sampling"), batches(torch.full((4,), 0.25), batch, 2000))
    with pytest.raises(InputError, match="does not draw groups uniformly") as caught:
        weights_after(GroupDRO(4, missing="uniform_sampling"), batches(SHARES, batch, 100))
    assert "inverse_presence" in str(caught.value)


def test_one_group_is_always_uniform() -> None:
    group_dro = GroupDRO(1, missing="uniform_sampling")
    for _ in range(10):
        group_dro(torch.ones(100), torch.zeros(100, dtype=torch.int64))
    assert group_dro.group_weights.tolist() == [1.0]


@pytest.mark.parametrize("missing", ["inverse_presence", "present_only", "ema"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_returned_and_not_remembered(missing: str, bad: float) -> None:
    ids, whole = torch.tensor([0, 0, 1]), torch.tensor([1.0, 2.0, 3.0])
    for first in (True, False):
        group_dro = GroupDRO(2, missing=missing)
        if not first:
            group_dro(whole, ids)
        before = group_dro.group_weights
        assert not group_dro(torch.tensor([1.0, bad, 3.0]), ids).isfinite()
        assert torch.equal(group_dro.group_weights, before)
        assert group_dro(whole, ids).isfinite()
        assert group_dro.group_weights[1] > before[1]


REFUSALS = [
    ({"missing": "zero"}, "missing", "inverse_presence | present_only | ema | uniform_sampling"),
    ({"smoothing": 0.0}, "smoothing", "above 0, at most 1"),
    ({"missing": "inverse_presence", "presence": [0.5, 0.0]}, "presence", "above 0, at most 1"),
    ({"missing": "inverse_presence", "presence": [0.5, 1.1]}, "presence", "above 0, at most 1"),
    ({"missing": "inverse_presence", "presence": [0.5]}, "presence", "2 finite numbers"),
    ({"missing": "ema", "presence": [0.5, 0.5]}, "presence", None),
]


@pytest.mark.parametrize(("settings", "where", "wanted"), REFUSALS)
def test_settings_that_mean_nothing_are_refused(settings: dict, where: str, wanted: str | None) -> None:
    with pytest.raises(InputError) as caught:
        GroupDRO(2, **settings)
    assert (caught.value.where, caught.value.wanted) == (where, wanted)


def test_a_group_that_first_appears_late_does_not_explode() -> None:
    group_dro = GroupDRO(2, missing="inverse_presence", step_size=0.0)
    for _ in range(999):
        group_dro(torch.ones(4), [0, 0, 0, 0])
    losses = torch.ones(4, requires_grad=True)
    group_dro(losses, [0, 0, 0, 1]).backward()
    assert losses.grad is not None
    assert float(losses.grad[3]) == pytest.approx(0.5 * 10)
