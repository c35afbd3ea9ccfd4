"""Training a toy model on a toy source: it learns, resumes exactly, and reads every window once."""

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mixray.errors import StageError
from mixray.training import Batch, HeldOut, Preempted, Progress, TrainReport, World, step_count, train
from mixray.training.batch import row_batch

CPU = torch.device("cpu")


def run(toy: SimpleNamespace, **options: Any) -> tuple[nn.Module, TrainReport]:
    """Train a fresh toy model; ``options`` go to the model, the config or ``train``."""
    model = toy.model(dropout=options.pop("dropout", 0.0))
    config = toy.config(**{key: options.pop(key) for key in list(options) if key in type(toy.config()).model_fields})
    stream = options.pop("stream", None) or toy.stream()
    report = train(model, stream, **({"steps": 20, "config": config, "device": CPU, "seed": 1} | options))
    return model, report


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten() for value in model.state_dict().values()]).clone()


def timeless(records: Any) -> list[Progress]:
    return [replace(record, tokens_per_second=0.0, time=0) for record in records]


def test_it_learns_more_than_how_often_tokens_occur(toy: SimpleNamespace) -> None:
    _, report = run(toy, steps=150)
    # Tokens are uniform over 13; the next one is the last plus 1 (90 %) or 2.
    unigram, conditional = np.log(13), -0.9 * np.log(0.9) - 0.1 * np.log(0.1)
    assert report.records[0].loss > 0.9 * unigram
    assert conditional - 0.05 < report.records[-1].loss < 0.3 * unigram


def test_the_report_counts_what_was_trained_on(toy: SimpleNamespace) -> None:
    seen: list[Progress] = []
    _, report = run(toy, steps=250, progress=seen.append)
    assert tuple(seen) == report.records
    assert report.tokens == 250 * 8 * toy.window
    assert len(report.records) == 100
    assert list(report.curve) == [record.step * 8 * toy.window for record in report.records]
    assert report.tokens_per_second == pytest.approx(report.tokens / report.seconds)
    assert [record.step for record in report.records][:4] == [3, 5, 8, 10]


@pytest.mark.parametrize(("tokens", "expected"), [(1280, 1), (2559, 1), (2560, 2), (1279, 0)])
def test_step_count_rounds_down(tokens: int, expected: int) -> None:
    assert step_count(tokens, batch=10, window=128) == expected


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 8, 100])
def test_accumulated_gradients_are_those_of_the_whole_batch(toy: SimpleNamespace, micro_batch: int) -> None:
    whole, report = run(toy)
    parts, accumulated = run(toy, micro_batch=micro_batch)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=0, atol=2e-5)
    assert accumulated.records[-1].loss == pytest.approx(report.records[-1].loss, abs=1e-5)


@pytest.mark.parametrize("saves_before_death", [1, 2, 3])
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_resumed_run_is_the_run_that_never_stopped(
    toy: SimpleNamespace, saves_before_death: int, micro_batch: int | None
) -> None:
    options = {"steps": 23, "dropout": 0.2, "micro_batch": micro_batch}
    model, report = run(toy, **options)

    checkpoint, stream = toy.checkpoint(stop_after=saves_before_death), toy.stream()
    with pytest.raises(toy.stopped):
        run(toy, **options, checkpoint=checkpoint, stream=stream)
    done = max(checkpoint.states)
    assert done == [6, 12, 18, 23][saves_before_death - 1]
    torch.manual_seed(999)
    checkpoint.stop_after, stream.reads = None, []
    again, resumed = run(toy, **options, checkpoint=checkpoint, stream=stream)

    assert torch.equal(weights(again), weights(model))
    assert timeless(resumed.records) == timeless(report.records)
    assert resumed.seconds > checkpoint.states[done]["recorder"]["seconds"]
    assert stream.reads[1:] == [(step * 8, step * 8 + 8) for step in range(done, 23)]


def test_a_finished_run_is_not_trained_again(toy: SimpleNamespace) -> None:
    checkpoint = toy.checkpoint()
    model, report = run(toy, checkpoint=checkpoint)
    seen: list[Progress] = []
    again, resumed = run(toy, checkpoint=checkpoint, progress=seen.append)
    assert torch.equal(weights(again), weights(model))
    assert (resumed.records, seen) == (report.records, [])


@pytest.mark.parametrize(("name", "same"), [("seed", False), ("nothing", True)])
def test_dropout_depends_on_the_seed_alone(toy: SimpleNamespace, name: str, same: bool) -> None:
    one, _ = run(toy, dropout=0.3, seed=1)
    torch.randn(17)
    other, _ = run(toy, dropout=0.3, seed=2 if name == "seed" else 1)
    assert torch.equal(weights(one), weights(other)) == same


def test_clipping_bounds_the_step(toy: SimpleNamespace) -> None:
    norms: list[float] = []
    original = torch.optim.AdamW.step

    def spy(self: Any, *args: Any) -> Any:
        norms.append(float(torch.cat([p.grad.flatten() for g in self.param_groups for p in g["params"]]).norm()))
        return original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", spy)
        _, report = run(toy, optimizer={"clip": 0.01})
        assert max(norms) <= 0.01 * (1 + 1e-5)
        assert min(record.gradient_norm or 0 for record in report.records) > 0.1, "recorded before it is clipped"
        norms.clear()
        _, report = run(toy, optimizer={"clip": None})
        assert max(norms) > 0.1
        assert [record.gradient_norm for record in report.records] == pytest.approx(norms, rel=1e-5)


def test_a_learning_rate_far_too_high_is_named(toy: SimpleNamespace) -> None:
    with pytest.raises(StageError) as caught:
        run(toy, steps=60, optimizer={"learning_rate": 1e30, "warmup": 0.0, "clip": None})
    message = str(caught.value)
    assert "of 60" in message
    assert "learning rate" in message
    assert "lower optimizer.learning_rate" in message


def test_too_little_memory_is_named(toy: SimpleNamespace) -> None:
    def full(_: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = toy.model()
    calls = iter(range(100))
    model.after = lambda logits: logits * 1.0 if next(calls) == 0 else full(logits)  # the first pass looks for the head
    with pytest.raises(StageError, match="does not fit in the device's memory") as caught:
        train(model, toy.stream(), steps=2, config=toy.config(micro_batch=4), device=CPU, seed=0)
    assert "4 windows of 10 tokens" in str(caught.value)
    assert "lower micro_batch" in str(caught.value)


def test_bfloat16_trains_float32_weights(toy: SimpleNamespace) -> None:
    model, report = run(toy, steps=100, precision="bfloat16")
    assert weights(model).dtype == torch.float32
    assert report.records[-1].loss < 0.5 * report.records[0].loss


def test_compiling_is_asked_for_once_and_changes_nothing(toy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []

    def fake(module: nn.Module, **options: Any) -> nn.Module:
        compiled.append((type(module).__name__, options))
        return module

    monkeypatch.setattr(torch, "compile", fake)
    model, _ = run(toy, compile=True)
    assert compiled == [("ToyTrunk", {"dynamic": False})]
    other, _ = run(toy)
    assert len(compiled) == 1
    assert torch.equal(weights(model), weights(other))


def test_windows_that_cannot_be_written_to_are_fine(toy: SimpleNamespace) -> None:
    class Frozen(type(toy.stream())):  # type: ignore[misc]
        def read(self, start: int, stop: int) -> np.ndarray:
            windows = super().read(start, stop)
            windows.flags.writeable = False
            return windows

    model, _ = run(toy, stream=Frozen())
    other, _ = run(toy)
    assert torch.equal(weights(model), weights(other))


def test_a_run_that_ends_in_an_error_leaves_no_thread(toy: SimpleNamespace) -> None:
    """Whoever holds the error holds the frames in which it was raised."""
    with pytest.raises(toy.stopped) as caught:
        run(toy, checkpoint=toy.checkpoint(stop_after=1))
    assert caught.value is not None
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("mixray-batches")]


class GroupedStream:
    """The toy's windows in two groups, by turns of three."""

    def __init__(self, toy: SimpleNamespace) -> None:
        self._stream = toy.stream()

    def read(self, start: int, stop: int) -> Batch:
        return row_batch(self._stream.read(start, stop), np.arange(start, stop) // 3 % 2)


def leaves_after(*steps: int) -> World:
    """A world that must leave after these steps, counted from where a run begins or resumes."""
    calls = iter(range(1, 1000))
    return World(must_leave=lambda: next(calls) in steps)


def test_a_run_that_must_leave_loses_no_step_and_no_record(toy: SimpleNamespace) -> None:
    """Of 250 steps, records are after 3, 5, 8, 10, ... and saves after 63, 125, 188, 250: none of them after 101."""
    options = {"steps": 250, "dropout": 0.2, "group_names": ["a", "b"]}
    model, report = run(toy, **options, stream=GroupedStream(toy))
    checkpoint = toy.checkpoint()
    for leave, saved in ((101, 101), (1, 102), (147, 249)):
        with pytest.raises(Preempted):
            run(toy, **options, stream=GroupedStream(toy), checkpoint=checkpoint, world=leaves_after(leave))
        assert max(checkpoint.states) == saved
    resumed, again = run(toy, **options, stream=GroupedStream(toy), checkpoint=checkpoint, world=leaves_after(1))
    assert torch.equal(weights(resumed), weights(model))
    assert timeless(again.records) == timeless(report.records)


def held_out_of(model: nn.Module, seen: list[int]) -> HeldOut:
    """Judge a model on a window, in evaluation mode as models are when they score."""
    window = torch.arange(10)[None] % 13

    def losses() -> dict[str, float]:
        model.eval()
        with torch.inference_mode():
            logits = model(window[:, :-1], use_cache=False).logits
            loss = float(nn.functional.cross_entropy(logits[0], window[0, 1:]))
        model.train()
        seen.append(len(seen))
        return {"window": loss}

    return HeldOut(losses, 10)


def test_losses_on_held_out_data_are_measured_on_the_way_and_change_no_weight(toy: SimpleNamespace) -> None:
    plain, _ = run(toy, steps=150, dropout=0.2)
    model, seen = toy.model(dropout=0.2), list[int]()
    judged, stream, config = held_out_of(model, seen), toy.stream(), toy.config()
    report = train(model, stream, steps=150, config=config, device=CPU, seed=1, held_out=judged)
    assert torch.equal(weights(model), weights(plain))
    points = [(record.step, record.held_out["window"]) for record in report.records if record.held_out]
    assert [step for step, _ in points] == [15 * i for i in range(1, 11)]
    assert points[-1][1] < points[0][1]
    assert points[-1][1] == judged.losses()["window"], "the last point is that of the trained model"


@pytest.mark.parametrize("saves_before_death", [1, 3])
def test_a_resumed_run_keeps_its_losses_on_held_out_data_and_measures_none_twice(
    toy: SimpleNamespace, saves_before_death: int
) -> None:
    def attempt(checkpoint: Any) -> tuple[TrainReport, list[int]]:
        model, seen = toy.model(), list[int]()
        options = {"steps": 40, "config": toy.config(), "device": CPU, "seed": 1, "checkpoint": checkpoint}
        return train(model, toy.stream(), held_out=held_out_of(model, seen), **options), seen

    whole, _ = attempt(toy.checkpoint())
    checkpoint = toy.checkpoint(stop_after=saves_before_death)
    with pytest.raises(toy.stopped):
        attempt(checkpoint)
    saved, checkpoint.stop_after = max(checkpoint.states), None
    resumed, seen = attempt(checkpoint)
    assert timeless(resumed.records) == timeless(whole.records)
    assert len(seen) == sum(step > saved for step in range(4, 41, 4)) < 10


def test_the_time_of_judging_is_not_that_of_training(toy: SimpleNamespace) -> None:
    moments = iter(range(10**6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mixray.training.progress.time", SimpleNamespace(perf_counter=lambda: float(next(moments))))
        _, plain = run(toy, steps=10)

        def slow() -> dict[str, float]:
            for _ in range(1000):
                next(moments)
            return {"window": 1.0}

        _, judged = run(toy, steps=10, held_out=HeldOut(slow, 5))
    assert judged.seconds < plain.seconds + 100
    assert judged.records[-1].tokens_per_second == pytest.approx(plain.records[-1].tokens_per_second)
