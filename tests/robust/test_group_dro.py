"""Group DRO: Algorithm 1 by hand, resumption, micro-batches, adjustments, CVaR, excess losses, bad input."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from mixray.errors import InputError
from mixray.robust import GroupDRO
from mixray.robust.group_dro import cvar_weights

IDS = torch.tensor([0, 0, 0, 1, 2, 2])
LOSSES = torch.tensor([0.5, 1.0, 1.5, 4.0, 2.0, 3.0])
MEANS = torch.tensor([1.0, 4.0, 2.5], dtype=torch.float64)


def test_a_step_by_hand() -> None:
    group_dro = GroupDRO(3, step_size=0.1)
    losses = LOSSES.clone().requires_grad_()
    value = group_dro(losses, IDS)
    value.backward()
    expected = (0.1 * MEANS).softmax(0)
    torch.testing.assert_close(group_dro.group_weights, expected)
    assert value.item() == pytest.approx(float(expected @ MEANS))
    torch.testing.assert_close(losses.grad, (expected / torch.tensor([3, 1, 2]))[IDS].float())


@pytest.mark.parametrize("prior", [[3, 1, 2], None], ids=["the batch's shares", "uniform, groups of one size"])
def test_weights_that_are_the_shares_give_the_gradient_of_erm(prior: list[float] | None) -> None:
    ids = IDS if prior else torch.tensor([0, 1, 2, 2, 1, 0])
    torch.manual_seed(0)
    model, inputs, labels = nn.Linear(4, 3), torch.randn(6, 4), torch.randint(0, 3, (6,))
    losses = cross_entropy(model(inputs), labels, reduction="none")
    robust = torch.autograd.grad(GroupDRO(3, step_size=0.0, prior=prior)(losses, ids), model.weight, retain_graph=True)
    plain = torch.autograd.grad(losses.mean(), model.weight)
    torch.testing.assert_close(robust[0], plain[0], rtol=1e-6, atol=1e-8)


def batches(steps: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [(torch.rand(7, generator=generator), torch.randint(0, 4, (7,), generator=generator)) for _ in range(steps)]


SETTINGS: list[dict[str, Any]] = [
    {},
    {"missing": "inverse_presence"},
    {"missing": "inverse_presence", "presence": [0.9, 0.8, 0.7, 0.6]},
    {"missing": "present_only"},
    {"missing": "ema", "tau": 0.3, "prior": [1, 2, 3, 4]},
    {"missing": "uniform_sampling"},
    {"alpha": 0.4, "training_counts": [10, 20, 30, 40], "adjustment": -0.3},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("stop", [1, 13])
def test_a_resumed_run_is_the_run_that_never_stopped(settings: dict[str, Any], stop: int) -> None:
    whole = GroupDRO(4, **settings)
    values = [float(whole(*batch)) for batch in batches(30)]
    first = GroupDRO(4, **settings)
    for batch in batches(30)[:stop]:
        first(*batch)
    second = GroupDRO(4, **settings)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert [float(second(*batch)) for batch in batches(30)[stop:]] == values[stop:]
    assert all(torch.equal(one, other) for one, other in zip(whole.buffers(), second.buffers(), strict=True))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("micro_batch", [1, 3, 7])
def test_micro_batches_add_up_to_the_step(settings: dict[str, Any], micro_batch: int) -> None:
    whole, parts = GroupDRO(4, **settings), GroupDRO(4, **settings)
    for losses, ids in batches(20):
        one, other = losses.clone().requires_grad_(), losses.clone().requires_grad_()
        with whole.accumulating(ids):
            value = whole(one, ids)
            value.backward()
        total = 0.0
        with parts.accumulating(ids):
            for part in torch.arange(len(ids)).flip(0).split(micro_batch):
                value_of_part = parts(other[part], ids[part])
                value_of_part.backward()
                total += value_of_part.item()
        assert total == pytest.approx(value.item(), rel=1e-6)
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-6, atol=0)
        torch.testing.assert_close(parts.group_weights, whole.group_weights, rtol=1e-12, atol=0)


def test_inside_accumulating_a_step_is_weighed_with_the_weights_it_began_with() -> None:
    late, early = GroupDRO(3, step_size=0.1), GroupDRO(3, step_size=0.1)
    with late.accumulating(IDS):
        assert float(late(LOSSES, IDS)) == pytest.approx(float(MEANS.mean()))
    early(LOSSES, IDS)
    assert torch.equal(late.group_weights, early.group_weights)


def test_evaluation_changes_nothing_and_divides_by_no_presence() -> None:
    group_dro = GroupDRO(3, step_size=0.1)
    group_dro(LOSSES[:4], IDS[:4])
    group_dro.eval()
    before = copy.deepcopy(group_dro.state_dict())
    weights = group_dro.group_weights
    assert float(group_dro(LOSSES[3:], IDS[3:])) == pytest.approx(float(weights[1:] @ MEANS[1:]))
    torch.testing.assert_close(dict(group_dro.state_dict()), dict(before), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("adjustment", [2.0, [0.0, 1.0, 1.0], [-3.0, 0.0, 2.0]])
def test_adjustments_of_any_sign_move_the_weights_and_stay_out_of_the_loss(adjustment: float | list[float]) -> None:
    counts = torch.tensor([4.0, 16.0, 100.0], dtype=torch.float64)
    group_dro = GroupDRO(3, step_size=0.1, adjustment=adjustment, training_counts=counts)
    value = group_dro(LOSSES, IDS)
    expected = (0.1 * (MEANS + torch.as_tensor(adjustment) / counts.sqrt())).softmax(0)
    torch.testing.assert_close(group_dro.group_weights, expected)
    assert value.item() == pytest.approx(float(expected @ MEANS))


@given(
    losses=st.lists(st.floats(-3, 3), min_size=4, max_size=4),
    shares=st.lists(st.floats(0.05, 1), min_size=4, max_size=4),
    alpha=st.floats(0.01, 1),
)
def test_cvar_weights_are_the_worst_within_their_limits(losses: list[float], shares: list[float], alpha: float) -> None:
    """The best vertex of {q <= share / alpha, sum q = 1}: all groups at their limit or 0 but one."""
    loss, share = torch.tensor(losses).double(), torch.tensor(shares).double()
    share /= share.sum()
    weights = cvar_weights(loss, share, alpha)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
    assert bool((weights <= share / alpha + 1e-12).all())
    best = -float("inf")
    for size in range(4):
        for full in itertools.combinations(range(4), size):
            left = 1 - float(share[list(full)].sum()) / alpha
            for last in set(range(4)) - set(full):
                if -1e-12 <= left <= float(share[last]) / alpha + 1e-12:
                    best = max(best, float(loss[list(full)] @ share[list(full)]) / alpha + left * float(loss[last]))
    assert float(weights @ loss) == pytest.approx(best, abs=1e-9)


def test_cvar_at_1_is_erm_and_at_0_the_worst_group() -> None:
    for alpha, expected in [(1.0, [3 / 6, 1 / 6, 2 / 6]), (0.01, [0, 1, 0])]:
        group_dro = GroupDRO(3, alpha=alpha, training_counts=[3, 1, 2])
        value = group_dro(LOSSES, IDS)
        assert group_dro.group_weights.tolist() == pytest.approx(expected, abs=1e-12)
        assert value.item() == pytest.approx(float(torch.tensor(expected).double() @ MEANS))


def test_cvar_gives_no_weight_to_a_group_not_seen_yet() -> None:
    group_dro = GroupDRO(3, alpha=0.5, training_counts=[1, 1, 1])
    group_dro(LOSSES[:4], IDS[:4])
    assert group_dro.group_weights.tolist() == pytest.approx([1 / 3, 2 / 3, 0])


@pytest.mark.parametrize(("clip", "judged"), [(False, [-0.5, 3.0, 0.0]), (True, [0.0, 3.0, 0.25])])
def test_excess_losses_judge_and_losses_are_differentiated(clip: bool, judged: list[float]) -> None:
    reference = torch.tensor([1.5, 1.5, 1.5, 1.0, 2.5, 2.5])
    means = torch.tensor(judged, dtype=torch.float64)
    group_dro, plain = GroupDRO(3, step_size=0.1, clip_excess=clip), GroupDRO(3, step_size=0.0)
    losses = LOSSES.clone().requires_grad_()
    value = group_dro(losses, IDS, reference_losses=reference)
    value.backward()
    expected = (0.1 * means).softmax(0)
    torch.testing.assert_close(group_dro.group_weights, expected)
    assert value.item() == pytest.approx(float(expected @ means))
    again = LOSSES.clone().requires_grad_()
    plain.load_state_dict(group_dro.state_dict())
    plain.eval()(again, IDS).backward()
    torch.testing.assert_close(losses.grad, again.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_narrow_losses_are_summed_wide(dtype: torch.dtype) -> None:
    group_dro = GroupDRO(1)
    value = group_dro(torch.full((100_000,), 1.0, dtype=dtype), torch.zeros(100_000, dtype=torch.int32))
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert value.item() == pytest.approx(1.0, rel=1e-4)


def test_a_worker_without_rows_takes_part() -> None:
    group_dro = GroupDRO(2)
    empty = torch.zeros(0, requires_grad=True)
    group_dro(empty, []).backward()
    assert empty.grad is not None
    assert group_dro.group_weights.tolist() == pytest.approx([0.5, 0.5])


CALLS = [
    ((LOSSES, [0, 0, 0, 1, 2, 3]), "belong to no group", "group_ids, rows 5"),
    ((LOSSES, [-1, 0, 0, 1, 7, 2]), "2 of 6 rows belong to no group", "group_ids, rows 0, 4"),
    ((LOSSES, IDS[:5]), "the same length", "group_ids"),
    ((LOSSES, IDS.float()), "a vector of integers", "group_ids"),
    ((LOSSES, IDS.bool()), "a vector of integers", "group_ids"),
    ((LOSSES, IDS[:, None]), "a vector of integers", "group_ids"),
    ((LOSSES.mean(), IDS), "one number per row", "losses"),
    ((LOSSES.long(), IDS), "one number per row", "losses"),
]


@pytest.mark.parametrize(("call", "what", "where"), CALLS)
def test_rows_that_do_not_fit_are_refused(call: Any, what: str, where: str) -> None:
    group_dro = GroupDRO(3)
    with pytest.raises(InputError, match=what) as caught:
        group_dro(*call)
    assert caught.value.where == where
    assert float(group_dro.group_losses.steps) == 0


REFUSALS = [
    ({"alpha": 0.0, "training_counts": [1, 1, 1]}, "alpha"),
    ({"alpha": 1.5, "training_counts": [1, 1, 1]}, "alpha"),
    ({"alpha": 0.5}, "training_counts"),
    ({"alpha": 0.5, "training_counts": [1, 1, 1], "tau": 1.0}, "alpha"),
    ({"adjustment": 1.0}, "training_counts"),
    ({"adjustment": [1.0, 2.0], "training_counts": [1, 1, 1]}, "adjustment"),
    ({"training_counts": [5, 0, 2]}, "training_counts, group 1"),
    ({"tau": -1.0}, "tau"),
]


@pytest.mark.parametrize(("settings", "where"), REFUSALS)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], where: str) -> None:
    with pytest.raises(InputError) as caught:
        GroupDRO(3, **settings)
    assert caught.value.where == where


def test_a_prior_of_zero_is_for_groups_without_rows() -> None:
    group_dro = GroupDRO(3, prior=[1, 1, 0])
    group_dro(LOSSES[:4], IDS[:4])
    with pytest.raises(InputError, match="the prior is 0 for a group that has rows") as caught:
        group_dro(LOSSES, IDS)
    assert caught.value.where == "prior, group 2"


def test_a_step_in_parts_is_whole_or_an_error() -> None:
    group_dro = GroupDRO(3)
    with pytest.raises(InputError, match="announced") as caught, group_dro.accumulating(IDS):
        group_dro(LOSSES[:4], IDS[:4])
    assert caught.value.got == "losses of 4 rows"
    step = group_dro.accumulating(IDS)
    with pytest.raises(InputError, match="cannot begin here"), step, group_dro.accumulating(IDS):
        pass
    assert group_dro.group_weights.tolist() == pytest.approx([1 / 3] * 3)
    with pytest.raises(InputError, match="evaluation mode"), group_dro.eval().accumulating(IDS):
        pass


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("cast", [lambda module: module.to(torch.bfloat16), nn.Module.half, nn.Module.float])
def test_a_model_that_is_cast_leaves_the_weights_precise(cast: Any, settings: dict[str, Any]) -> None:
    precise = GroupDRO(4, step_size=1e-3, **settings)
    within = nn.ModuleDict({"model": nn.Linear(2, 2), "loss": copy.deepcopy(precise)})
    cast(within)
    assert within["model"].weight.dtype != torch.float64
    for losses, ids in batches(20):
        assert torch.equal(within["loss"](losses, ids), precise(losses, ids))
    assert torch.equal(within["loss"].group_weights, precise.group_weights)
    assert within["loss"].group_weights.dtype == torch.float64


def test_a_loss_moves_with_its_model() -> None:
    group_dro = GroupDRO(3).to("meta")
    assert {buffer.device.type for buffer in group_dro.buffers()} == {"meta"}
