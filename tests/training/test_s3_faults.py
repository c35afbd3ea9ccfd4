"""Training that goes on from checkpoints on an S3 server which answers badly: the same weights, or an error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mixray.errors import StageError
from mixray.store import Storage, retrying
from mixray.training import StorageCheckpoint, train
from tests.store.faulty_s3 import Fault, FaultyS3
from tests.training.test_workers import run_two

STEPS, NEVER = 12, 10**6
FAULTS = {
    "one failed read of the newest state": Fault("GET", "step-000006", 503),
    "one denial that there is a newest state": Fault("GET", "step-000006", 404),
    "a stalled read of the newest state": Fault("GET", "step-000006", seconds=4.0),
    "a newest state that is not there": Fault("HEAD", "step-000006", 404, times=NEVER),
    "one failed listing": Fault("GET", "list-type=2", 503),
}


@pytest.fixture
def uri(faulty_s3: FaultyS3, s3_uri: str) -> str:
    return faulty_s3.uri(s3_uri)


class Dying(StorageCheckpoint):
    """Its process dies right after the second save, of step 6."""

    stopped: type[Exception]
    saves = 0

    def save(self, step: int, state: dict) -> None:
        super().save(step, state)
        self.saves += 1
        if self.saves == 2:
            raise self.stopped


def trained(toy: SimpleNamespace, checkpoint: StorageCheckpoint) -> torch.nn.Module:
    torch.manual_seed(0)
    model = toy.model()
    config = toy.config(batch=5, micro_batch=2)
    train(model, toy.stream(), steps=STEPS, config=config, device=torch.device("cpu"), seed=1, checkpoint=checkpoint)
    return model


def die_half_way(toy: SimpleNamespace, uri: str) -> StorageCheckpoint:
    """Train up to step 6, and return the checkpoint that a new process finds."""
    dying = Dying(Storage(uri), "checkpoint")
    dying.stopped = toy.stopped
    with pytest.raises(toy.stopped):
        trained(toy, dying)
    return StorageCheckpoint(Storage(uri), "checkpoint")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_resumed_training_ends_with_the_same_bits(
    toy: SimpleNamespace, faulty_s3: FaultyS3, uri: str, tmp_path: Path, fault: str
) -> None:
    undisturbed = trained(toy, StorageCheckpoint(Storage(str(tmp_path)), "checkpoint"))
    checkpoint = die_half_way(toy, uri)
    faulty_s3.faults.append(replace(FAULTS[fault]))
    resumed = trained(toy, checkpoint)
    assert faulty_s3.faults[0].times < FAULTS[fault].times, "the fault did not occur"
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value)


def test_a_state_that_cannot_be_read_is_an_error_and_no_model(
    toy: SimpleNamespace, faulty_s3: FaultyS3, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "TRIES", 2)
    checkpoint = die_half_way(toy, uri)
    faulty_s3.faults.append(Fault("GET", "step-000006", 503, times=NEVER))
    with pytest.raises(StageError, match="reading or writing failed") as caught:
        trained(toy, checkpoint)
    assert "/checkpoint/step-000006-" in str(caught.value.where)


def test_two_workers_of_which_one_cannot_read_for_a_moment_agree(
    toy: SimpleNamespace, faulty_s3: FaultyS3, uri: str, tmp_path: Path
) -> None:
    undisturbed = trained(toy, StorageCheckpoint(Storage(str(tmp_path)), "elsewhere"))
    die_half_way(toy, uri)
    faulty_s3.faults.append(Fault("GET", "step-000006", 404))
    ended = run_two(tmp_path, micro_batch=2, uri=uri)
    assert [status for status, _ in ended] == [0, 0], "\n".join(error for _, error in ended)
    assert faulty_s3.faults[0].times == 0, "the fault did not occur"
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["seen"] == second["seen"] == STEPS - 6
    for name, value in undisturbed.state_dict().items():
        torch.testing.assert_close(first["weights"][name], value, rtol=0, atol=1e-5)
        assert torch.equal(first["weights"][name], second["weights"][name])
