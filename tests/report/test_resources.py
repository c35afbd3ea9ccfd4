"""Bytes per parameter are those that the optimizers keep; durations are written in the unit that suits them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from mixray.config.training import OptimizerConfig
from mixray.progress import duration_text
from mixray.report import Devices, ModelsToTrain, ResourceForecast, Speed
from mixray.report.resources import ADAMW_BYTES, ALSO_BYTES, STATE_BYTES, StageCost
from mixray.robust import ALSO
from mixray.training.objective import adamw

SIDE = 64
"""Of the only parameter, a square matrix: scalars such as step counters hardly count beside it."""


def kept_bytes(optimizer: torch.optim.Optimizer, model: torch.nn.Module, *others: Any) -> tuple[float, float]:
    """What a step holds in memory, and what a checkpoint holds, per parameter."""
    tensors = [*model.parameters(), *(p.grad for p in model.parameters() if p.grad is not None)]
    state = [value for values in optimizer.state.values() for value in values.values() if value.ndim]
    size = sum(value.nbytes for value in [*tensors, *state, *others])
    saved = sum(value.nbytes for value in [*model.parameters(), *state])
    return size / SIDE**2, saved / SIDE**2


def test_adamw_keeps_sixteen_bytes_a_parameter() -> None:
    model = torch.nn.Linear(SIDE, SIDE, bias=False)
    optimizer = adamw(model, OptimizerConfig(), torch.device("cpu"))
    model(torch.ones(2, SIDE)).sum().backward()
    optimizer.step()
    assert kept_bytes(optimizer, model) == (ADAMW_BYTES, STATE_BYTES)


@pytest.mark.parametrize(("mode", "memory", "disk"), [("optimistic", ALSO_BYTES, 16), ("descent_ascent", 16, 12)])
def test_also_keeps_more_where_it_looks_ahead(mode: Any, memory: int, disk: int) -> None:
    model = torch.nn.Linear(SIDE, SIDE, bias=False)
    also = ALSO(model.parameters(), 2, mode=mode)
    for _ in range(2):
        also.zero_grad()
        also.look_ahead()
        also.loss(model(torch.ones(2, SIDE)).sum(dim=1), [0, 1]).backward()
        also.step()
    assert kept_bytes(also, model, *also._base.values()) == (memory, disk)


WORK = partial(ModelsToTrain, name="arms", parameters=10**9, tokens=1000, scored_tokens=600, device_kind="GPU")


@pytest.mark.parametrize(
    ("models", "workers", "per_worker", "count", "expected"),
    [
        (5, (1, 1), 1.0, 2, (1, 2, 300.0, 10.0)),
        (5, (1, 1), 0.5, 2, (1, 4, 200.0, 5.0)),
        (5, (2, 4), 1.0, 8, (4, 2, 75.0, 2.5)),
        (5, (2, 4), 1.0, 3, (3, 1, 5000 / 30, 20 / 3)),
        (5, (1, 2), 1.0, None, (2, 1, 250.0, 20.0)),
    ],
)
def test_times_follow_from_how_many_train_at_once(
    models: int, workers: tuple[int, int], per_worker: float, count: int | None, expected: tuple[float, ...]
) -> None:
    work = WORK(models=models, workers=workers, devices_per_worker=per_worker)
    cost = StageCost.of(work, Speed(10.0, "stated"), Devices("GPU", count, "stated", None, "this machine"))
    assert (cost.workers, cost.at_once) == expected[:2]
    assert (cost.training_seconds, cost.scoring_seconds) == pytest.approx(expected[2:])
    assert cost.device_hours == pytest.approx((models * 1000 + 600 / 3) / 10 * per_worker / 3600)


@pytest.mark.parametrize(("is_optimistic", "bytes_each"), [(False, 16), (True, 24)])
def test_only_what_is_trained_has_gradients_moments_and_a_copy_on_disk(is_optimistic: bool, bytes_each: int) -> None:
    work = WORK(models=5, workers=(1, 1), devices_per_worker=1.0, trained=10**6, is_optimistic=is_optimistic)
    assert work.memory_bytes == 4 * (10**9 - 10**6) + bytes_each * 10**6
    cost = StageCost.of(work, None, Devices("GPU", 1, "stated", None, "this machine"))
    assert (cost.disk_bytes, cost.checkpoint_bytes) == (5 * 4 * 10**6, 3 * (12 + 4 * is_optimistic) * 10**6)


def test_workers_that_share_a_gpu_share_its_memory() -> None:
    def misfits(per_worker: float, memory: float, activations: int | None = None, models: int = 5) -> tuple[str, ...]:
        devices = Devices("GPU", 8, "stated", memory, "stated")
        work = WORK(models=models, workers=(1, 1), devices_per_worker=per_worker, activation_bytes=activations)
        return ResourceForecast.of([work], [None], [devices], None).misfits

    assert misfits(1.0, 16e9) == misfits(0.5, 32e9) == ()
    assert misfits(1.0, 15e9) == (
        "arms: one worker needs 16.0 GB for weights, gradients and optimizer state; a GPU has 15.0 GB",
    )
    assert misfits(1.0, 16e9, activations=10**8) == (
        "arms: one worker needs 16.0 GB for weights, gradients and optimizer state and 100 MB for activations; "
        "a GPU has 16.0 GB",
    )
    assert misfits(0.5, 31e9)[0].startswith("arms: 2 workers need 32.0 GB")
    assert misfits(0.5, 31e9, models=1) == ()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.25 s"), (25, "25 s"), (119, "119 s"), (120, "2.0 min"), (18_000, "5.0 h"), (1e6, "12 days")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("hours", "text"), [(0.0123, "0.012"), (3.14, "3.1"), (12.4, "12"), (99.7, "100"), (1234, "1,234")]
)
def test_hours_of_devices(hours: float, text: str) -> None:
    work = WORK(models=1, workers=(1, 1), devices_per_worker=1.0, scored_tokens=0)
    speed = Speed(1000 / 3600 / hours, "stated")
    forecast = ResourceForecast.of([work], [speed], [Devices("GPU", 1, "stated", None, "this machine")], None)
    assert f" and {text} GPU-hours," in " ".join(map(str, forecast.tables()[1:]))
