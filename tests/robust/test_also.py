"""ALSO: the update against a scalar reference, Adam as a special case, and all that the released code gets wrong."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy
from torch.optim import lr_scheduler as schedulers

from mixray.errors import InputError
from mixray.robust import ALSO

MODES = ["optimistic", "descent_ascent"]


def problem(seed: int = 0) -> tuple[nn.Sequential, list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]:
    """A small classifier and 12 batches of 10 rows: inputs, labels, groups."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    batches = [(torch.randn(10, 5), torch.randint(0, 3, (10,)), torch.randint(0, 4, (10,))) for _ in range(12)]
    return model, batches


def losses_of(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return cross_entropy(model(inputs), labels, reduction="none")


def take_step(also: ALSO, model: nn.Module, batch: tuple[torch.Tensor, ...]) -> float:
    inputs, labels, ids = batch
    also.zero_grad()
    also.look_ahead()
    loss = also.loss(losses_of(model, inputs, labels), ids)
    loss.backward()
    also.step()
    return loss.item()


def flat(model: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def reference(steps: int, *, lr: float, l2: float, gamma: float, tau: float, scale: float) -> list[list[float]]:
    """Optimistic ALSO in scalars: L_g = (theta - c_g)^2 / 2 with c = (-1, 3) -> [theta, pi_0] after each step."""
    theta, weights, m, u, last, scores, found = 0.5, [0.5, 0.5], 0.0, 0.0, None, None, []

    def adam(gradient: float, m: float, u: float, step: int) -> tuple[float, float, float]:
        gradient += l2 * theta
        m, u = 0.9 * m + 0.1 * gradient, 0.99 * u + 0.01 * gradient**2
        return -lr * (m / (1 - 0.9**step)) / (math.sqrt(u / (1 - 0.99**step)) + 1e-8), m, u

    def mirror(weights: list[float], scores: list[float]) -> list[float]:
        keep = 1 / (1 + gamma * tau)
        raw = [(weights[g] * math.exp(gamma * scores[g]) * 0.5 ** (gamma * tau)) ** keep for g in (0, 1)]
        return [r / sum(raw) for r in raw]

    for step in range(1, steps + 1):
        half = theta if last is None else theta + adam(scale * last, m, u, step)[0]
        pi_half = weights if scores is None else mirror(weights, scores)
        last = pi_half[0] * (half + 1) + pi_half[1] * (half - 3)
        scores = [(half + 1) ** 2 / 2, (half - 3) ** 2 / 2]
        move, m, u = adam(last, m, u, step)
        theta, weights = theta + move, mirror(weights, scores)
        found.append([theta, weights[0]])
    return found


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_the_optimistic_step_is_the_scalar_reference(scale: float, l2: float) -> None:
    theta = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
    settings = {"lr": 0.1, "betas": (0.9, 0.99), "weight_decay": l2, "step_size": 0.2, "tau": 0.7}
    settings["missing"] = "inverse_presence"  # the paper's own rule where no group is missing
    also = ALSO([theta], 2, look_ahead_scale=scale, **settings)
    found = []
    for _ in range(25):
        also.zero_grad()
        also.look_ahead()
        losses = torch.stack([(theta + 1) ** 2 / 2, (theta - 3) ** 2 / 2, (theta - 3) ** 2 / 2])
        also.loss(losses, [0, 1, 1]).backward()
        also.step()
        found.append([theta.item(), also.group_weights[0].item()])
    expected = reference(25, lr=0.1, l2=l2, gamma=0.2, tau=0.7, scale=scale)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("decoupled", "torchs"), [(False, torch.optim.Adam), (True, torch.optim.AdamW)])
def test_with_one_group_and_no_look_ahead_it_is_adam(decoupled: bool, torchs: type[torch.optim.Optimizer]) -> None:
    settings: dict[str, Any] = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    (one, batches), (other, _) = problem(), problem()
    also = ALSO(one.parameters(), 1, decoupled=decoupled, mode="descent_ascent", **settings)
    adam = torchs(other.parameters(), fused=True, **settings)
    for inputs, labels, _ in batches:
        also.zero_grad()
        also.loss(losses_of(one, inputs, labels), torch.zeros(10, dtype=torch.int64)).backward()
        also.step()
        adam.zero_grad()
        losses_of(other, inputs, labels).mean().backward()
        adam.step()
    torch.testing.assert_close(flat(one), flat(other), rtol=0, atol=2e-7)


@pytest.mark.parametrize("weighting", ["group_sum", "sample", "group_mean"])
def test_uniform_weights_give_the_gradient_of_erm(weighting: str) -> None:
    model, batches = problem()
    inputs, labels, ids = batches[0]
    groups, prior = {"group_sum": (4, None), "sample": (10, None), "group_mean": (4, torch.bincount(ids))}[weighting]
    if weighting == "sample":
        ids = torch.randperm(10)
    also = ALSO(model.parameters(), groups, weighting=weighting, step_size=0.0, prior=prior, mode="descent_ascent")
    losses = losses_of(model, inputs, labels)
    robust = torch.autograd.grad(also.loss(losses, ids), list(model.parameters()), retain_graph=True)
    plain = torch.autograd.grad(losses.mean(), list(model.parameters()))
    for one, other in zip(robust, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tau", [0.3, 2.0, 1e9, 1e-3])
def test_the_weights_end_at_the_prior_times_exp_loss_over_tau(mode: str, tau: float) -> None:
    prior = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    also = ALSO([nn.Parameter(torch.zeros(1))], 3, tau=tau, step_size=0.5, prior=prior, mode=mode)
    losses = torch.tensor([0.2, 1.0, 0.7, 0.7])
    for _ in range(400 if tau > 0.1 else 4000):
        also.look_ahead()
        also.loss(losses, [0, 1, 2, 2])
        also.step()
    expected = (prior.log() + torch.tensor([0.2, 1.0, 0.7]) / tau).softmax(0)
    torch.testing.assert_close(also.group_weights, expected, rtol=1e-6, atol=1e-9)


# 95 rows of loss .3, 5 of loss 2: the sum of the easy majority is larger, its mean is not.
@pytest.mark.parametrize(("weighting", "winner"), [("group_mean", 1), ("group_sum", 0)])
def test_means_find_the_worst_group_and_sums_the_largest(weighting: str, winner: int) -> None:
    also = ALSO([nn.Parameter(torch.zeros(1))], 2, weighting=weighting, step_size=0.02, tau=0.01)
    ids = torch.tensor([0] * 95 + [1] * 5)
    for _ in range(2000):
        also.look_ahead()
        also.loss(torch.where(ids == 0, 0.3, 2.0), ids)
        also.step()
    assert also.group_weights[winner] > 0.99


def test_sample_weights_find_the_worst_rows_from_batches_of_few() -> None:
    losses = torch.linspace(0, 1, 40)
    also = ALSO([nn.Parameter(torch.zeros(1))], 40, weighting="sample", step_size=0.01, tau=0.1, mode="descent_ascent")
    generator = torch.Generator().manual_seed(0)
    for _ in range(1000):
        for rows in torch.randperm(40, generator=generator).split(10):
            also.loss(losses[rows], rows)
            also.step()
    expected = (losses.double() / 0.1).softmax(0)
    torch.testing.assert_close(also.group_weights, expected, rtol=0, atol=0.01)


def scheduler_of(name: str, also: ALSO) -> Any:
    makers = {
        "LambdaLR": lambda: schedulers.LambdaLR(also, lambda epoch: 0.9**epoch),
        "MultiplicativeLR": lambda: schedulers.MultiplicativeLR(also, lambda _: 0.9),
        "StepLR": lambda: schedulers.StepLR(also, 2),
        "MultiStepLR": lambda: schedulers.MultiStepLR(also, [2, 4]),
        "ConstantLR": lambda: schedulers.ConstantLR(also),
        "LinearLR": lambda: schedulers.LinearLR(also),
        "ExponentialLR": lambda: schedulers.ExponentialLR(also, 0.9),
        "SequentialLR": lambda: schedulers.SequentialLR(
            also, [schedulers.LinearLR(also), schedulers.ExponentialLR(also, 0.9)], [3]
        ),
        "CosineAnnealingLR": lambda: schedulers.CosineAnnealingLR(also, 10),
        "ChainedScheduler": lambda: schedulers.ChainedScheduler(
            [schedulers.LinearLR(also), schedulers.ExponentialLR(also, 0.9)], also
        ),
        "ReduceLROnPlateau": lambda: schedulers.ReduceLROnPlateau(also, patience=0, threshold=10.0),
        "CyclicLR": lambda: schedulers.CyclicLR(also, 1e-3, 1e-2, step_size_up=3, cycle_momentum=False),
        "CosineAnnealingWarmRestarts": lambda: schedulers.CosineAnnealingWarmRestarts(also, 5),
        "OneCycleLR": lambda: schedulers.OneCycleLR(also, 0.1, total_steps=20),
        "PolynomialLR": lambda: schedulers.PolynomialLR(also, 10),
    }
    return makers[name]()


@pytest.mark.parametrize("name", sorted(set(schedulers.__all__) - {"LRScheduler"}))
def test_every_scheduler_sets_the_rate_and_resumes(name: str) -> None:
    """Stopped after 5 of 12 steps and loaded into fresh objects, the run is the same to the last bit."""

    def advance(parts: tuple[nn.Module, ALSO, Any], batches: list) -> None:
        for batch in batches:
            value = take_step(parts[1], parts[0], batch)
            parts[2].step(*([value] if name == "ReduceLROnPlateau" else []))
            rates.append(parts[1].param_groups[0]["lr"])

    def fresh() -> tuple[nn.Module, ALSO, Any]:
        model = problem()[0]
        also = ALSO(model.parameters(), 4, lr=0.01, weight_decay=0.01)
        return model, also, scheduler_of(name, also)

    rates: list[float] = []
    batches = problem()[1]
    whole, stopped, resumed = fresh(), fresh(), fresh()
    advance(whole, batches)
    assert len(set(rates)) > 1
    advance(stopped, batches[:5])
    states = copy.deepcopy([part.state_dict() for part in stopped])
    for part, state in zip(resumed, states, strict=True):
        part.load_state_dict(state)
    advance(resumed, batches[5:])
    assert torch.equal(flat(resumed[0]), flat(whole[0]))
    assert torch.equal(resumed[1].group_weights, whole[1].group_weights)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("settings", [{"missing": "ema"}, {"missing": "present_only"}, {"weighting": "group_sum"}])
@pytest.mark.parametrize("stop", [1, 7])
def test_a_resumed_run_is_the_run_that_never_stopped(mode: str, settings: dict[str, Any], stop: int) -> None:
    def fresh() -> tuple[nn.Module, ALSO]:
        model = problem()[0]
        return model, ALSO(model.parameters(), 4, mode=mode, prior=[1, 2, 3, 4], tau=0.5, decoupled=True, **settings)

    batches = problem()[1]
    (whole, also), (stopped, first), (resumed, second) = fresh(), fresh(), fresh()
    values = [take_step(also, whole, batch) for batch in batches]
    for batch in batches[:stop]:
        take_step(first, stopped, batch)
    resumed.load_state_dict(stopped.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(second.group_weights, first.group_weights)
    assert [take_step(second, resumed, batch) for batch in batches[stop:]] == values[stop:]
    assert torch.equal(flat(resumed), flat(whole))


def test_the_state_of_plain_adam_is_refused() -> None:
    model = problem()[0]
    adam, also = torch.optim.Adam(model.parameters()), ALSO(model.parameters(), 4)
    with pytest.raises(InputError, match="a state of ALSO is incomplete"):
        also.load_state_dict(adam.state_dict())


def test_a_state_from_the_cpu_is_loaded_to_where_the_parameters_are() -> None:
    gpu = FakeTensorMode(allow_non_fake_inputs=True)  # tensors that say that they are on a GPU, which need none
    with gpu:
        parameter = nn.Parameter(torch.zeros(3, 2, device="cuda"))
        parameter.grad = torch.ones_like(parameter)
    # The weights of the groups are where the first parameter is.
    also = ALSO([nn.Parameter(torch.zeros(2)), parameter], 2)
    with gpu:
        also.step()
        state = also.state_dict()
        state["state"] = {1: {name: tensor.cpu() for name, tensor in state["state"][1].items()}}
        also.load_state_dict(state)
    assert {name: tensor.device.type for name, tensor in also.state[parameter].items()} == dict.fromkeys(
        ("step", "exp_avg", "exp_avg_sq", "last_gradient"), "cuda"
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("weighting", ["group_mean", "group_sum"])
@pytest.mark.parametrize("micro_batch", [1, 3])
def test_micro_batches_add_up_to_the_step(mode: str, weighting: str, micro_batch: int) -> None:
    (one, batches), (other, _) = problem(), problem()
    settings = {"mode": mode, "weighting": weighting, "lr": 0.01, "step_size": 0.3, "eps": 1e-3}
    whole, parts = ALSO(one.parameters(), 4, **settings), ALSO(other.parameters(), 4, **settings)
    for inputs, labels, ids in batches:
        value = take_step(whole, one, (inputs, labels, ids))
        parts.zero_grad()
        parts.look_ahead(ids)
        total = 0.0
        for part in torch.arange(10).split(micro_batch):
            loss = parts.loss(losses_of(other, inputs[part], labels[part]), ids[part])
            loss.backward()
            total += loss.item()
        parts.step()
        assert total == pytest.approx(value, rel=1e-5)
    torch.testing.assert_close(flat(other), flat(one), rtol=0, atol=1e-5)
    torch.testing.assert_close(parts.group_weights, whole.group_weights, rtol=1e-5, atol=0)


def test_a_closure_does_all_of_it() -> None:
    (one, batches), (other, _) = problem(), problem()
    by_hand, closed = ALSO(one.parameters(), 4), ALSO(other.parameters(), 4)
    for batch in batches:
        inputs, labels, ids = batch

        def closure(inputs: torch.Tensor = inputs, labels: torch.Tensor = labels, ids: torch.Tensor = ids) -> Any:
            closed.zero_grad()
            loss = closed.loss(losses_of(other, inputs, labels), ids)
            loss.backward()
            return loss

        assert closed.step(closure).item() == take_step(by_hand, one, batch)
    assert torch.equal(flat(one), flat(other))


def test_each_gradient_enters_the_moments_once() -> None:
    model, batches = problem()
    also = ALSO(model.parameters(), 4)
    for batch in batches[:3]:
        take_step(also, model, batch)
    also.look_ahead()
    assert {float(also.state[p]["step"]) for p in model.parameters()} == {3.0}
    also.look_back()


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_parameter_without_a_gradient_stays(decay: float) -> None:
    """Two heads used in turn; the one that rests was moved by look_ahead and must be back."""
    torch.manual_seed(0)
    heads = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)])
    also = ALSO(heads.parameters(), 2, lr=0.1, weight_decay=decay, decoupled=True)
    moved = 0
    for step in range(8):
        resting, before, rested = heads[1 - step % 2], flat(heads[1 - step % 2]), flat(heads[step % 2])
        also.zero_grad()
        also.look_ahead()
        moved += not torch.equal(flat(resting), before)
        assert torch.equal(flat(heads[step % 2]), rested)  # without a last gradient there is nothing to look ahead with
        also.loss(losses_of(heads[step % 2], torch.randn(4, 3), torch.tensor([0, 1, 0, 1])), [0, 1, 1, 0]).backward()
        also.step()
        assert torch.equal(flat(resting), before)
    assert moved == 7  # all but the first step had something to look ahead with


def test_looking_back_is_exact_and_forgets_the_step() -> None:
    model, batches = problem()
    also = ALSO(model.parameters(), 4, lr=0.1)
    take_step(also, model, batches[0])
    before, state = flat(model), copy.deepcopy(also.state_dict())
    for _ in range(2):
        also.look_ahead(batches[1][2])
        assert not torch.equal(flat(model), before)
    with pytest.raises(InputError, match="at the look-ahead point"):
        also.state_dict()
    also.look_back()
    assert torch.equal(flat(model), before)
    torch.testing.assert_close(also.state_dict(), state, rtol=0, atol=0, equal_nan=True)


def test_settings_per_parameter_group_are_kept() -> None:
    fast, slow = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    also = ALSO([{"params": [fast], "lr": 0.1}, {"params": [slow], "weight_decay": 0.5}], 1, lr=0.001, decoupled=True)
    also.look_ahead()
    also.loss((fast + slow), [0, 0]).backward()
    also.step()
    torch.testing.assert_close(fast.detach(), torch.full((2,), 0.9))
    torch.testing.assert_close(slow.detach(), torch.full((2,), 1 - 0.001 * 0.5 - 0.001))


def test_an_overflow_that_a_grad_scaler_finds_skips_the_step_whole() -> None:
    model, batches = problem()
    other = problem()[0]
    also, unscaled = ALSO(model.parameters(), 4, lr=0.1), ALSO(other.parameters(), 4, lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for number, (inputs, labels, ids) in enumerate(batches):
        before, weights = flat(model), also.group_weights
        also.zero_grad()
        also.look_ahead()
        scaler.scale(also.loss(losses_of(model, inputs, labels), ids)).backward()
        overflow = number in (0, 4)
        if overflow:
            model[0].weight.grad[0, 0] = torch.inf
        scaler.step(also)
        scaler.update()
        if overflow:
            assert torch.equal(flat(model), before)
            assert torch.equal(also.group_weights, weights)
        else:
            take_step(unscaled, other, (inputs, labels, ids))
    torch.testing.assert_close(flat(model), flat(other), rtol=0, atol=1e-5)


def test_autocast_trains_float32_parameters() -> None:
    model, batches = problem()
    also = ALSO(model.parameters(), 4, lr=0.01)
    values = []
    for inputs, labels, ids in batches * 5:
        also.zero_grad()
        also.look_ahead()
        with torch.autocast("cpu", torch.bfloat16):
            loss = also.loss(losses_of(model, inputs, labels), ids)
        loss.backward()
        also.step()
        values.append(loss.item())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert sum(values[-12:]) < sum(values[:12])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_leaves_the_weights(bad: float) -> None:
    also = ALSO([nn.Parameter(torch.zeros(1))], 2, step_size=0.5)
    also.look_ahead()
    also.loss(torch.tensor([1.0, 2.0]), [0, 1])
    also.step()
    before = also.group_weights
    also.look_ahead()
    assert not also.loss(torch.tensor([1.0, bad]), [0, 1]).isfinite()
    also.step()
    assert torch.equal(also.group_weights, before)


def test_excess_losses_judge_and_losses_are_differentiated() -> None:
    theta = nn.Parameter(torch.tensor([1.0, 2.0]))
    also = ALSO([theta], 2, step_size=0.1, tau=0.0, mode="descent_ascent")
    value = also.loss(theta * 1.0, [0, 1], reference_losses=torch.tensor([0.0, 4.0]))
    value.backward()
    also.step()
    assert value.item() == pytest.approx((1.0 - 2.0) / 2)
    torch.testing.assert_close(theta.grad, torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(also.group_weights, torch.tensor([0.1, -0.2], dtype=torch.float64).softmax(0))


def announced_short(also: ALSO) -> None:
    also.look_ahead([0, 1])
    also.loss(torch.ones(1), [0])
    also.step()


def called_twice(also: ALSO) -> None:
    also.look_ahead()
    also.loss(torch.ones(2), [0, 1])
    also.loss(torch.ones(2), [0, 1])


def prior_of_zero(also: ALSO) -> None:
    also.look_ahead()
    also.loss(torch.ones(1), [2])


ORDERS = [
    (lambda also: also.loss(torch.ones(1), [0]), "takes its losses at the look-ahead point"),
    (announced_short, "not the rows that were announced"),
    (called_twice, "more losses than the step has rows"),
    (prior_of_zero, "the prior is 0 for a group that has rows"),
    (lambda also: also.look_ahead([0, 3]), "1 of 2 rows belong to no group"),
]


@pytest.mark.parametrize(("calls", "what"), ORDERS)
def test_calls_out_of_order_are_refused_and_change_nothing(calls: Any, what: str) -> None:
    parameter = nn.Parameter(torch.ones(1))
    also = ALSO([parameter], 3, prior=[1, 1, 0])
    with pytest.raises(InputError, match=what):
        calls(also)
    assert parameter.item() == 1.0
    assert also.group_weights.tolist() == pytest.approx([0.5, 0.5, 0.0])


REFUSALS = [
    ({"tau": -0.1}, "tau"),
    ({"lr": -1.0}, "lr"),
    ({"weight_decay": math.inf}, "weight_decay"),
    ({"betas": (0.9, 1.0)}, "betas"),
    ({"mode": "extragradient"}, "mode"),
    ({"weighting": "mean"}, "weighting"),
    ({"prior": [1.0]}, "prior"),
    ({"look_ahead_scale": -1.0}, "look_ahead_scale"),
    ({"weighting": "group_sum", "missing": "present_only"}, "missing, presence"),
    ({"weighting": "sample", "presence": [1.0, 1.0]}, "missing, presence"),
]


@pytest.mark.parametrize(("settings", "where"), REFUSALS)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], where: str) -> None:
    with pytest.raises(InputError) as caught:
        ALSO([nn.Parameter(torch.ones(1))], 2, **settings)
    assert caught.value.where == where


def test_a_grad_scaler_leaves_out_parameter_groups_without_gradients() -> None:
    used, unused = nn.Linear(3, 2), nn.Linear(3, 2)
    also = ALSO([{"params": used.parameters()}, {"params": unused.parameters()}], 2)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = unused.weight.clone()
    also.look_ahead()
    losses = cross_entropy(used(torch.randn(4, 3)), torch.tensor([0, 1, 0, 1]), reduction="none")
    scaler.scale(also.loss(losses, [0, 1, 0, 1])).backward()
    scaler.step(also)
    assert torch.equal(unused.weight, before)


def test_sparse_gradients_are_refused() -> None:
    table = nn.Embedding(5, 2, sparse=True)
    also = ALSO(table.parameters(), 2)
    also.look_ahead()
    also.loss(table(torch.tensor([1, 2])).sum(1), [0, 1]).backward()
    with pytest.raises(InputError, match="sparse") as caught:
        also.step()
    assert "sparse=False" in str(caught.value)
