"""Two processes train what one does, whatever their shares of the batch and wherever one of them took over."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mixray.store import Storage
from mixray.training import CompletionsAlone, StorageCheckpoint, World, train

ROOT = Path(__file__).parents[2]

WORKER = """
import sys, json
import torch, torch.distributed as dist
sys.path.insert(0, {tests!r})
from conftest import ToyCompletions, ToyModel, ToyStream, toy_config
from mixray.errors import StageError
from mixray.store import Storage
from mixray.training import CompletionsAlone, HeldOut, StorageCheckpoint, World, train

rank, folder, micro_batch, storage = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Storage(sys.argv[4])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{{folder}}/rendezvous", rank=rank, world_size=2)
torch.manual_seed(0)
model = ToyModel()
seen, saved, stream = [], [], ToyCompletions() if {completions} else ToyStream()

class Watched(StorageCheckpoint):
    def latest(self):
        assert rank == 0, "only rank 0 reads: two reads need not agree"
        if {failing}:
            raise StageError("a checkpoint cannot be read", got="timed out")
        return super().latest()

    def save(self, step, state):
        saved.append(step)
        super().save(step, state)

def judged():
    model.eval()
    with torch.inference_mode():
        loss = float(model(torch.arange(10)[None], use_cache=False).logits.square().mean())
    model.train()
    return {{"sample": loss}}

report = train(
    model, CompletionsAlone(stream) if {completions} else stream, steps=12,
    config=toy_config(batch=5, micro_batch=micro_batch), device=torch.device("cpu"),
    seed=1, world=World(rank, 2), checkpoint=Watched(storage, "checkpoint"), progress=seen.append,
    held_out=HeldOut(judged, 3),
)
torch.save({{"weights": model.state_dict(), "losses": [r.loss for r in report.records],
            "held_out": [r.step for r in report.records if r.held_out], "seen": len(seen),
            "saved": saved, "reads": stream.reads[1:]}},
           f"{{folder}}/rank-{{rank}}.pt")
dist.destroy_process_group()
"""


def run_two(
    folder: Path, micro_batch: int, failing: bool = False, uri: str = "", completions: bool = False
) -> list[tuple[int, str]]:
    """Return the exit status and the standard error of both workers. ``uri``: of the storage of their checkpoints."""
    script = folder / "worker.py"
    script.write_text(WORKER.format(tests=str(Path(__file__).parent), failing=failing, completions=completions))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "GLOO_SOCKET_IFNAME": "lo"}
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(folder), str(micro_batch), uri or str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    return [(worker.returncode, error) for worker, error in zip(workers, errors, strict=True)]


def train_with_two(folder: Path, micro_batch: int, *, completions: bool = False) -> list[dict]:
    ended = run_two(folder, micro_batch, completions=completions)
    assert [status for status, _ in ended] == [0, 0], "\n".join(error for _, error in ended)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("started_by_one", [False, True], ids=["from the start", "taking over half-way"])
def test_two_workers_with_uneven_shares_train_what_one_does(
    toy: SimpleNamespace, tmp_path: Path, started_by_one: bool
) -> None:
    config = toy.config(batch=5, micro_batch=2)
    alone = toy.model()
    report = train(alone, toy.stream(), steps=12, config=config, device=torch.device("cpu"), seed=1)

    if started_by_one:
        inner, saves = StorageCheckpoint(Storage(str(tmp_path)), "checkpoint"), iter(range(4))

        class Dying:
            latest = inner.latest

            def save(self, step: int, state: dict) -> None:
                inner.save(step, state)
                if next(saves) == 1:
                    raise toy.stopped

        with pytest.raises(toy.stopped):
            train(
                toy.model(),
                toy.stream(),
                steps=12,
                config=config,
                device=torch.device("cpu"),
                seed=1,
                world=World(),
                checkpoint=Dying(),
            )

    start = 6 if started_by_one else 0
    first, second = train_with_two(tmp_path, micro_batch=2)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(first["weights"][name], value, rtol=0, atol=1e-5)
        assert torch.equal(first["weights"][name], second["weights"][name])
    assert first["losses"] == pytest.approx([record.loss for record in report.records], abs=1e-5)
    assert second["losses"] == first["losses"]
    assert (first["held_out"], second["held_out"]) == ([step for step in (4, 8, 12) if step > start], []), (
        "rank 0 judges"
    )
    assert first["seen"] == second["seen"] == 12 - start
    assert first["saved"] == [step for step in (3, 6, 9, 12) if step > start]
    assert second["saved"] == []
    assert first["reads"] == [(5 * step, 5 * step + 2) for step in range(start, 12)]
    assert second["reads"] == [(5 * step + 2, 5 * step + 5) for step in range(start, 12)]
    assert StorageCheckpoint(Storage(str(tmp_path)), "checkpoint").latest()["step"] == 12


def test_completions_weigh_what_their_tokens_do_on_any_number_of_workers(toy: SimpleNamespace, tmp_path: Path) -> None:
    """Windows with few tokens to train on fall unevenly on the workers and the micro-batches."""
    alone, config = toy.model(), toy.config(batch=5)
    stream = CompletionsAlone(toy.completions())
    report = train(alone, stream, steps=12, config=config, device=torch.device("cpu"), seed=1)
    first, second = train_with_two(tmp_path, micro_batch=2, completions=True)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(first["weights"][name], value, rtol=0, atol=1e-5)
        assert torch.equal(first["weights"][name], second["weights"][name])
    assert first["losses"] == pytest.approx([record.loss for record in report.records], abs=1e-5)


def test_a_checkpoint_that_rank_0_cannot_read_ends_every_worker(tmp_path: Path) -> None:
    for status, error in run_two(tmp_path, micro_batch=2, failing=True):
        assert status == 1
        assert "StageError: a checkpoint cannot be read" in error
        assert "timed out" in error
    assert not list(tmp_path.glob("rank-*.pt"))
