"""Which steps are recorded and saved, and when a run is stopped."""

import itertools
import math

import pytest
import torch

from mixray.errors import StageError
from mixray.training.progress import Recorder, milestones, record_steps
from mixray.training.world import World


@pytest.mark.parametrize("steps", [1, 2, 7, 99, 100, 101, 250, 12_345])
def test_records_are_few_even_and_end_at_the_end(steps: int) -> None:
    records = record_steps(steps)
    gaps = [b - a for a, b in itertools.pairwise([0, *records])]
    assert records[-1] == steps
    assert len(records) == min(steps, 100)
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("steps", [1, 3, 100, 999])
@pytest.mark.parametrize("checkpoints", [1, 3, 4, 200])
def test_saves_are_records_and_include_the_end(steps: int, checkpoints: int) -> None:
    saves = milestones(steps, checkpoints)
    assert saves <= set(record_steps(steps))
    assert steps in saves
    assert len(saves) == min(checkpoints, steps, 100)


def test_saves_are_even() -> None:
    assert sorted(milestones(1000, 4)) == [250, 500, 750, 1000]


NORM = torch.tensor(0.75)


def recorded(losses: list[float]) -> Recorder:
    """A recorder that saw one loss a step, a record each."""
    recorder = Recorder(len(losses), 10, torch.device("cpu"), World())
    for step, loss in enumerate(losses, start=1):
        recorder.add(torch.tensor(loss))
        assert recorder.record(step, 0.5, NORM) is not None
    return recorder


def test_a_record_holds_the_mean_since_the_last() -> None:
    recorder = Recorder(200, 10, torch.device("cpu"), World())
    recorder.add(torch.tensor(3.0))
    assert recorder.record(1, 0.1, NORM) is None
    recorder.add(torch.tensor(2.0))
    record = recorder.record(2, 0.2, NORM)
    assert record is not None
    assert (record.step, record.steps, record.tokens, record.loss, record.learning_rate) == (2, 200, 20, 2.5, 0.2)
    assert record.gradient_norm == 0.75
    assert record.tokens_per_second > 0


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(loss: float) -> None:
    with pytest.raises(StageError, match="not finite") as caught:
        recorded([4.0, 3.5, loss, 3.0])
    message = str(caught.value)
    for part in ("step 3 of 4", "learning rate 0.5", "at first 4", "lower optimizer.learning_rate"):
        assert part in message


def test_in_a_long_run_a_loss_that_is_not_finite_is_seen_within_ten_steps() -> None:
    recorder = Recorder(100_000, 10, torch.device("cpu"), World())
    for step in range(1, 40):
        recorder.add(torch.tensor(math.nan if step >= 31 else 4.0))
        recorder.record(step, 0.5, NORM)
    with pytest.raises(StageError, match="not finite") as caught:
        recorder.record(40, 0.5, NORM)
    assert "step 40 of 100000" in str(caught.value)


def test_a_loss_far_above_its_beginning_for_long_stops_the_run() -> None:
    with pytest.raises(StageError, match="training diverged") as caught:
        recorded([4.0, 3.0, *[6.1] * 10, 3.0])
    assert "step 12 of 13" in str(caught.value)
    assert "loss 6.1 nats per token" in str(caught.value)


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param([4.0, *[9.0] * 9, 5.0, *[9.0] * 9], id="spikes"),
        pytest.param([4.0, *[5.9] * 50], id="a little above"),
        pytest.param([4.0, *[3.0] * 50], id="stuck"),
    ],
)
def test_spikes_and_plateaus_do_not_stop_it(losses: list[float]) -> None:
    assert len(recorded(losses).records) == len(losses)
